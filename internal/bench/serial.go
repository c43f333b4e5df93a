package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// The serial shapes are about queues, whose jobs run one at a time, and about what stands in the way of other jobs. Workers run as
// users have them, without an end, and what is left is seen from outside.

// serves works as a worker does that nobody stops.
type serves interface {
	system
	fill(context.Context, backlog) error
	startServing(ctx context.Context, jobs int) (*child, error)
	burst(ctx context.Context, first int, b burst) error
	unfinished(ctx context.Context, after int) (bool, error)
}

const (
	// burstPatience is how long a peer may take for a burst: it has stalls of some seconds.
	burstPatience = 30 * time.Second
	// stuckAfter is when we have lost jobs.
	stuckAfter = 5 * time.Minute
)

func (l *lab) serialShapes() []shape {
	n := l.opts.serial
	return []shape{
		l.burstShape("10 jobs of one queue", burst{queued: 10}, 50),
		l.burstShape("12 jobs of one queue and 50 free", burst{queued: 12, free: 50}, 100),
		l.hinderedShape(fmt.Sprintf("%s jobs over %s queues", amount(n), amount(n/10)), backlog{jobs: n}, backlog{jobs: n, queues: n / 10}, 0.3),
		l.hinderedShape(fmt.Sprintf("%s free jobs behind %s of two locked queues", amount(n/2), amount(n)),
			backlog{jobs: n / 2}, backlog{jobs: n / 2, stuck: n, locked: 2}, 0.5),
		l.hinderedShape(fmt.Sprintf("%s jobs behind %s of a task that nobody serves", amount(n/2), amount(10*n)),
			backlog{jobs: n / 2}, backlog{jobs: n / 2, stuck: 10 * n}, 0.5),
	}
}

func amount(n int) string { return thousands(float64(n)) }

// burst is jobs that come at once: some of one queue, and some of none.
type burst struct{ queued, free int }

func (b burst) size() int { return b.queued + b.free }

// The bursts of a run: so many, but none begins after burstsFor.
const (
	bursts    = 10
	burstsFor = 2 * time.Second
)

// burstShape measures the time from the commit of a burst, with a worker that is idle and listens, until all is done.
func (l *lab) burstShape(title string, b burst, goalMS float64) shape {
	return shape{
		group: shapeSerial, title: title + ": until all are done", main: allDone,
		takes: takesPart[serves],
		once: func(ctx context.Context, s system) (sample, error) {
			return l.bursts(ctx, s.(serves), b)
		},
		goals: []goal{{allDone, "", atMost, goalMS}, {slowest, "", "", 0}},
	}
}

