package bench

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/backfillhq/go/backfill"
)

var (
	noop = &backfill.Task[backfill.NoArgs]{Name: "noop"}
	ping = &backfill.Task[pingArgs]{Name: "ping"}
)

type pingArgs struct{ N int }

// pause is between two jobs of which the latency is measured: the worker is idle then.
const pause = 10 * time.Millisecond

// running is a worker that runs until it is stopped.
type running struct {
	stop  context.CancelFunc
	ended chan error
}

func (b *bench) startWorker(ctx context.Context, registry *backfill.Registry, observer backfill.Observer) (*running, error) {
	worker, err := b.client.NewWorker(registry,
		backfill.WithConcurrency(b.options.Slots), backfill.WithObserver(observer), backfill.WithDrainTimeout(time.Second))
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	r := &running{stop, make(chan error, 1)}
	go func() { r.ended <- worker.Run(ctx) }()
	return r, nil
}

// end stops the worker and waits for it.
func (r *running) end() error {
	r.stop()
	return <-r.ended
}

// errWorkerEnded is what a worker that ends too early comes to.
var errWorkerEnded = errors.New("the worker has ended by itself")

// latency enqueues one job after the other, and takes the time until each starts.
func (b *bench) latency(ctx context.Context, limit time.Duration) (l Latency, err error) {
	starts, ready := make(chan time.Time, 1), make(chan struct{})
	listens := sync.OnceFunc(func() { close(ready) })
	registry := backfill.NewRegistry(backfill.Handle(ping, func(context.Context, pingArgs) error {
		starts <- time.Now()
		return nil
	}))
	worker, err := b.startWorker(ctx, registry, func(e backfill.Event) {
		// Through a transaction pooler it does not listen, but polls.
		if e.Kind == backfill.EventListening || e.Kind == backfill.EventPolled {
			listens()
		}
	})
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, worker.end()) }()
	if err := await(ctx, worker, ready); err != nil {
		return l, err
	}
	var took []time.Duration
	for began := time.Now(); time.Since(began) < limit; {
		enqueued := time.Now()
		if _, err := backfill.Enqueue(ctx, b.client, ping, pingArgs{len(took)}); err != nil {
			return l, err
		}
		select {
		case <-ctx.Done():
			return l, context.Cause(ctx)
		case started := <-starts:
			took = append(took, started.Sub(enqueued))
		}
		if err := sleep(ctx, pause); err != nil {
			return l, err
		}
	}
	return percentiles(took), nil
}

// await waits for a worker to do something.
func await(ctx context.Context, worker *running, happened <-chan struct{}) error {
	select {
	case <-happened:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case err := <-worker.ended:
		worker.ended <- nil // for end
		return errors.Join(errWorkerEnded, err)
	}
}

// enqueue has callers enqueue until the time is over, and counts the jobs.
func (b *bench) enqueue(ctx context.Context, callers, batch int, limit time.Duration) (Rate, error) {
	requests := make([]backfill.Request, batch)
	for i := range requests {
		requests[i] = noop.Request(backfill.NoArgs{})
	}
	var calling sync.WaitGroup
	var jobs atomic.Int64
	failures := make(chan error, callers)
	began := time.Now()
	for range callers {
		calling.Go(func() {
			for time.Since(began) < limit {
				if _, err := b.client.Enqueue(ctx, requests...); err != nil {
					failures <- err
					return
				}
				jobs.Add(int64(batch))
			}
		})
	}
	calling.Wait()
	took := time.Since(began)
	select {
	case err := <-failures:
		return Rate{}, err
	default:
	}
	rate := newRate(jobs.Load(), took)
	rate.Callers, rate.Batch = callers, batch
	return rate, nil
}

// work has the worker run jobs that do nothing, until all are done or the time is over, but some in
// any case. The time counts from the first claim.
func (b *bench) work(ctx context.Context, jobs int64, limit time.Duration) (rate Rate, err error) {
	var done atomic.Int64
	var began, last atomic.Pointer[time.Time]
	claimed, some, all := make(chan struct{}), make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() {
		now := time.Now()
		began.Store(&now)
		close(claimed)
	})
	counted, finished := sync.OnceFunc(func() { close(some) }), sync.OnceFunc(func() { close(all) })
	registry := backfill.NewRegistry(backfill.Handle(noop, func(context.Context, backfill.NoArgs) error { return nil }))
	worker, err := b.startWorker(ctx, registry, func(e backfill.Event) {
		switch e.Kind {
		case backfill.EventClaimed:
			first()
		case backfill.EventCompleted:
			now := time.Now()
			last.Store(&now)
			if done.Add(int64(e.Count)) >= jobs {
				finished()
			}
			counted()
		default: // of a worker's life
		}
	})
	if err != nil {
		return rate, err
	}
	defer func() { err = errors.Join(err, worker.end()) }()
	if err := await(ctx, worker, claimed); err != nil {
		return rate, err
	}
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := await(within, worker, all); err != nil && within.Err() == nil {
		return rate, err
	}
	if err := await(ctx, worker, some); err != nil { // a slow server has recorded nothing yet
		return rate, err
	}
	return newRate(done.Load(), last.Load().Sub(*began.Load())), nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// percentiles are by nearest rank.
func percentiles(took []time.Duration) Latency {
	if len(took) == 0 {
		return Latency{}
	}
	slices.Sort(took)
	at := func(share float64) float64 {
		rank := int(math.Ceil(share * float64(len(took))))
		return float64(took[max(rank, 1)-1]) / float64(time.Millisecond)
	}
	return Latency{len(took), at(0.50), at(0.95), at(0.99)}
}
