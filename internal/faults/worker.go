//go:build unix

package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/backfillhq/go/backfill"
)

// runWorker is the main function of a worker process: backfill as its users run it, with its
// defaults.
func runWorker(ctx context.Context, spec childSpec, log *journal) error {
	client, err := backfill.Open(ctx, spec.URL)
	if err != nil {
		return err
	}
	defer client.Close()
	h := &handlers{log: log, offers: newOffers(spec, log)}
	options := []backfill.WorkerOption{backfill.WithCrontab(crontab), backfill.WithObserver(h.observe)}
	if spec.ListenURL != "" {
		options = append(options, backfill.WithListenURL(spec.ListenURL))
	}
	worker, err := client.NewWorker(registry(h), options...)
	if err != nil {
		return err
	}
	return worker.Run(ctx)
}

// handlers write down what they do.
type handlers struct {
	log    *journal
	offers *offers
	runs   atomic.Int64
	pool   atomic.Pointer[string] // the worker's id
}

// observe writes down the worker's id, a new one each time that it was declared dead.
func (h *handlers) observe(e backfill.Event) {
	switch e.Kind { //nolint:exhaustive // the others say nothing of leases
	case backfill.EventFenced:
		h.log.write(record{Op: opFenced, Text: e.WorkerID})
	case backfill.EventSilent:
		h.log.write(record{Op: opSilent, Count: e.Count})
	case backfill.EventStarted, backfill.EventPolled:
		if id := h.pool.Swap(&e.WorkerID); id == nil || *id != e.WorkerID {
			h.log.write(record{Op: opPool, Text: e.WorkerID})
		}
	}
}

// run is a run of a handler for some requests.
func (h *handlers) run(ctx context.Context, r record, work func(context.Context) error) error {
	job := backfill.JobInfo(ctx)
	if r.Run == 0 {
		r.Run = h.runs.Add(1)
	}
	r.Op, r.Job, r.Attempt, r.Queue = opStarted, job.ID, job.Attempt, job.Queue
	h.log.write(r)
	err := work(ctx)
	end := record{Op: opEnded, Run: r.Run, N: r.N, Ns: r.Ns}
	switch failed := (*partly)(nil); {
	case errors.As(err, &failed):
		end.Ns = failed.done
		err = failed.err
	case err != nil && ctx.Err() != nil:
		end.Op, end.Text = opCancelled, context.Cause(ctx).Error()
	case err != nil:
		end.Op, end.Text = opFailed, err.Error()
	}
	h.log.write(end)
	return err
}

// partly is the error of a batch of which some requests are done.
type partly struct {
	done []int64
	err  error
}

func (p *partly) Error() string { return p.err.Error() }

// simple works for as long as the args say.
func (h *handlers) simple(ctx context.Context, a args) error {
	return h.run(ctx, record{N: a.N, Kind: a.Kind, Due: a.Due}, func(ctx context.Context) error { return work(ctx, a.Work) })
}

func work(ctx context.Context, milliseconds int) error {
	if milliseconds == 0 {
		return nil
	}
	timer := time.NewTimer(time.Duration(milliseconds) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errOnPurpose = errors.New("the first attempt fails on purpose")

func (h *handlers) failing(ctx context.Context, a args) error {
	return h.run(ctx, record{N: a.N, Kind: a.Kind}, func(ctx context.Context) error {
		if backfill.JobInfo(ctx).Attempt == 1 {
			return errOnPurpose
		}
		return work(ctx, a.Work)
	})
}

// batch fails every third request at the first attempt.
func (h *handlers) batch(ctx context.Context, batch []args) error {
	r := record{Kind: kindBatch}
	for _, a := range batch {
		r.Ns = append(r.Ns, a.N)
	}
	return h.run(ctx, r, func(ctx context.Context) error {
		if backfill.JobInfo(ctx).Attempt > 1 {
			return nil
		}
		p := &partly{}
		errs := map[int]error{}
		for i, a := range batch {
			if i%3 == 0 {
				errs[i] = errOnPurpose
			} else {
				p.done = append(p.done, a.N)
			}
		}
		p.err = &backfill.BatchError{Errs: errs}
		return p
	})
}

// parent enqueues a child, which has a number of its own: a parent that runs again has another
// child.
func (h *handlers) parent(ctx context.Context, a args) error {
	return h.run(ctx, record{N: a.N, Kind: a.Kind}, func(ctx context.Context) error {
		return h.offers.make(ctx, record{Kind: kindChild}, 1, func(ctx context.Context, n int64) error {
			_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), taskChild, args{N: n, Kind: kindChild})
			return err
		})
	})
}

// tick has the number of its minute.
func (h *handlers) tick(ctx context.Context) error {
	cron := backfill.JobInfo(ctx).Cron
	if cron == nil {
		return errors.New("the job has no tick")
	}
	return h.run(ctx, record{N: cron.TS.Unix(), Kind: kindTick}, func(context.Context) error { return nil })
}
