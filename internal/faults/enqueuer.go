//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
)

// numbersEach is how many requests a process can number.
const numbersEach = 1 << 24

// offers numbers requests, and writes down what becomes of the calls that enqueue them.
type offers struct {
	log  *journal
	next atomic.Int64
}

func newOffers(spec childSpec, log *journal) *offers {
	o := &offers{log: log}
	o.next.Store(int64(spec.Proc) * numbersEach)
	return o
}

// make calls a function that enqueues count requests, numbered from n on.
func (o *offers) make(ctx context.Context, r record, count int, call func(ctx context.Context, n int64) error) error {
	r.Op, r.N = opOffered, o.next.Add(int64(count))-int64(count)
	if count > 1 {
		r.Count = count
	}
	o.log.write(r)
	err := call(ctx, r.N)
	answer := record{Op: opAcked, N: r.N, Count: r.Count}
	switch {
	case errors.Is(err, backfill.ErrOutcomeUnknown):
		answer.Op, answer.Text = opUnknown, err.Error()
	case err != nil:
		answer.Op, answer.Text = opRefused, err.Error()
	}
	o.log.write(answer)
	return err
}

// runEnqueuer is the main function of an enqueuer process. What is under way when it is told to
// stop comes to its end.
func runEnqueuer(ctx context.Context, spec childSpec, log *journal) error {
	client, err := backfill.Open(ctx, spec.URL)
	if err != nil {
		return err
	}
	defer client.Close()
	e := &enqueuer{client: client, offers: newOffers(spec, log), spec: spec}
	var all sync.WaitGroup
	for _, p := range e.producers() {
		for i := range p.callers {
			all.Go(func() { e.produce(ctx, p, i) })
		}
	}
	all.Wait()
	return nil
}

type enqueuer struct {
	client *backfill.Client
	offers *offers
	spec   childSpec
}

// producer is a kind of traffic: how many callers, which share of the process's rate they make
// together, and what a call is.
type producer struct {
	kind    kind
	callers int
	share   float64
	size    int // requests of a call
	caller  func(*source) func(context.Context) error
}

// source is what one caller has of its own.
type source struct {
	random *rand.Rand
	name   string // unique, and the same after a restart
	size   int
}

func (e *enqueuer) producers() []producer {
	plain := func(k kind, size int) func(*source) func(context.Context) error {
		return func(s *source) func(context.Context) error {
			return func(ctx context.Context) error { return e.plain(ctx, s, k, size) }
		}
	}
	return []producer{
		{kindPlain, 6, 0.20, 1, plain(kindPlain, 1)},
		{kindMany, 1, 0.28, 20, plain(kindMany, 20)},
		{kindTx, 1, 0.02, 1, plain(kindTx, 1)},
		{kindRolledBack, 1, 0.01, 1, plain(kindRolledBack, 1)},
		{kindKeyed, 2, 0.12, 1, e.keyed},
		{kindSerial, 4, 0.15, 1, e.serial},
		{kindLong, 1, 0, 1, e.long},
		{kindScheduled, 2, 0.05, 1, e.scheduled},
		{kindFailing, 1, 0.02, 1, e.failing},
		{kindBatch, 1, 0.06, 12, e.batch},
		{kindParent, 1, 0.03, 1, e.parent},
		{kindEffect, 1, 0.04, 1, e.effect},
		{kindPermanent, 1, 0.01, 1, e.doomed(taskPermanent, kindPermanent)},
		{kindExhausted, 1, 0.01, 1, e.doomed(taskExhausted, kindExhausted)},
	}
}

// produce makes calls at a pace until ctx ends. A caller that was held up does not make up for it.
func (e *enqueuer) produce(ctx context.Context, p producer, i int) {
	s := &source{name: fmt.Sprintf("%s-%s-%d", e.spec.Name, p.kind, i), size: p.size}
	hash := fnv.New64a()
	fmt.Fprintf(hash, "%s %d", s.name, e.spec.Proc)
	s.random = rand.New(rand.NewPCG(e.spec.Seed, hash.Sum64())) //nolint:gosec // a schedule that can be repeated is wanted
	every := e.spec.LongEvery
	if p.share > 0 {
		every = time.Duration(float64(p.callers*p.size) / (p.share * e.spec.Rate) * float64(time.Second))
	}
	call := p.caller(s)
	next := time.Now().Add(time.Duration(s.random.Int64N(int64(every))))
	for {
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		err := call(context.WithoutCancel(ctx))
		next = next.Add(every)
		if t := time.Now(); next.Before(t) {
			next = t
		}
		if err != nil {
			next = time.Now().Add(200 * time.Millisecond)
		}
	}
}

// callTimeout is the deadline of half of the calls; the others have none, and wait as long as
// Enqueue does.
const callTimeout = 2 * time.Second

func withDeadline(ctx context.Context, s *source) (context.Context, context.CancelFunc) {
	if s.random.IntN(2) == 0 {
		return context.WithTimeout(ctx, callTimeout)
	}
	return ctx, func() {}
}

