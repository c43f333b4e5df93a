package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Whatever works jobs does so in a process of its own, this program once more, so that CPU, memory and allocations are its own.
// The child connects and says that it is ready, begins when it is told to on its standard input, and reports on its standard
// output. It ends when its input does, so that no child outlives us.

// childVariable holds the childSpec of a child, as JSON.
const childVariable = "BACKFILL_BENCH_CHILD"

type role string

const (
	roleFloor role = "floor" // works off all jobs with bare SQL
	roleOnce  role = "once"  // works off all jobs with ours
	roleServe role = "serve" // works with ours until SIGTERM
)

// childSpec says what a child is to do.
type childSpec struct {
	Role       role
	Consumers  int    // of the floor
	Jobs       int    // their args are 0 to Jobs-1
	Log        string // roleServe: append what ran to this file
	Tell       bool   // roleServe: say when it listens
	Queued     int    // roleServe: take the time; the first so many jobs are in queues
	Busy       bool   // then: each job takes 1 to 2 ms
	CPUProfile string
	MemProfile string
}

// childReport is what a child has done.
type childReport struct {
	Ran     int // jobs
	Twice   int // of those, had run before
	Seconds float64
	Mallocs uint64
	Bytes   uint64 // allocated
	PeakRSS float64
	Timing  timing // with childSpec.Queued
}

// child is a child as its parent sees it.
type child struct {
	cmd   *exec.Cmd
	input io.WriteCloser
	out   *json.Decoder
}

// spawn starts a child and waits until it is ready.
func (l *lab) spawn(ctx context.Context, spec childSpec) (*child, error) {
	encoded, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode a child's spec: %w", err)
	}
	cmd := exec.CommandContext(ctx, l.executable)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+l.url, childVariable+"="+string(encoded))
	return startChild(cmd)
}

// startChild starts a program that does as children do, and waits until it is ready.
func startChild(cmd *exec.Cmd) (*child, error) {
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start a child: %w", err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start a child: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a child: %w", err)
	}
	c := &child{cmd: cmd, input: input, out: json.NewDecoder(output)}
	var ready bool
	if err := c.out.Decode(&ready); err != nil {
		return nil, errors.Join(fmt.Errorf("a child did not get ready: %w", err), c.wait())
	}
	return c, nil
}

// begin tells the child to begin.
func (c *child) begin() error {
	if _, err := io.WriteString(c.input, "\n"); err != nil {
		return errors.Join(fmt.Errorf("tell a child to begin: %w", err), c.wait())
	}
	return nil
}

// stop tells a child that serves to stop.
func (c *child) stop() error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop a child: %w", err)
	}
	return nil
}

// serve has a child with Tell work while do runs, which begins when it listens.
func (c *child) serve(do func() error) (childReport, error) {
	if err := c.begin(); err != nil {
		return childReport{}, err
	}
	var listening bool
	err := c.out.Decode(&listening)
	if err == nil {
		err = do()
	}
	if err == nil {
		err = c.stop()
	}
	if err != nil {
		return childReport{}, errors.Join(err, c.wait())
	}
	return c.report()
}

// report waits for the child's report, and for its end.
func (c *child) report() (childReport, error) {
	var r childReport
	err := c.out.Decode(&r)
	if ended := c.wait(); err == nil || ended != nil {
		err = ended // without a report, how it ended says more
	}
	if err != nil {
		return r, err
	}
	if r.Twice > 0 {
		return r, fmt.Errorf("WRONG: %d jobs ran twice", r.Twice)
	}
	return r, nil
}

func (c *child) wait() error {
	if err := errors.Join(c.input.Close(), c.cmd.Wait()); err != nil {
		return fmt.Errorf("child: %w", err)
	}
	return nil
}

// cpu is what the child has used in its life, which includes its start of some milliseconds.
func (c *child) cpu() time.Duration {
	return c.cmd.ProcessState.UserTime() + c.cmd.ProcessState.SystemTime()
}

// workIn has a child work off all jobs, and reports what that took.
func (l *lab) workIn(ctx context.Context, spec childSpec) (sample, error) {
	c, err := l.spawn(ctx, spec)
	if err != nil {
		return nil, err
	}
	server, err := l.serverUse(ctx)
	if err != nil {
		return nil, errors.Join(err, c.wait())
	}
	if err := c.begin(); err != nil {
		return nil, err
	}
	r, err := c.report()
	if err != nil {
		return nil, err
	}
	if r.Ran != spec.Jobs {
		return nil, fmt.Errorf("WRONG: %d jobs ran, want %d", r.Ran, spec.Jobs)
	}
	jobs := float64(r.Ran)
	s := sample{
		rate:      jobs / r.Seconds,
		cpu:       float64(c.cpu().Microseconds()) / jobs,
		allocs:    float64(r.Mallocs) / jobs,
		allocated: float64(r.Bytes) / jobs,
	}
	if r.PeakRSS > 0 {
		s[peakRSS] = r.PeakRSS
	}
	return s, server.add(ctx, s, r.Ran)
}

// runChild is the main function of a child.
func runChild(ctx context.Context, encoded string) error {
	var spec childSpec
	if err := json.Unmarshal([]byte(encoded), &spec); err != nil {
		return fmt.Errorf("decode a child's spec: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	prepare := map[role]func(context.Context, childSpec) (func(context.Context) (childReport, error), error){
		roleFloor: prepareFloor, roleOnce: prepareOnce, roleServe: prepareServe,
	}[spec.Role]
	if prepare == nil {
		return fmt.Errorf("unknown role %q", spec.Role)
	}
	work, err := prepare(ctx, spec)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(true); err != nil {
		return fmt.Errorf("tell the parent: %w", err)
	}
	var line [1]byte
	if _, err := io.ReadFull(os.Stdin, line[:]); err != nil {
		return fmt.Errorf("wait for the parent: %w", err)
	}
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin) // however it ends, the parent has gone
	}()
	r, err := count(ctx, work)
	if err != nil {
		return err
	}
	return out.Encode(r)
}

// count adds to a report what the process has used meanwhile.
func count(ctx context.Context, work func(context.Context) (childReport, error)) (childReport, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	started := time.Now()
	r, err := work(ctx)
	r.Seconds = time.Since(started).Seconds()
	runtime.ReadMemStats(&after)
	r.Mallocs = after.Mallocs - before.Mallocs
	r.Bytes = after.TotalAlloc - before.TotalAlloc
	r.PeakRSS = memoryOf(os.Getpid(), "VmHWM")
	return r, err
}
