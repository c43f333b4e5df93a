package backfill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// JobFilter says which jobs are meant: those that everything in it is true of. A field that is nil
// or zero is not asked for. A list matches what is one of its elements; an empty list, or an empty
// text in one, is an error, and never means all.
type JobFilter struct {
	_ [0]func() // fields may be added

	IDs    []int64
	Tasks  []string // wire names, exactly
	Queues []string
	Keys   []string

	// Waiting leaves out jobs that run.
	Waiting bool
	// UpTo leaves out jobs with greater ids: those that were enqueued after a dry run. See
	// [CancelResult]. A job that was enqueued again by its key meanwhile keeps its id.
	UpTo int64
	// All says that a filter without IDs, Tasks, Queues and Keys is meant for all jobs.
	All bool
}

// CancelOptions says more about a cancel. The zero value says nothing.
type CancelOptions struct {
	_ [0]func() // fields may be added

	By     string // who cancels, 512 characters at most; the handler's cause and the log have it
	Reason string // why, 10,000 characters at most

	// DryRun changes nothing. The outcomes say what a cancel at this moment would come to; those of
	// [Client.CancelJobs] are of 10,000 jobs at most.
	DryRun bool
	// PerSecond is how many jobs are cancelled in a second, at most. Default: 0, no limit. For
	// [Client.CancelJobs].
	PerSecond float64
	// Each is called for every outcome, in order, as soon as it is known: the result has the first
	// 1,000. For [Client.CancelJobs].
	Each func(CancelOutcome)
}

// CancelOutcome is what became of one job.
type CancelOutcome struct {
	_ [0]func() // fields may be added

	JobID  int64
	State  CancelState
	Worker string // with [CancelRequested] and [CancelForeign], the worker that has the job, as far as it is known
	Detail string // what else is known; "": nothing
}

// CancelState says what became of a job that was to be cancelled.
type CancelState string

// What becomes of jobs that are to be cancelled.
const (
	// CancelDone: the job is deleted, and no handler has it. Either it did not run, or its worker
	// has ended it already.
	CancelDone CancelState = "canceled"
	// CancelRequested: a Go worker has the job, or had it and is dead. The request is stored. The
	// handler's context ends with the cause [ErrCanceled], within 2 seconds. Whatever it returns
	// then, the job is deleted: it never runs again. Until it returns, the job is there, and so are
	// its queue's and its key's holds.
	CancelRequested CancelState = "requested"
	// CancelTooLate: the job has ended. It has succeeded, was removed, or has failed for good.
	CancelTooLate CancelState = "too_late"
	// CancelForeign: a Node worker has the job, and cannot be told. Nothing was changed.
	CancelForeign CancelState = "foreign"
	// CancelLocked: another transaction has locked the job's row for longer than 3 seconds. Nothing
	// was changed.
	CancelLocked CancelState = "locked"
	// CancelRefused: the database does not delete the job; Detail says why. A trigger may do that.
	CancelRefused CancelState = "refused"
	// CancelUnmatched: its id is in the filter, and something else in the filter is not true of it;
	// or it has changed since it was found: it was enqueued again by its key, or it runs, and the
	// filter has Waiting. Nothing was changed.
	CancelUnmatched CancelState = "unmatched"
	// CancelUnknown: the job is gone. It was cancelled, or has succeeded: the answer of the
	// database was lost, or somebody else has cancelled it at the same time, and is told which.
	CancelUnknown CancelState = "unknown"
)

// CancelResult is what became of the jobs that a filter matched.
type CancelResult struct {
	_ [0]func() // fields may be added

	Canceled, Requested int // of a dry run: jobs that wait, and that Go workers have
	Skipped             int
	SkippedBy           map[CancelState]int // Skipped, by state
	Outcomes            []CancelOutcome     // the first 1,000
	// UpTo is the greatest id at the beginning, or -1 if there was no job: none that was enqueued
	// later was cancelled. Put that of a dry run into the filter of what follows it.
	UpTo int64
	// Unaffected is how many jobs match and have failed for good. Of dry runs.
	Unaffected int
	More       bool // of a dry run: more match than were counted
}

