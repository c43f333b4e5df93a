package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/cmd/backfill/internal/dev"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/testutil/pgtest"
)

// startDev runs backfill dev with --json, until stop is called, and returns what it says first.
func startDev(t *testing.T, arguments ...string) (sample dev.Sample, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	output, input := io.Pipe()
	var notes bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		code := run(ctx, append([]string{"backfill", "dev", "--json"}, arguments...), strings.NewReader(""), input, &notes)
		input.Close()
		ended <- code
	}()
	stopped := false
	stop = func() {
		t.Helper()
		if stopped {
			return
		}
		stopped = true
		cancel()
		if code := <-ended; code != 0 {
			t.Errorf("dev ended with %d:\n%s", code, notes.String())
		}
	}
	t.Cleanup(stop)
	if err := json.NewDecoder(output).Decode(&sample); err != nil {
		code := <-ended
		ended <- code
		t.Fatalf("%v; dev has ended with %d:\n%s", err, code, notes.String())
	}
	return sample, stop
}

// refuses fails the test unless dev refuses a database, and says this.
func refuses(t *testing.T, url, part string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // it would run on
	defer cancel()
	var errs bytes.Buffer
	if code := run(ctx, []string{"backfill", "dev", "--json", "--database-url", url}, strings.NewReader(""), io.Discard, &errs); code != exitProblem {
		t.Errorf("exit code %d", code)
	}
	says(t, errs.String(), part)
}

// Each sample job is in the state that dev says it is in, and nothing stays behind.
func TestDevInADatabase(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	sample, stop := startDev(t, "--database-url", db.URL)
	if sample.Schema != "backfill_dev" || sample.Private || sample.DatabaseURL != db.URL {
		t.Errorf("sample %+v", sample)
	}
	for state, want := range map[string]admin.Code{
		"runs": admin.Running, "waits for its queue": admin.QueueHeld, "is paused": admin.Paused, "is scheduled": admin.NotDue,
		"has no worker": admin.NotServed, "fails for good": admin.DeadLetter, "uses up its attempts": admin.DeadLetter,
	} {
		var got admin.Code
		for _, job := range sample.Jobs {
			if job.State != state {
				continue
			}
			dbtest.Until(t, func() bool {
				var x admin.Explanation
				var out bytes.Buffer
				if code := run(t.Context(), []string{"backfill", "why", "--json", "--schema", sample.Schema, "--database-url", db.URL, strconv.FormatInt(job.ID, 10)},
					strings.NewReader(""), &out, io.Discard); code != 0 {
					t.Fatalf("why ended with %d", code)
				}
				if err := json.Unmarshal(out.Bytes(), &x); err != nil {
					t.Fatal(err)
				}
				got = x.Blocker.Code
				return got == want || want != admin.DeadLetter // which takes some attempts
			})
		}
		if got != want {
			t.Errorf("the job that %s: %q, want %q", state, got, want)
		}
	}
	refuses(t, db.URL, "another backfill dev runs in this database")
	stop()
	if schemas := list(t, connectTo(t, db.URL), "select nspname::text from pg_namespace where nspname like 'backfill%'"); len(schemas) > 0 {
		t.Errorf("left behind: %q", schemas)
	}
}

// What dev has not made it neither uses nor drops; what a killed run has left, it does.
func TestDevLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	refuses(t, pgtest.New(t).URL, `has a queue already, in the schema "graphile_worker"`)

	db := pgtest.Empty(t)
	dbtest.Run(t, db.Pool(), "create schema backfill_dev")
	dbtest.Run(t, db.Pool(), "create table backfill_dev.precious ()")
	refuses(t, db.URL, "its comment does not say that backfill dev has made it")
	if !dbtest.Get[bool](t, db.Pool(), "select to_regclass('backfill_dev.precious') is not null") {
		t.Error("the table is gone")
	}

	dbtest.Run(t, db.Pool(), "comment on schema backfill_dev is 'scratch schema of backfill dev, made 2026-11-29T01:02:03Z: it may be dropped'")
	_, stop := startDev(t, "--database-url", db.URL)
	if dbtest.Get[bool](t, db.Pool(), "select to_regclass('backfill_dev.precious') is not null") {
		t.Error("the table is there")
	}
	stop()
}

