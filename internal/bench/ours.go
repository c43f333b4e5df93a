package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/backfillhq/go/backfill"
)

// ours is backfill as a program uses it that sets nothing: Open with a URL, a typed task, a worker without options.
type ours struct{ tables }

const oursName = "backfill"

func (o ours) name() string { return oursName }

// Args are those of the task of all jobs here. N is different for each, which finds those that run twice.
type Args struct {
	N int `json:"n"`
}

// task is what backfillgen would write for func Bench(context.Context, Args) error.
var task = &backfill.Task[Args]{Name: taskName}

func (o ours) startServing(ctx context.Context, jobs int) (*child, error) {
	return o.spawn(ctx, childSpec{Role: roleServe, Jobs: jobs, Tell: true})
}

func (o ours) startFlood(ctx context.Context, b backlog, busy bool) (*child, error) {
	return o.spawn(ctx, childSpec{Role: roleServe, Jobs: b.jobs, Tell: true, Queued: b.first, Busy: busy})
}

func (o ours) work(ctx context.Context, jobs int) (sample, error) {
	return o.workIn(ctx, childSpec{Role: roleOnce, Jobs: jobs, CPUProfile: o.opts.cpu, MemProfile: o.opts.mem})
}

func (o ours) enqueue(ctx context.Context, callers int, during time.Duration) (sample, int, error) {
	client, err := backfill.Open(ctx, o.url)
	if err != nil {
		return nil, 0, err
	}
	defer client.Close()
	return o.call(ctx, callers, during, func(ctx context.Context, n int) error {
		_, err := backfill.Enqueue(ctx, client, task, Args{n})
		return err
	})
}

func (o ours) bulk(ctx context.Context, jobs int) (sample, error) {
	client, err := backfill.Open(ctx, o.url)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	args := make([]Args, jobs)
	for n := range args {
		args[n].N = n
	}
	return o.batches(ctx, jobs, bulkBatch, func(first, count int) error {
		_, err := backfill.EnqueueMany(ctx, client, task, args[first:first+count])
		return err
	})
}

// latency enqueues and works in one process, so that one clock sees both ends.
func (o ours) latency(ctx context.Context, jobs int) (s sample, err error) {
	client, err := backfill.Open(ctx, o.url)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	begun := make(chan time.Time, 1)
	worker, err := client.NewWorker(backfill.NewRegistry(backfill.Handle(task, func(context.Context, Args) error {
		begun <- time.Now()
		return nil
	})))
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(running) }()
	defer func() { stop(); err = errors.Join(err, <-ended) }()
	for !worker.Health().Listening {
		select {
		case err := <-ended:
			ended <- nil
			return nil, fmt.Errorf("the worker ended: %w", err)
		case <-time.After(time.Millisecond):
		}
	}
	return oneByOne(ctx, jobs, begun, func(n int) error {
		_, err := backfill.Enqueue(ctx, client, task, Args{n})
		return err
	})
}

// memory looks at a worker process from outside while it works, as an operator does.
func (o ours) memory(ctx context.Context, jobs int, during time.Duration) (sample, error) {
	c, err := o.spawn(ctx, childSpec{Role: roleServe, Jobs: jobs})
	if err != nil {
		return nil, err
	}
	if err := c.begin(); err != nil {
		return nil, err
	}
	s := sample{}
	for end := time.Now().Add(during); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		if seen := memoryOf(c.cmd.Process.Pid, "VmRSS"); seen > s[rss] {
			s[rss] = seen
		}
	}
	if err := c.stop(); err != nil {
		return nil, errors.Join(err, c.wait())
	}
	r, err := c.report()
	if err != nil {
		return nil, err
	}
	if r.PeakRSS > 0 {
		s[peakRSS] = r.PeakRSS
	}
	s[rate] = float64(r.Ran) / during.Seconds()
	return s, left(ctx, o, jobs-r.Ran)
}