// Cancel ends a job. One that waits is deleted. One that a Go worker runs ends there: see
// [CancelRequested]. The outcome says which; a job that has ended is no error. A job that was
// cancelled never runs again, whatever its workers know: the request is in the database. Its dead
// letter, if it was requeued from one, goes with it.
//
// It waits for no transaction of others for longer than 3 seconds.
func (c *Client) Cancel(ctx context.Context, jobID int64, options CancelOptions) (CancelOutcome, error) {
	outcome, err := c.cancel(ctx, jobID, options)
	if err != nil {
		return CancelOutcome{}, fmt.Errorf("cancel job %d: %w", jobID, err)
	}
	return outcome, nil
}

func (c *Client) cancel(ctx context.Context, jobID int64, options CancelOptions) (none CancelOutcome, err error) {
	if err := c.usable(ctx); err != nil {
		return none, err
	}
	problem := options.check()
	if jobID <= 0 {
		problem = errors.Join(problem, errors.New("the id is none: want that of a job, as Enqueue returns it"))
	}
	if options.PerSecond != 0 || options.Each != nil {
		problem = errors.Join(problem, errors.New("PerSecond and Each are for CancelJobs"))
	}
	if problem != nil {
		return none, invalid(problem)
	}
	ids := []int64{jobID}
	if options.DryRun {
		found, err := c.admin.FindJobs(ctx, pg.CancelFilter{IDs: ids, UpTo: jobID}, 0, 1)
		switch {
		case err != nil:
			return none, err
		case len(found) == 0:
			return CancelOutcome{JobID: jobID, State: CancelTooLate}, nil
		}
		return newCancelOutcome(found[0].CancelOutcome), nil
	}
	outcomes, err := c.admin.Cancel(ctx, ids, options.By, options.Reason)
	if len(outcomes) == 0 {
		return none, err
	}
	return newCancelOutcome(outcomes[0]), nil
}

func newCancelOutcome(o pg.CancelOutcome) CancelOutcome {
	return CancelOutcome{JobID: o.ID, State: CancelState(o.State), Worker: o.Worker, Detail: o.Detail}
}

// CancelJobs ends the jobs that match, each as [Client.Cancel] does. It works on what is there when
// it begins, 100 jobs at a time, and each has an outcome of its own. What is enqueued later is not
// touched, also under the key of a job that was found: to keep a task from running, [Client.Pause]
// it.
//
// When ctx ends, the result has what was done until then, beside the error. The result is nil if
// nothing was tried because the filter, the options or the client are wrong.
func (c *Client) CancelJobs(ctx context.Context, filter JobFilter, options CancelOptions) (*CancelResult, error) {
	if err := c.usable(ctx); err != nil {
		return nil, fmt.Errorf("cancel jobs: %w", err)
	}
	if err := errors.Join(filter.check(), options.check()); err != nil {
		return nil, fmt.Errorf("cancel jobs: %w", invalid(err))
	}
	run := &cancelRun{
		client: c, filter: filter, options: options, named: map[int64]bool{}, byID: filter.byID(),
		result: CancelResult{SkippedBy: map[CancelState]int{}},
	}
	if err := run.do(ctx); err != nil {
		return &run.result, fmt.Errorf("cancel jobs: %w", err)
	}
	return &run.result, nil
}

func (f *JobFilter) check() error {
	problems := []error{
		checkIDs("IDs", f.IDs), checkTexts("Tasks", f.Tasks, maxNameLength), checkTexts("Queues", f.Queues, maxQueueLength),
		checkTexts("Keys", f.Keys, maxKeyLength),
	}
	empty := f.IDs == nil && f.Tasks == nil && f.Queues == nil && f.Keys == nil
	switch {
	case empty && !f.All:
		problems = append(problems, errors.New("the filter is empty: set a field, or All if all jobs are meant"))
	case !empty && f.All:
		problems = append(problems, errors.New("the filter has All beside other fields: leave out one or the others"))
	}
	if f.UpTo < -1 {
		problems = append(problems, fmt.Errorf("UpTo is %d: pass what a dry run returned", f.UpTo))
	}
	return errors.Join(problems...)
}

