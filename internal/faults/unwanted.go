//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
)

// An unwanted job is one to be cancelled: while it waits, runs, or has ended already. A process
// enqueues such jobs, and cancels most of them at some moment. Go workers and Node run those that
// are not transactional, so that there are some which cannot be told.

var (
	taskUnwanted       = &backfill.Task[args]{Name: "unwanted", Backoff: backfill.FixedBackoff(500 * time.Millisecond)}
	taskUnwantedEffect = &backfill.Task[args]{Name: "unwanted-effect", Timeout: 30 * time.Second, Backoff: backfill.FixedBackoff(500 * time.Millisecond)}
)

// unwanted reports whether a job of the kind is enqueued to be cancelled.
func (k kind) unwanted() bool { return k == kindUnwanted || k == kindUnwantedEffect }

// end is what the handler of an unwanted job returns: when it is told of the cancel, and until it
// is due. Then it is done.
type end string

const (
	endWell      end = "" // nil
	endFailure   end = "failure"
	endSnooze    end = "snooze"
	endPermanent end = "permanent" // when it is told, and nil else
)

var (
	ends      = []end{endWell, endWell, endFailure, endSnooze, endPermanent}
	endsOnce  = []end{endWell, endFailure} // a job with one attempt starts once
	errNotDue = errors.New("fails until it is due or cancelled")
)

// once is the text of an offer: the job has one attempt.
const once = "once"

// unwanted works as its args say. One that is deaf does not look at its context before its work is
// done.
func (h *handlers) unwanted(ctx context.Context, a args) error {
	return h.run(ctx, record{N: a.N, Kind: a.Kind}, a.beUnwanted)
}

// unwantedEffect writes a row, as an effect does.
func (h *handlers) unwantedEffect(ctx context.Context, tx pgx.Tx, a args) error {
	r := record{N: a.N, Kind: a.Kind, Run: h.runs.Add(1)}
	return h.run(ctx, r, func(ctx context.Context) error {
		if _, err := tx.Exec(ctx, "insert into effects values ($1, $2, $3, $4, 0)", a.N, backfill.JobInfo(ctx).ID, h.log.proc, r.Run); err != nil {
			return fmt.Errorf("write the row: %w", err)
		}
		return a.beUnwanted(ctx)
	})
}

func (a args) beUnwanted(ctx context.Context) error {
	if a.Deaf {
		time.Sleep(time.Duration(a.Work) * time.Millisecond)
	} else {
		_ = work(ctx, a.Work)
	}
	told := errors.Is(context.Cause(ctx), backfill.ErrCanceled)
	switch {
	case ctx.Err() != nil && !told:
		return ctx.Err()
	case !told && (now() >= a.Due || a.End == endPermanent):
		return nil
	}
	switch a.End {
	case endFailure:
		return errNotDue
	case endSnooze:
		return backfill.Snooze(500 * time.Millisecond)
	case endPermanent:
		return backfill.Permanent(errNotDue)
	default:
		return nil
	}
}

// canceller is the process that enqueues unwanted jobs and cancels them.
type canceller struct {
	*enqueuer

	calls sync.WaitGroup
}

// runCanceller is the main function of that process. When it starts again, it repeats the calls
// that had no answer when it ended: it keeps a journal. When it is told to stop, it cancels at once
// what it had in mind to cancel.
func runCanceller(ctx context.Context, spec childSpec, log *journal) error {
	unanswered, err := unansweredCancels(spec.Journal)
	if err != nil {
		return err
	}
	client, err := backfill.Open(ctx, spec.URL)
	if err != nil {
		return err
	}
	defer client.Close()
	c := &canceller{enqueuer: &enqueuer{client: client, offers: newOffers(spec, log), spec: spec}}
	for _, r := range unanswered {
		c.later(ctx, cancelPlan{n: r.N, job: r.Job, key: r.Key})
	}
	var all sync.WaitGroup
	for _, p := range []producer{
		{kindUnwanted, 1, 0.04, 1, c.produceUnwanted(ctx, taskUnwanted, kindUnwanted)},
		{kindUnwantedEffect, 1, 0.02, 1, c.produceUnwanted(ctx, taskUnwantedEffect, kindUnwantedEffect)},
	} {
		all.Go(func() { c.produce(ctx, p, 0) })
	}
	all.Wait()
	c.calls.Wait()
	return nil
}

// unansweredCancels are the calls that earlier lives of the process have begun and not come to an
// end with.
func unansweredCancels(path string) (list []record, err error) {
	open := map[int64]record{}
	_, err = readJournal(path, 0, func(r record) {
		switch r.Op { //nolint:exhaustive // the others are no cancel's
		case opCancel:
			open[r.N] = r
		case opOutcome:
			delete(open, r.N)
		}
	})
	for _, r := range open {
		list = append(list, r)
	}
	return list, err
}

// queuesUnwanted is how many queues there are of unwanted jobs.
const queuesUnwanted = 4

