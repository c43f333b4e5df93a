package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/backfillhq/go/backfill"
)

// tally notes which jobs have run.
type tally struct {
	ran, twice atomic.Int64
	seen       []atomic.Uint32 // a bit for each job

	mu  sync.Mutex
	log *bufio.Writer // nil: none
}

func newTally(jobs int) *tally { return &tally{seen: make([]atomic.Uint32, jobs/32+1)} }

// handle is the handler of our workers. It does nothing but count, which takes some nanoseconds of a job's 10 µs.
func (t *tally) handle(_ context.Context, args Args) error {
	if args.N < 0 || args.N/32 >= len(t.seen) {
		return fmt.Errorf("no such job: %d", args.N)
	}
	bit := uint32(1) << (args.N % 32)
	if t.seen[args.N/32].Or(bit)&bit != 0 {
		t.twice.Add(1)
	}
	t.ran.Add(1)
	if t.log == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err := t.log.WriteString(strconv.Itoa(args.N) + "\n")
	return err
}

func (t *tally) report() childReport {
	return childReport{Ran: int(t.ran.Load()), Twice: int(t.twice.Load())}
}

// prepareOnce opens a client and makes a worker, with defaults. The worker's own connections, its registration and its drain are
// part of what is measured.
func prepareOnce(ctx context.Context, spec childSpec) (func(context.Context) (childReport, error), error) {
	client, err := backfill.Open(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return nil, err
	}
	done := newTally(spec.Jobs)
	worker, err := client.NewWorker(backfill.NewRegistry(backfill.Handle(task, done.handle)))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (r childReport, err error) {
		defer client.Close()
		stop, err := profile(spec)
		if err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, stop()) }()
		recorded, err := worker.RunOnce(ctx)
		if err != nil {
			return r, err
		}
		if int(recorded.Completed) != spec.Jobs {
			return r, fmt.Errorf("WRONG: %d of %d jobs were recorded: %+v", recorded.Completed, spec.Jobs, *recorded)
		}
		return done.report(), nil
	}, nil
}

// prepareServe is a worker process as users have them: it works until SIGTERM, drains, and ends.
func prepareServe(ctx context.Context, spec childSpec) (func(context.Context) (childReport, error), error) {
	client, err := backfill.Open(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return nil, err
	}
	done := newTally(spec.Jobs)
	var file *os.File
	if spec.Log != "" {
		if file, err = os.OpenFile(spec.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
			return nil, fmt.Errorf("open the list of jobs: %w", err)
		}
		done.log = bufio.NewWriter(file)
	}
	handle, watch := done.handle, &stopwatch{first: spec.Queued, busy: spec.Busy}
	if spec.Queued > 0 {
		handle = watch.timed(handle)
	}
	worker, err := client.NewWorker(backfill.NewRegistry(backfill.Handle(task, handle)))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (childReport, error) {
		defer client.Close()
		told := make(chan error, 1)
		go func() { told <- tellListening(ctx, worker, spec.Tell) }()
		err := errors.Join(worker.Run(ctx), <-told)
		if file != nil {
			err = errors.Join(err, done.log.Flush(), file.Close())
		}
		r := done.report()
		r.Timing = watch.report()
		return r, err
	}, nil
}

// tellListening tells the parent when the worker listens, if it wants to know.
func tellListening(ctx context.Context, worker *backfill.Worker, wanted bool) error {
	if !wanted {
		return nil
	}
	for !worker.Health().Listening {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Millisecond):
		}
	}
	return json.NewEncoder(os.Stdout).Encode(true)
}

// profile writes the profiles that were asked for. One run overwrites the last.
func profile(spec childSpec) (stop func() error, err error) {
	write := func(path string, begin func(*os.File) error, end func(*os.File) error) error {
		file, err := os.Create(path)
		if err != nil {
			return fmt.Errorf("write profile: %w", err)
		}
		if err := begin(file); err != nil {
			return errors.Join(fmt.Errorf("write profile: %w", err), file.Close())
		}
		before := stop
		stop = func() error { return errors.Join(before(), end(file), file.Close()) }
		return nil
	}
	stop = func() error { return nil }
	if spec.CPUProfile != "" {
		err = write(spec.CPUProfile, func(f *os.File) error { return pprof.StartCPUProfile(f) },
			func(*os.File) error { pprof.StopCPUProfile(); return nil })
	}
	if spec.MemProfile != "" && err == nil {
		runtime.MemProfileRate = 512 // bytes: a job takes more
		err = write(spec.MemProfile, func(*os.File) error { return nil },
			func(f *os.File) error { runtime.GC(); return pprof.Lookup("allocs").WriteTo(f, 0) })
	}
	return stop, err
}
