package interop_test

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/interop/npm"
	"github.com/backfillhq/go/internal/needs"
)

// A peer is a Node process that runs peer.mjs.
type peer struct {
	t       *testing.T
	options map[string]any // of Graphile Worker
	cmd     *exec.Cmd
	input   io.WriteCloser
	record  *record[message]
}

// A message is one line of what a peer says.
type message struct {
	Type    string    // reply, log, event, job, stopped, or what a task's body says
	Job     *nodeJob  // reply, job, and event if it is about a job
	Error   string    // reply, stopped
	Level   string    // log
	Text    string    // log
	Name    string    // event
	Channel string    // event, if it is about a notification
	Tick    time.Time // event, if it is about a minute of cron
}

func (m message) String() string {
	switch m.Type {
	case "log":
		return fmt.Sprintf("log %s %q", m.Level, m.Text)
	case "event":
		return "event " + m.Name + " " + m.Channel
	default:
		return m.Type + " " + m.Error
	}
}

// A nodeJob is a job as Graphile Worker hands it out.
type nodeJob struct {
	ID          int64           `json:"id,string"`
	Task        string          `json:"task_identifier"`
	Payload     json.RawMessage `json:"payload"`
	Queue       string          `json:"queue_name"` // unknown where the job is added
	Key         string          `json:"key"`
	Priority    int             `json:"priority"`
	Attempts    int             `json:"attempts"`
	MaxAttempts int             `json:"max_attempts"`
	Revision    int             `json:"revision"`
	RunAt       time.Time       `json:"run_at"`
	Flags       map[string]bool `json:"flags"`
}

//go:embed peer.mjs
var peerScript string

// installed is the one installation of the process. Its context is not a test's: all tests use it. A
// usual run of all tests fetches nothing.
var installed = sync.OnceValues(func() (npm.Installation, error) {
	if needs.All() {
		return npm.Install(context.Background())
	}
	return npm.Installed(context.Background())
})

// The packages that are installed.
const (
	newest = "graphile-worker"
	older  = "graphile-worker-0.17"
	oldest = "graphile-worker-0.16"
)

// startPeer starts a Node process with the newest package for the schema of a test. It is killed at the end of the test, unless it
// was stopped.
func startPeer(f *fixture) *peer { return startPackage(f, newest) }

func startPackage(f *fixture, name string, env ...string) *peer {
	f.Helper()
	t := f.T
	packages, err := installed()
	if err != nil {
		skipped(t)
	}
	needs.That(t, err == nil, fmt.Sprintf("Graphile Worker, which BACKFILL_TEST_ALL=1 lets npm fetch (70 MB): %v", err))
	p := &peer{
		t:       t,
		options: map[string]any{"connectionString": f.db.URL, "schema": f.schema},
		cmd:     packages.Command(context.Background(), peerScript),
		record:  newRecord[message](),
	}
	p.cmd.Env = append(append(os.Environ(), "PEER_PACKAGE="+name), env...)
	p.cmd.Stderr = t.Output()
	if p.input, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	output, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		err := p.listen(output)
		p.record.end(errors.Join(err, p.cmd.Wait()))
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		_ = p.record.awaitEnd(t) // killed
	})
	return p
}

// listen takes what the process says, until it ends.
func (p *peer) listen(output io.Reader) error {
	decoder := json.NewDecoder(output)
	for {
		var m message
		err := decoder.Decode(&m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			p.cmd.Process.Kill()
			return fmt.Errorf("read what Node says: %w", err)
		}
		p.record.add(m)
	}
}

// bodies are the tasks of a peer: by name, the body of a JavaScript function, or "" for one that tells which job it has. What a body
// can use stands in peer.mjs.
type bodies map[string]string

// work starts a worker, with more options than those of every peer.
func (p *peer) work(tasks bodies, more map[string]any) {
	p.t.Helper()
	p.do(map[string]any{"request": "work", "tasks": tasks, "options": p.with(more)})
}

func (p *peer) with(more map[string]any) map[string]any {
	options := maps.Clone(p.options)
	maps.Copy(options, more)
	return options
}

// add adds a job. Spec is Graphile Worker's TaskSpec.
func (p *peer) add(task string, payload any, spec map[string]any) *nodeJob {
	p.t.Helper()
	return p.do(map[string]any{"request": "add", "task": task, "payload": payload, "spec": spec, "options": p.options})
}

// do sends a request and waits for its reply.
func (p *peer) do(request map[string]any) *nodeJob {
	p.t.Helper()
	reply := p.try(request)
	if reply.Error != "" {
		p.t.Fatalf("Node failed to %s: %s", request["request"], reply.Error)
	}
	return reply.Job
}

// try is do for a request that may fail.
func (p *peer) try(request map[string]any) message {
	p.t.Helper()
	return p.send(request)()
}

// send sends a request, and returns what waits for its reply. No other request may be sent before.
func (p *peer) send(request map[string]any) (reply func() message) {
	p.t.Helper()
	line, err := json.Marshal(request)
	if err != nil {
		p.t.Fatal(err)
	}
	from := p.record.len()
	if _, err := p.input.Write(append(line, '\n')); err != nil {
		p.t.Fatal(err)
	}
	return func() message {
		p.t.Helper()
		m, _ := p.record.await(p.t, fmt.Sprint("the reply to ", request["request"]), from, is("reply"))
		return m
	}
}

// stop ends the input, and waits until the process has ended for want of things to do: then what it did is in the database.
func (p *peer) stop() {
	p.t.Helper()
	p.input.Close()
	if err := p.record.awaitEnd(p.t); err != nil {
		p.t.Fatalf("Node ended with the error %v", err)
	}
}

// wantNoComplaint checks that the process has logged neither a warning nor an error, nor that it migrates.
func (p *peer) wantNoComplaint() {
	p.t.Helper()
	entries, _, _ := p.record.seen()
	for _, m := range entries {
		if m.Type == "log" && (m.Level != "info" && m.Level != "debug" || strings.Contains(m.Text, "migration")) {
			p.t.Errorf("Node: %v", m)
		}
	}
}

// is matches a message of a type.
func is(kind string) func(message) bool {
	return func(m message) bool { return m.Type == kind }
}

// event matches an event of a worker.
func event(name string) func(message) bool {
	return func(m message) bool { return m.Type == "event" && m.Name == name }
}
