package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// In the flood shapes, jobs of queues are first in line, and a flood of free jobs is behind them. A
// queue whose next job waits for the flood to end has starved.

// floods works with jobs of queues in front of free ones, and notes when they ran.
type floods interface {
	serves
	startFlood(ctx context.Context, b backlog, busy bool) (*child, error)
}

// floodPatience is how long a run may take. The jobs that are left then are reported as unfinished,
// so that a worker that never runs the queues' jobs has figures too.
const floodPatience = time.Minute

// floodShapes are in proportion to the flood: 100 jobs of one queue, or 1,000 of 100 queues, and
// 3,000 that cannot run, for 20,000.
func (l *lab) floodShapes() []shape {
	n := l.opts.flood
	fronts := []struct {
		title string
		backlog
	}{
		{"", backlog{}},
		{fmt.Sprintf(", behind %s of a task that nobody serves", amount(n*3/20)), backlog{stuck: n * 3 / 20}},
		{fmt.Sprintf(", behind %s of a locked queue", amount(n*3/20)), backlog{stuck: n * 3 / 20, locked: 1}},
	}
	var shapes []shape
	for _, queues := range []int{1, n / 200} {
		for _, busy := range []bool{false, true} {
			for _, front := range fronts {
				b := front.backlog
				b.queues, b.first = queues, n/200
				title := amount(b.first) + " jobs of one queue"
				if queues > 1 {
					b.first *= 10
					title = fmt.Sprintf("%s jobs of %s queues", amount(b.first), amount(queues))
				}
				b.jobs = b.first + n
				kind := "no-op"
				if busy {
					kind = "1–2 ms"
				}
				shapes = append(shapes, l.floodShape(fmt.Sprintf("%s before %s free, %s%s", title, amount(n), kind, front.title), b, busy))
			}
		}
	}
	return shapes
}

func (l *lab) floodShape(title string, b backlog, busy bool) shape {
	return shape{
		group: shapeFlood, title: title, main: lastQueuedShare,
		takes: takesPart[floods],
		once: func(ctx context.Context, s system) (sample, error) {
			return l.flood(ctx, s.(floods), b, busy, floodPatience)
		},
		goals: []goal{{lastQueuedShare, "", "", 0}},
	}
}

// flood has a worker do the jobs of a backlog that are not stuck, for as long as patience.
func (l *lab) flood(ctx context.Context, s floods, b backlog, busy bool, patience time.Duration) (sample, error) {
	worker, err := s.startFlood(ctx, b, busy)
	if err != nil {
		return nil, err
	}
	if err := s.fill(ctx, b); err != nil {
		return nil, errors.Join(err, worker.wait())
	}
	var took time.Duration
	done, started := false, time.Now()
	r, err := worker.serve(func() error {
		done, err = l.within(ctx, s, b.stuck, started, patience)
		took = time.Since(started)
		return err
	})
	if err != nil {
		return nil, err
	}
	waiting, err := s.waiting(ctx)
	want := b.stuck + b.jobs - r.Ran
	if err == nil && (waiting != want || done && want != b.stuck) {
		err = fmt.Errorf("WRONG: %d of %d jobs ran, and %d are left, want %d", r.Ran, b.jobs, waiting, want)
	}
	return r.Timing.sample(b, r.Ran, took), err
}

// sample makes figures of what a child noted. Jobs that did not run in time count as if they had
// started, or ended, when time was up, so that the figures are bounds then.
func (t timing) sample(b backlog, ran int, took time.Duration) sample {
	s := sample{}
	if ran < b.jobs {
		s[leftOver], s[gaveUp] = float64(b.jobs-ran), took.Seconds()
	}
	if t.Queued < b.first {
		t.LastQueuedStart, t.LastQueuedEnd = took.Seconds(), took.Seconds()
	}
	if free := ran - t.Queued; free < b.jobs-b.first {
		t.LastFreeEnd = took.Seconds()
	}
	s[lastQueued] = t.LastQueuedStart * 1000
	s[lastQueuedShare] = t.LastQueuedStart / t.LastFreeEnd
	s[queuedRate] = float64(t.Queued) / t.LastQueuedEnd
	s[freeRate] = float64(ran-t.Queued) / t.LastFreeEnd
	return s
}
