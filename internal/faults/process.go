//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// The role of a process of the fleet.
type duty string

const (
	dutyWorker  duty = "worker"
	dutyEnqueue duty = "enqueue"
	dutyRequeue duty = "requeue"
	dutyCancel  duty = "cancel"
	dutyNode    duty = "node"
)

// childVariable holds the childSpec of a child, as JSON. A child is this program once more, or
// Node.
const childVariable = "BACKFILL_FAULTS_CHILD"

// childSpec says what a child is to do.
type childSpec struct {
	Duty      duty
	Name      string
	Proc      int // its number
	URL       string
	ListenURL string // a worker's, past the pooler; "": it listens where it works
	Journal   string
	Seed      uint64
	Rate      float64       // jobs a second, of an enqueuer
	LongFor   time.Duration // how long its long jobs take
	LongEvery time.Duration // and how often they come
	Crontab   string        // Node's
}

// A process belongs to the fleet. When it ends it is started again, until it is told to stop.
type process struct {
	spec    childSpec
	links   []*link // all that it has of the network
	command func(context.Context) *exec.Cmd
	apart   bool // in a PID namespace of its own
	// gone is called when the process has ended, before it is started again.
	gone func(ctx context.Context, p *process)

	mu       sync.Mutex
	cmd      *exec.Cmd
	stopping bool
	begun    int64         // where the journal ended before it started
	killed   bool          // by a fault: its end is expected
	changed  chan struct{} // closed and replaced at each start and end
	stopped  chan struct{}
	code     string // how it ended at last
}

// restartAfter is how long a supervisor waits before it starts a process again.
const restartAfter = time.Second

// supervise runs the process until it is told to stop.
func (f *fleet) supervise(ctx context.Context, p *process) {
	defer close(p.stopped)
	for {
		if err := f.runOnce(ctx, p); err != nil {
			f.broken("%s does not start: %v", p.spec.Name, err)
		}
		p.mu.Lock()
		stopping := p.stopping
		p.mu.Unlock()
		if stopping {
			return
		}
		if p.gone != nil {
			p.gone(ctx, p)
		}
		if pause(ctx, restartAfter) != nil {
			return
		}
	}
}

// runOnce starts the process and waits for its end.
func (f *fleet) runOnce(ctx context.Context, p *process) error {
	log, err := os.OpenFile(filepath.Join(f.folder, p.spec.Name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	spec := p.spec
	begun, err := p.journalEnd()
	if err != nil {
		return err
	}
	spec.Proc = int(f.procs.Add(1))
	encoded, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	cmd := p.command(ctx)
	cmd.Env = append(os.Environ(), childVariable+"="+string(encoded))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us
	if p.apart {
		apart(cmd.SysProcAttr)
	}
	input, err := cmd.StdinPipe() // whose end tells it that we have gone
	if err != nil {
		return err
	}
	defer input.Close()
	p.mu.Lock()
	if p.stopping {
		p.mu.Unlock()
		return nil
	}
	if err = cmd.Start(); err == nil {
		p.cmd, p.spec.Proc, p.begun = cmd, spec.Proc, begun
		p.change()
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	f.log.write(record{Op: opSpawned, N: int64(spec.Proc), Name: spec.Name, Count: cmd.Process.Pid, Text: string(spec.Duty)})
	_ = cmd.Wait() // how it ended is in ProcessState
	code := cmd.ProcessState.String()
	if f.withPoison {
		if code, err = p.lastWord(code, spec.Proc, begun); err != nil {
			return err
		}
	}
	p.ended(f, code)
	if code == poisoned {
		f.poisoned(ctx, p, spec.Proc)
	}
	return nil
}

// How a process ended that was told to stop; one that a poison killed; and one that got no
// connection at its start, as happens if a poison kills while another fault lasts.
const (
	success    = "exit status 0"
	poisoned   = "killed by a poison"
	notStarted = "ended at its start"
)

// stopped reports whether a process that was told to stop did so, or could not.
func stopped(code string) bool { return code == success || code == poisoned || code == notStarted }

func (p *process) ended(f *fleet, code string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.code = nil, code
	f.log.write(record{Op: opDied, N: int64(p.spec.Proc), Name: p.spec.Name, Text: code})
	if !p.killed && !p.stopping && code != poisoned && code != notStarted && p.spec.Duty != dutyNode {
		f.broken("%s ended by itself: %s", p.spec.Name, code)
	}
	p.killed = false
	p.change()
}

// journalEnd is the length of the journal.
func (p *process) journalEnd() (int64, error) {
	info, err := os.Stat(p.spec.Journal)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at a journal: %w", err)
	}
	return info.Size(), nil
}

func (p *process) change() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// signal sends a signal to the process with a number, if that lives. After one that ends it, its
// death is expected.
func (p *process) signal(f *fleet, proc int, sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.spec.Proc != proc {
		return nil
	}
	r := record{N: int64(p.spec.Proc), Name: p.spec.Name, Text: sig.String()}
	switch sig {
	case syscall.SIGSTOP:
		r.Op = opFrozen
	case syscall.SIGCONT:
		r.Op = opThawed
	default:
		r.Op = opKilled
		p.killed = true
	}
	f.log.write(r)
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("send %v to %s: %w", sig, p.spec.Name, err)
	}
	return nil
}

// pools are the ids under which a process of this name has locked jobs: of all of its lives, or of
// one.
func (p *process) pools(proc int) (ids []string, err error) {
	_, err = readJournal(p.spec.Journal, 0, func(r record) {
		if r.Op == opPool && (proc == 0 || r.Proc == proc) {
			ids = append(ids, r.Text)
		}
	})
	return ids, err
}

// running is the process's number; 0 if it does not run now.
func (p *process) running() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.spec.Proc
}