// The program on a machine of its own: it starts a server, never looks at the one of the
// environment, and what it says to try works as it stands.
func TestDevOnAPrivateServer(t *testing.T) {
	t.Parallel()
	needs.That(t, runtime.GOOS != "windows", "private server on Windows")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin, folder := t.TempDir(), t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "backfill")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Dir(folder), folder} { // the server may run as another user
		if err := os.Chmod(path, 0o755); err != nil { //nolint:gosec // as the comment says
			t.Fatal(err)
		}
	}
	environment := append(os.Environ(), asCommand+"=1", "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"), "DATABASE_URL=postgres://production.invalid/app")
	for _, arguments := range [][]string{nil, {"--keep", filepath.Join(folder, "kept")}, {"--keep", filepath.Join(folder, "kept")}} {
		says := startProgram(t, environment, append([]string{filepath.Join(bin, "backfill"), "dev"}, arguments...)...)
		text := says.until("\nCtrl-C ")
		url := regexp.MustCompile(`export DATABASE_URL='(.*)'`).FindStringSubmatch(text)
		lines := regexp.MustCompile(`(?m)^  (backfill .*?) +#`).FindAllStringSubmatch(text, -1)
		if url == nil || !strings.Contains(url[1], "@127.0.0.1:") || len(lines) != 10 {
			t.Fatalf("%d commands:\n%s", len(lines), text)
		}
		for _, line := range lines {
			cmd := exec.CommandContext(t.Context(), "sh", "-c", line[1])
			cmd.Env = append(slices.Clone(environment), "DATABASE_URL="+url[1])
			output, err := cmd.CombinedOutput()
			// The doctor says that a server is not durable.
			mayFail := line[1] == "backfill doctor" && len(arguments) == 0
			if failed := err != nil; failed != mayFail {
				t.Errorf("dev %q: %s: %v\n%s", arguments, line[1], err, output)
			}
		}
		says.interrupt()
		if conn, err := pgx.Connect(t.Context(), url[1]); err == nil {
			conn.Close(t.Context())
			t.Errorf("dev %q: the server lives", arguments)
		}
	}
}

// program is a process, and what it writes.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	output *bufio.Reader
	errors bytes.Buffer
}

func startProgram(t *testing.T, environment []string, line ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(line[0], line[1:]...)}
	p.cmd.Env, p.cmd.Stderr = environment, &p.errors
	output, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.output = bufio.NewReader(output)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill() })
	return p
}

// until reads the output up to a text.
func (p *program) until(text string) string {
	p.t.Helper()
	var read strings.Builder
	for !strings.Contains(read.String(), text) {
		line, err := p.output.ReadString('\n')
		read.WriteString(line)
		if err != nil {
			p.t.Fatalf("it has ended: %v, %v\n%s%s", err, p.cmd.Wait(), read.String(), p.errors.String())
		}
	}
	return read.String()
}

// interrupt stops it as Ctrl-C does.
func (p *program) interrupt() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		p.t.Fatal(err)
	}
	limit := time.AfterFunc(2*time.Minute, func() { p.cmd.Process.Kill() })
	defer limit.Stop()
	_, _ = io.Copy(io.Discard, p.output)
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("it has ended with %v:\n%s", err, p.errors.String())
	}
}

func TestDevUsage(t *testing.T) {
	t.Parallel()
	for _, arguments := range [][]string{
		{"x"}, {"--no-such-flag"}, {"--database-url", ""}, {"--keep", ""}, {"--keep", "x", "--database-url", "postgres://h/d"},
	} {
		command(t, exitUsage, append([]string{"dev"}, arguments...)...)
	}
}
