package main

import (
	"context"
	"sync"
	"time"
)

// timing says when jobs ran, in seconds after the first of all has started.
type timing struct {
	Queued          int // jobs of queues that ran
	LastQueuedStart float64
	LastQueuedEnd   float64
	LastFreeEnd     float64
}

// stopwatch takes the time of jobs, of which the first so many are in queues.
type stopwatch struct {
	first int
	busy  bool // each takes 1 to 2 ms

	mu     sync.Mutex
	begin  time.Time
	timing timing
}

// timed makes a handler of ours take the time.
func (w *stopwatch) timed(handle func(context.Context, Args) error) func(context.Context, Args) error {
	return func(ctx context.Context, args Args) error {
		queued := args.N < w.first
		w.started(queued)
		if w.busy {
			time.Sleep(time.Millisecond + time.Duration(args.N%1000)*time.Microsecond)
		}
		err := handle(ctx, args)
		w.ended(queued)
		return err
	}
}

func (w *stopwatch) started(queued bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if w.begin.IsZero() {
		w.begin = now
	}
	if queued {
		w.timing.Queued++
		w.timing.LastQueuedStart = now.Sub(w.begin).Seconds()
	}
}

func (w *stopwatch) ended(queued bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := time.Since(w.begin).Seconds()
	if queued {
		w.timing.LastQueuedEnd = at
	} else {
		w.timing.LastFreeEnd = at
	}
}

func (w *stopwatch) report() timing {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.timing
}