// awaitStart waits until the process runs and has written something, and returns its number. Before
// that it may not have got as far as to listen for signals.
func (p *process) awaitStart(ctx context.Context) (proc int, err error) {
	for {
		p.mu.Lock()
		proc, begun, runs := p.spec.Proc, p.begun, p.cmd != nil
		p.mu.Unlock()
		if end, err := p.journalEnd(); err != nil || runs && end > begun {
			return proc, err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return 0, fmt.Errorf("wait for the start of %s: %w", p.spec.Name, err)
		}
	}
}

// awaitEnd waits until the process with a number has ended, and returns how.
func (p *process) awaitEnd(ctx context.Context, proc int) (code string, err error) {
	for {
		p.mu.Lock()
		code, changed, over := p.code, p.changed, p.cmd == nil || p.spec.Proc != proc
		p.mu.Unlock()
		if over {
			return code, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for the end of %s: %w", p.spec.Name, context.Cause(ctx))
		}
	}
}

// stop tells the process to stop, and kills it if it does not within the time that an orchestrator
// gives. It returns how it ended.
func (p *process) stop() string {
	p.mu.Lock()
	p.stopping = true
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(syscall.SIGCONT) // it may be frozen
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	p.mu.Unlock()
	timer := time.NewTimer(30 * time.Second)
	defer timer.Stop()
	select {
	case <-p.stopped:
	case <-timer.C:
		p.mu.Lock()
		if p.cmd != nil {
			p.cmd.Process.Kill()
		}
		p.mu.Unlock()
		<-p.stopped
		return "did not stop within 30 s"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.code
}

// runChild is the main function of a child.
func runChild(ctx context.Context, encoded string) error {
	var spec childSpec
	if err := json.Unmarshal([]byte(encoded), &spec); err != nil {
		return fmt.Errorf("decode a child's spec: %w", err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(4) // the harness has gone
	}()
	log, err := openJournal(spec.Journal, spec.Proc)
	if err != nil {
		return err
	}
	switch spec.Duty {
	case dutyWorker:
		return runWorker(ctx, spec, log)
	case dutyEnqueue:
		return runEnqueuer(ctx, spec, log)
	case dutyRequeue:
		return runRequeuer(ctx, spec, log)
	case dutyCancel:
		return runCanceller(ctx, spec, log)
	default:
		return fmt.Errorf("unknown duty %q", spec.Duty)
	}
}