// produceUnwanted enqueues jobs, and cancels four of five of them later. One in three waits first,
// one in five is in a queue, half have a key, and one in five has one attempt.
func (c *canceller) produceUnwanted(stop context.Context, t *backfill.Task[args], k kind) func(*source) func(context.Context) error {
	return func(s *source) func(context.Context) error {
		return func(ctx context.Context) error {
			ctx, cancel := withDeadline(ctx, s)
			defer cancel()
			a := args{
				Kind: k, Work: s.random.IntN(3), Deaf: s.random.IntN(3) == 0, End: ends[s.random.IntN(len(ends))],
				Due: time.Now().Add(time.Duration(s.random.IntN(4000)) * time.Millisecond).UnixMicro(),
			}
			if s.random.IntN(3) > 0 {
				a.Work = 50 + s.random.IntN(2950)
			}
			offer := record{Kind: k}
			var options []backfill.EnqueueOption
			if s.random.IntN(5) == 0 {
				a.End, offer.Text = endsOnce[s.random.IntN(len(endsOnce))], once
				options = append(options, backfill.MaxAttempts(1))
			}
			switch choice := s.random.IntN(15); {
			case choice < 5:
				options = append(options, backfill.Delay(time.Duration(500+s.random.IntN(7500))*time.Millisecond))
			case choice < 8 && k == kindUnwanted:
				a.Queue = fmt.Sprintf("%s-%d", s.name, s.random.IntN(queuesUnwanted))
				a.Work /= 6
				options = append(options, backfill.Queue(a.Queue))
			default:
				options = append(options, backfill.Priority(-1)) // it runs soon
			}
			if s.random.IntN(2) == 0 {
				a.Key = fmt.Sprintf("%s-%d-%d", s.name, c.spec.Proc, a.Due)
				options = append(options, backfill.Key(a.Key))
			}
			plan := cancelPlan{again: s.random.IntN(5) == 0, hurried: s.random.IntN(2) == 0, after: s.moment()}
			offer.Queue, offer.Key = a.Queue, a.Key
			if s.random.IntN(2) == 0 {
				plan.key = a.Key
			}
			wanted := s.random.IntN(5) == 0
			return c.offers.make(ctx, offer, 1, func(ctx context.Context, n int64) error {
				a.N = n
				job, err := backfill.Enqueue(ctx, c.client, t, a, options...)
				if err == nil && !wanted {
					plan.n, plan.job = n, job.ID
					c.later(stop, plan)
				}
				return err
			})
		}
	}
}

// moment is how long after a job was enqueued it is cancelled: at once, soon, or when it has most
// likely started.
func (s *source) moment() time.Duration {
	most := []int{20, 1000, 4000}[s.random.IntN(3)]
	return time.Duration(s.random.IntN(most)) * time.Millisecond
}

// cancelPlan says how a job is to be cancelled.
type cancelPlan struct {
	n, job  int64
	key     string // by this, not by its id; "": by its id
	after   time.Duration
	hurried bool // calls have a deadline
	again   bool // it is cancelled once more after the answer
}

// triesAtStop is how often a call is made again when the process was told to stop.
const triesAtStop = 3

// later cancels a job after some time. A call without an answer that says what became of the job is
// made again.
func (c *canceller) later(stop context.Context, p cancelPlan) {
	c.calls.Go(func() {
		wait := p.after
		for tries := 0; tries < triesAtStop; wait = 200 * time.Millisecond {
			if pause(stop, wait) != nil {
				tries++
			}
			switch state, err := c.cancel(context.WithoutCancel(stop), p); {
			case err != nil || state == backfill.CancelForeign || state == backfill.CancelLocked:
			case p.again:
				p.again = false
			default:
				return
			}
		}
	})
}

// cancel makes one call.
func (c *canceller) cancel(ctx context.Context, p cancelPlan) (backfill.CancelState, error) {
	if p.hurried {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	c.offers.log.write(record{Op: opCancel, N: p.n, Job: p.job, Key: p.key})
	outcome, err := c.cancelBy(ctx, p)
	if err != nil {
		c.offers.log.write(record{Op: opBroke, N: p.n, Text: err.Error()})
		return "", err
	}
	c.offers.log.write(record{Op: opOutcome, N: p.n, Job: p.job, Text: string(outcome.State), Name: outcome.Worker})
	return outcome.State, nil
}

// cancelBy cancels by the id or the key. Where nothing has the key any more, the job has ended.
func (c *canceller) cancelBy(ctx context.Context, p cancelPlan) (backfill.CancelOutcome, error) {
	options := backfill.CancelOptions{By: c.spec.Name, Reason: "on purpose"}
	if p.key == "" {
		return c.client.Cancel(ctx, p.job, options)
	}
	result, err := c.client.CancelJobs(ctx, backfill.JobFilter{Keys: []string{p.key}}, options)
	switch {
	case err != nil:
		return backfill.CancelOutcome{}, err
	case len(result.Outcomes) == 0:
		return backfill.CancelOutcome{JobID: p.job, State: backfill.CancelTooLate}, nil
	case len(result.Outcomes) > 1 || result.Outcomes[0].JobID != p.job:
		return backfill.CancelOutcome{}, fmt.Errorf("the key %q of job %d is that of %v", p.key, p.job, result.Outcomes)
	}
	return result.Outcomes[0], nil
}

// pendingWithin is how long requests may be left when nothing runs any more: those of jobs that are
// gone are deleted when they are 10 s old.
const pendingWithin = 30 * time.Second

// pendingCancels waits until the fleet has deleted all requests to cancel jobs, and writes down
// each that is left.
func (f *fleet) pendingCancels(ctx context.Context) error {
	for begun := time.Now(); ; {
		var jobs []int64
		err := f.server.with(ctx, database, func(ctx context.Context, conn *pgx.Conn) error {
			return conn.QueryRow(ctx, "select coalesce(array_agg(job_id), '{}') from graphile_worker.backfill_cancels").Scan(&jobs)
		})
		if err != nil {
			return fmt.Errorf("look for requests to cancel jobs: %w", err)
		}
		if len(jobs) > 0 && time.Since(begun) > pendingWithin {
			for _, job := range jobs {
				f.log.write(record{Op: opPending, Job: job})
			}
		}
		if len(jobs) == 0 || time.Since(begun) > pendingWithin {
			return nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}
