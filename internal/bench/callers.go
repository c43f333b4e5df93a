package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// call has callers enqueue one job after the other for a while, and reports how many and how long each took.
func (l *lab) call(ctx context.Context, callers int, during time.Duration, enqueue func(ctx context.Context, n int) error) (sample, int, error) {
	// Whatever is done at a first call: connect, prepare. All callers at once, or only one connection is warm.
	if err := calls(callers, func(caller int) error { return enqueue(ctx, -1-caller) }); err != nil {
		return nil, 0, fmt.Errorf("enqueue: %w", err)
	}
	took := make([][]time.Duration, callers)
	for i := range took {
		took[i] = make([]time.Duration, 0, int(during/(20*time.Microsecond))/callers)
	}
	var next atomic.Int64
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	server, err := l.serverUse(ctx)
	if err != nil {
		return nil, 0, err
	}
	used := ownCPU()
	started := time.Now()
	err = calls(callers, func(caller int) error {
		for {
			begin := time.Now()
			if begin.Sub(started) >= during {
				return nil
			}
			if err := enqueue(ctx, int(next.Add(1))); err != nil {
				return err
			}
			took[caller] = append(took[caller], time.Since(begin))
		}
	})
	elapsed := time.Since(started)
	used = ownCPU() - used
	runtime.ReadMemStats(&after)
	if err != nil {
		return nil, 0, fmt.Errorf("enqueue: %w", err)
	}
	var all []time.Duration
	for _, each := range took {
		all = append(all, each...)
	}
	s := sample{
		rate:      float64(len(all)) / elapsed.Seconds(),
		allocs:    float64(after.Mallocs-before.Mallocs) / float64(len(all)),
		allocated: float64(after.TotalAlloc-before.TotalAlloc) / float64(len(all)),
	}
	s.percentiles(all)
	if used > 0 {
		s[cpu] = float64(used.Microseconds()) / float64(len(all))
	}
	return s, len(all) + callers, server.add(ctx, s, len(all))
}

// calls runs a function for each caller at the same time.
func calls(callers int, each func(caller int) error) error {
	var group sync.WaitGroup
	failed := make([]error, callers)
	for caller := range callers {
		group.Go(func() { failed[caller] = each(caller) })
	}
	group.Wait()
	return errors.Join(failed...)
}

// batches inserts jobs batch after batch.
func (l *lab) batches(ctx context.Context, jobs, batch int, insert func(first, count int) error) (sample, error) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	server, err := l.serverUse(ctx)
	if err != nil {
		return nil, err
	}
	started := time.Now()
	for first := 0; first < jobs; first += batch {
		if err := insert(first, min(batch, jobs-first)); err != nil {
			return nil, fmt.Errorf("enqueue: %w", err)
		}
	}
	elapsed := time.Since(started)
	runtime.ReadMemStats(&after)
	s := sample{
		rate:      float64(jobs) / elapsed.Seconds(),
		allocs:    float64(after.Mallocs-before.Mallocs) / float64(jobs),
		allocated: float64(after.TotalAlloc-before.TotalAlloc) / float64(jobs),
	}
	return s, server.add(ctx, s, jobs)
}

// listen keeps one connection listening, as an idle worker does: without one, a notification costs less.
func (l *lab) listen(ctx context.Context) (stop func(), err error) {
	conn, err := pgx.Connect(ctx, l.url)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	if _, err := conn.Exec(ctx, `listen "jobs:insert"`); err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), conn.Close(ctx))
	}
	listening, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := conn.WaitForNotification(listening); err != nil {
				return // stopped; nothing is measured that would need the connection
			}
		}
	}()
	return func() {
		cancel()
		<-ended
		conn.Close(context.WithoutCancel(ctx))
	}, nil
}