var errRolledBack = errors.New("rolled back on purpose")

func (e *enqueuer) plain(ctx context.Context, s *source, k kind, size int) error {
	ctx, cancel := withDeadline(ctx, s)
	defer cancel()
	if k == kindMany && s.random.IntN(100) == 0 {
		size *= 25 // enough that workers claim ahead
	}
	return e.offers.make(ctx, record{Kind: k}, size, func(ctx context.Context, n int64) error {
		batch := make([]args, size)
		for i := range batch {
			batch[i] = args{N: n + int64(i), Kind: k, Work: s.random.IntN(3)}
			if k == kindPlain && s.random.IntN(15) == 0 {
				batch[i].Work = 1000 + s.random.IntN(3000)
			}
		}
		if k != kindTx && k != kindRolledBack {
			_, err := backfill.EnqueueMany(ctx, e.client, taskPlain, batch)
			return err
		}
		return e.client.InTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
			if _, err := backfill.Enqueue(ctx, e.client.WithTx(tx), taskPlain, batch[0]); err != nil {
				return err
			}
			if k == kindRolledBack {
				return errRolledBack
			}
			return nil
		})
	})
}

// keysEach is how many keys a caller has in use.
const keysEach = 20

// keyed enqueues under keys that only this caller uses, one after the other. After an outcome that
// is unknown the caller gives up the key: that call may still take effect after the next one.
func (e *enqueuer) keyed(s *source) func(context.Context) error {
	var generations [keysEach]int
	return func(ctx context.Context) error {
		ctx, cancel := withDeadline(ctx, s)
		defer cancel()
		i := s.random.IntN(keysEach)
		key := fmt.Sprintf("%s-%d-%d-%d", s.name, i, e.spec.Proc, generations[i])
		delay := time.Duration(s.random.IntN(300)) * time.Millisecond
		err := e.offers.make(ctx, record{Kind: kindKeyed, Key: key}, 1, func(ctx context.Context, n int64) error {
			_, err := backfill.Enqueue(ctx, e.client, taskKeyed, args{N: n, Kind: kindKeyed, Key: key, Work: s.random.IntN(3)}, backfill.Delay(delay))
			return err
		})
		if err != nil {
			generations[i]++
		}
		return err
	}
}

// queuesEach is how many queues a caller has.
const queuesEach = 4

// serial enqueues into queues that only this caller uses, one call after the other, so that their
// order is known.
func (e *enqueuer) serial(s *source) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := withDeadline(ctx, s)
		defer cancel()
		return e.queued(ctx, taskSerial, args{
			Kind: kindSerial, Queue: fmt.Sprintf("%s-%d", s.name, s.random.IntN(queuesEach)), Work: 1 + s.random.IntN(3),
		})
	}
}

func (e *enqueuer) long(s *source) func(context.Context) error {
	return func(ctx context.Context) error {
		return e.queued(ctx, taskLong, args{Kind: kindLong, Queue: s.name, Work: int(e.spec.LongFor.Milliseconds())})
	}
}

func (e *enqueuer) queued(ctx context.Context, t *backfill.Task[args], a args) error {
	return e.offers.make(ctx, record{Kind: a.Kind, Queue: a.Queue}, 1, func(ctx context.Context, n int64) error {
		a.N = n
		_, err := backfill.Enqueue(ctx, e.client, t, a)
		return err
	})
}

func (e *enqueuer) scheduled(s *source) func(context.Context) error {
	return func(ctx context.Context) error {
		delay := time.Duration(500+s.random.IntN(9500)) * time.Millisecond
		due := time.Now().Add(delay).UnixMicro()
		return e.offers.make(ctx, record{Kind: kindScheduled, Due: due}, 1, func(ctx context.Context, n int64) error {
			_, err := backfill.Enqueue(ctx, e.client, taskScheduled, args{N: n, Kind: kindScheduled, Due: due}, backfill.Delay(delay))
			return err
		})
	}
}

func (e *enqueuer) failing(*source) func(context.Context) error {
	return func(ctx context.Context) error { return e.one(ctx, taskFailing, kindFailing) }
}

func (e *enqueuer) parent(*source) func(context.Context) error {
	return func(ctx context.Context) error { return e.one(ctx, taskParent, kindParent) }
}

func (e *enqueuer) one(ctx context.Context, t *backfill.Task[args], k kind) error {
	return e.offers.make(ctx, record{Kind: k}, 1, func(ctx context.Context, n int64) error {
		_, err := backfill.Enqueue(ctx, e.client, t, args{N: n, Kind: k})
		return err
	})
}

func (e *enqueuer) batch(s *source) func(context.Context) error {
	return func(ctx context.Context) error {
		return e.offers.make(ctx, record{Kind: kindBatch}, s.size, func(ctx context.Context, n int64) error {
			batch := make([]args, s.size)
			for i := range batch {
				batch[i] = args{N: n + int64(i), Kind: kindBatch}
			}
			_, err := backfill.Enqueue(ctx, e.client, taskBatch, batch)
			return err
		})
	}
}