func (l *lab) bursts(ctx context.Context, s serves, b burst) (sample, error) {
	worker, err := s.startServing(ctx, bursts*b.size())
	if err != nil {
		return nil, err
	}
	if err := s.fill(ctx, backlog{}); err != nil {
		return nil, errors.Join(err, worker.wait())
	}
	var took []float64
	inTime := true
	r, err := worker.serve(func() error {
		for began := time.Now(); len(took) == 0 || inTime && len(took) < bursts && time.Since(began) < burstsFor; {
			time.Sleep(10 * gap()) // until it is idle
			if err := s.burst(ctx, len(took)*b.size(), b); err != nil {
				return err
			}
			committed := time.Now()
			if inTime, err = l.until(ctx, s, 0, committed, burstPatience); err != nil {
				return err
			}
			took = append(took, float64(time.Since(committed))/float64(time.Millisecond))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	got := sample{allDone: median(took), slowest: slices.Max(took)}
	return got, got.account(ctx, s, backlog{jobs: len(took) * b.size()}, r.Ran, burstPatience, inTime)
}

// burst inserts jobs in one call of Graphile Worker's own function, whose notification comes with the commit.
func (t tables) burst(ctx context.Context, first int, b burst) error {
	_, err := t.admin.Exec(ctx, fmt.Sprintf(`
select from %[1]s.add_jobs(array(
  select row('%[2]s', json_build_object('n', $1::int + i), case when i < $2::int then 'serial' end, null, null, null, null, null)::%[1]s.job_spec
    from generate_series(0, $3::int - 1) as i order by i))`, t.schema, taskName), first, b.queued, b.size())
	if err != nil {
		return fmt.Errorf("insert a burst: %w", err)
	}
	return nil
}

// hinderedShape measures the rate with something in the way, as a share of the rate without, each from the start of the worker.
func (l *lab) hinderedShape(title string, free, hindered backlog, goalShare float64) shape {
	return shape{
		group: shapeSerial, title: title, main: share,
		takes: takesPart[serves],
		once: func(ctx context.Context, s system) (sample, error) {
			base, err := l.serve(ctx, s.(serves), free)
			if err != nil {
				return nil, fmt.Errorf("unhindered: %w", err)
			}
			got, err := l.serve(ctx, s.(serves), hindered)
			if err != nil {
				return nil, err
			}
			if got[unhindered] = base[rate]; base[rate] > 0 {
				got[share] = got[rate] / base[rate]
			}
			return got, nil
		},
		goals: []goal{{share, "", atLeast, goalShare}},
	}
}

// serve has a worker do the jobs of a backlog that are not stuck.
func (l *lab) serve(ctx context.Context, s serves, b backlog) (sample, error) {
	worker, err := s.startServing(ctx, b.jobs)
	if err != nil {
		return nil, err
	}
	if err := s.fill(ctx, b); err != nil {
		return nil, errors.Join(err, worker.wait())
	}
	server, err := l.serverUse(ctx)
	if err != nil {
		return nil, errors.Join(err, worker.wait())
	}
	var took time.Duration
	inTime, started := false, time.Now()
	r, err := worker.serve(func() error {
		inTime, err = l.until(ctx, s, b.stuck, started, l.opts.patience)
		took = time.Since(started)
		return err
	})
	if err != nil {
		return nil, err
	}
	got := sample{rate: float64(r.Ran) / took.Seconds()}
	if r.Ran > 0 {
		got[cpu] = float64(worker.cpu().Microseconds()) / float64(r.Ran)
		err = server.add(ctx, got, r.Ran)
	}
	return got, errors.Join(err, got.account(ctx, s, b, r.Ran, took, inTime))
}

// until waits until no job is left whose id is above that of the stuck, and reports whether that was in time. It looks at
// intervals that cost nothing and say the time to 1 %.
func (l *lab) until(ctx context.Context, s serves, stuck int, started time.Time, patience time.Duration) (bool, error) {
	if !isPeer(s) {
		patience = stuckAfter
	}
	return l.within(ctx, s, stuck, started, patience)
}

func (l *lab) within(ctx context.Context, s serves, stuck int, started time.Time, patience time.Duration) (bool, error) {
	for {
		unfinished, err := s.unfinished(ctx, stuck)
		if took := time.Since(started); err != nil || !unfinished || took > patience {
			return !unfinished, err
		}
		time.Sleep(max(time.Millisecond/2, time.Since(started)/100))
	}
}

// unfinished says whether jobs are left with an id above that of the stuck. The greatest is found at the end of an index, which work
// reaches last.
func (t tables) unfinished(ctx context.Context, stuck int) (bool, error) {
	var some bool
	err := t.admin.QueryRow(ctx, "select coalesce(max(id), 0) > $1 from "+t.schema+"._private_jobs", stuck).Scan(&some)
	if err != nil {
		return false, fmt.Errorf("look for jobs: %w", err)
	}
	return some, nil
}

// account checks that every job of a backlog has either run or is left, once, and notes what a peer did not do in time.
func (s sample) account(ctx context.Context, of system, b backlog, ran int, took time.Duration, inTime bool) error {
	switch {
	case inTime && ran == b.jobs:
		return left(ctx, of, b.stuck)
	case inTime || !isPeer(of):
		return fmt.Errorf("WRONG: %d jobs ran, want %d", ran, b.jobs)
	}
	s[leftOver], s[gaveUp] = float64(b.jobs-ran), took.Seconds()
	// Graphile Worker that is stopped while it fetches a job runs it, and does not record that: the job stays, locked.
	waiting, err := of.waiting(ctx)
	if want := b.stuck + b.jobs - ran; err == nil && waiting < want {
		err = fmt.Errorf("WRONG: %d jobs are left, want %d", waiting, want)
	}
	return err
}