// byID reports whether the filter asks for nothing but ids.
func (f *JobFilter) byID() bool {
	return f.IDs != nil && f.Tasks == nil && f.Queues == nil && f.Keys == nil && !f.Waiting && f.UpTo == 0
}

func (o *CancelOptions) check() error {
	return errors.Join(checkText("by", o.By, maxKeyLength), checkText("reason", o.Reason, maxErrorText), checkRate(o.PerSecond))
}

// cancelRun is a CancelJobs that is under way.
type cancelRun struct {
	client  *Client
	filter  JobFilter
	options CancelOptions
	result  CancelResult
	named   map[int64]bool // ids of the filter that have an outcome
	byID    bool           // the filter asks for nothing else
}

func (r *cancelRun) do(ctx context.Context) error {
	if r.filter.UpTo == 0 {
		last, err := r.client.admin.LastJob(ctx)
		if err != nil {
			return err
		}
		r.filter.UpTo = last
	}
	r.result.UpTo = r.filter.UpTo
	run := r.run
	if r.options.DryRun {
		run = r.preview
	}
	if err := run(ctx, pg.CancelFilter{
		IDs: r.filter.IDs, Tasks: r.filter.Tasks, Queues: r.filter.Queues, Keys: r.filter.Keys, Waiting: r.filter.Waiting, UpTo: r.filter.UpTo,
	}); err != nil {
		return err
	}
	r.tellMissing()
	return nil
}

// run takes one batch after the other.
func (r *cancelRun) run(ctx context.Context, filter pg.CancelFilter) error {
	for after := int64(0); ; {
		found, err := r.client.admin.FindJobs(ctx, filter, after, foundAtOnce)
		if err != nil || len(found) == 0 {
			return err
		}
		for batch := range slices.Chunk(found, batchSize(r.options.PerSecond)) {
			began := time.Now()
			outcomes, err := r.client.admin.CancelFound(ctx, batch, filter.Waiting, r.options.By, r.options.Reason)
			r.tell(outcomes)
			if err != nil {
				return err
			}
			if after = batch[len(batch)-1].ID; len(found) < foundAtOnce && after == found[len(found)-1].ID {
				return nil
			}
			if err := restAfter(ctx, began, len(batch), r.options.PerSecond); err != nil {
				return err
			}
		}
	}
}

// preview tells what would become of the first that match, and counts those that would be left
// alone.
func (r *cancelRun) preview(ctx context.Context, filter pg.CancelFilter) error {
	found, err := r.client.admin.FindJobs(ctx, filter, 0, previewed+1)
	if err != nil {
		return err
	}
	if len(found) > previewed {
		found, r.result.More = found[:previewed], true
	}
	for _, job := range found {
		r.tell([]pg.CancelOutcome{job.CancelOutcome})
	}
	r.result.Unaffected, err = r.client.admin.CountUnaffected(ctx, filter)
	return err
}

func (r *cancelRun) tell(outcomes []pg.CancelOutcome) {
	for _, o := range outcomes {
		outcome := newCancelOutcome(o)
		switch outcome.State {
		case CancelDone:
			r.result.Canceled++
		case CancelRequested:
			r.result.Requested++
		default:
			r.result.Skipped++
			r.result.SkippedBy[outcome.State]++
		}
		if r.filter.IDs != nil {
			r.named[o.ID] = true
		}
		if len(r.result.Outcomes) < maxOutcomes {
			r.result.Outcomes = append(r.result.Outcomes, outcome)
		}
		if r.options.Each != nil {
			r.options.Each(outcome)
		}
	}
}

// tellMissing tells of ids of the filter that nothing was found for.
func (r *cancelRun) tellMissing() {
	if r.result.More {
		return
	}
	var missing []pg.CancelOutcome
	for _, id := range r.filter.IDs {
		if r.named[id] {
			continue
		}
		r.named[id] = true // it may be there twice
		outcome := pg.CancelOutcome{ID: id, State: pg.CancelTooLate, Detail: "no such job waits or runs"}
		if !r.byID {
			outcome.State, outcome.Detail = pg.CancelUnmatched, "no such job waits or runs, or it does not match the rest of the filter"
		}
		missing = append(missing, outcome)
	}
	r.tell(missing)
}
