package backfill

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// awaitLimit is how long Await waits if its context has no deadline.
const awaitLimit = 10 * time.Minute

// Await waits until the job has ended, and returns its output: what its handler has returned (see
// [Returning]) or has given to [Output]. Generated code calls it: AwaitX(ctx, job). The job may
// have ended before, and may have run anywhere. It is looked up by its ID and Task, so &Job{ID: id,
// Task: TaskX.Name} will do in another process; with the job that the enqueue returned, Await also
// notices that another one has replaced it by its key.
//
// Without a deadline in ctx it waits for 10 minutes at most. When ctx ends, the error is a
// [PendingError], which wraps that of ctx. If the job has ended without an output, or there is
// nothing of it, the error is an [EndError], whose End says which; an output that is not of type R
// is an error that does not quote it. Other errors say that the database could not be asked.
//
// Await after the commit: nobody else sees a job before. e is a [Client], or what handlers of tasks
// without a transaction find in their contexts. Await in a handler takes a slot while it waits: if
// handlers of one worker wait for jobs that only the same worker runs, all its slots can be taken.
//
// It asks the database after a tenth of the time that has passed, 50 ms to a second, in one
// statement for all calls on a client, and needs neither a connection of its own nor notifications.
// The role needs the rights of a reader.
func Await[R, T any](ctx context.Context, e Enqueuer, t *Task[T], job *Job) (R, error) {
	var result R
	if err := checkAwaited(t, job); err != nil {
		return result, fmt.Errorf("await job: %w", err)
	}
	if e == nil {
		e = noClient{}
	}
	waiter, ok := e.(awaiter)
	if !ok {
		return result, fmt.Errorf("await job %d: %w", job.ID, invalid(fmt.Errorf("a %T cannot wait: use a *backfill.Client", e)))
	}
	output, err := waiter.Await(ctx, job)
	if err != nil {
		return result, err
	}
	if err := tryDecode(output, &result); err != nil {
		var none R
		_, reason := describe(err)
		return none, fmt.Errorf("await job %d of task %s: its output is not a %T: %s", job.ID, job.Task, none, reason)
	}
	return result, nil
}

// awaiter is implemented by what can wait for jobs.
type awaiter interface {
	Await(ctx context.Context, job *Job) (json.RawMessage, error)
}

func checkAwaited[T any](t *Task[T], job *Job) error {
	switch {
	case t == nil:
		return invalid(errors.New("the *Task is nil: pass the task's descriptor"))
	case job == nil || job.ID <= 0:
		return invalid(errors.New("there is no job: pass what the enqueue returned, or a *backfill.Job with ID and Task"))
	case job.Task != t.Name && !slices.Contains(t.Aliases, job.Task):
		return invalid(fmt.Errorf("job %d is of task %s, and not of %s: use that one's Await", job.ID, shortQuote(job.Task), shortQuote(t.Name)))
	}
	return nil
}

// JobEnd says how a job has ended for which [Await] has no output.
type JobEnd string

// The ends of a job.
const (
	EndFailed     JobEnd = "failed"     // for good: see LastError, and DeadLetterID if it is a dead letter
	EndCanceled   JobEnd = "canceled"   // errors.Is finds ErrCanceled
	EndSuperseded JobEnd = "superseded" // it failed when another job had taken its key, and is not tried again
	EndReplaced   JobEnd = "replaced"   // another enqueue with its key has given it other args, before it ran
	EndRemoved    JobEnd = "removed"    // somebody has removed it before it ran
	EndNoOutput   JobEnd = "no output"  // it has completed, and its handler has given none
	EndNoHistory  JobEnd = "no history" // it is gone, and no history is kept of its task: errors.Is finds ErrNoHistory
	EndExpired    JobEnd = "expired"    // it was enqueued longer ago than its history is kept
	EndUnrecorded JobEnd = "unrecorded" // it is gone without a record: completed by a Node worker, removed by hand, or never committed
	EndUnknown    JobEnd = "unknown"    // there never was a job with its ID: errors.Is finds ErrJobNotFound
)

// EndError is the error of [Await] for a job that has ended in another way than with an output, or
// of which there is nothing. Fields may be added.
type EndError struct {
	_ [0]func()

	JobID        int64
	Task         string
	End          JobEnd
	Attempt      int       // the last one; 0: none is known
	LastError    string    // of that attempt, with secrets hidden; "": none
	EndedAt      time.Time // zero: not known
	DeadLetterID int64     // of the [DeadLetter] that it has become; 0: none
}

// Error says how the job has ended, and what to do.
func (e *EndError) Error() string {
	if e == nil {
		return "the job has ended without an output"
	}
	text := fmt.Sprintf("job %d of task %s ", e.JobID, e.Task)
	switch e.End {
	case EndFailed:
		text += fmt.Sprintf("has failed for good in attempt %d", e.Attempt)
		if e.DeadLetterID > 0 {
			text += fmt.Sprintf(", and is dead letter %d", e.DeadLetterID)
		}
		if e.LastError != "" {
			text += ": " + e.LastError
		}
		return text
	case EndCanceled:
		return text + "was canceled"
	case EndSuperseded:
		return text + "failed when another job had taken its key, and is not tried again"
	case EndReplaced:
		return text + "has other args now: it was enqueued again with its key before it ran"
	case EndRemoved:
		return text + "was removed before it ran"
	case EndNoOutput:
		return text + "has completed without an output: its handler must return one, or call backfill.Output"
	case EndNoHistory:
		return text + "is gone, and " + ErrNoHistory.Error()
	case EndExpired:
		return text + "is older than its history is kept"
	case EndUnrecorded:
		return text + "is gone without a record: a worker of another language has completed it, it was removed by hand, or its transaction was rolled back"
	default:
		return fmt.Sprintf("there never was a job %d in this schema: is it another database's?", e.JobID)
	}
}

// Is finds [ErrCanceled], [ErrNoHistory] and [ErrJobNotFound] in the ends that these name.
func (e *EndError) Is(target error) bool {
	if e == nil {
		return false
	}
	kind, ok := map[JobEnd]error{EndCanceled: ErrCanceled, EndNoHistory: ErrNoHistory, EndUnknown: ErrJobNotFound}[e.End]
	return ok && kind == target
}

// PendingError is the error of [Await] when its context ends before the job does.
type PendingError struct {
	_ [0]func() // fields may be added

	JobID int64
	// State of the job when it was looked at last. "": nobody has seen it; perhaps the transaction is
	// open that enqueued it.
	State JobState
	// Err is why Await has ended: context.Cause of the context, or context.DeadlineExceeded after 10
	// minutes.
	Err error
	// Trouble is why the database was not asked at last; nil: it was.
	Trouble error
}

// Error says what the job was doing.
func (e *PendingError) Error() string {
	if e == nil {
		return "the job has not ended"
	}
	text := fmt.Sprintf("job %d has not ended", e.JobID)
	switch {
	case e.Trouble != nil:
		text += fmt.Sprintf(", as far as is known (%v)", e.Trouble)
	case e.State == "":
		text += ", and is not there yet: a transaction is open that may have enqueued it; await it after the commit"
	default:
		text += fmt.Sprintf(" (%s)", e.State)
	}
	return fmt.Sprintf("%s: %v", text, e.Err)
}

// Unwrap returns Err, so errors.Is finds context.DeadlineExceeded.
func (e *PendingError) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.Err
}

// Await is the function [Await] for output of any type, which it returns as JSON. Of the job it
// needs the ID and the Task.
func (c *Client) Await(ctx context.Context, job *Job) (json.RawMessage, error) {
	if err := c.usable(ctx); err != nil {
		return nil, fmt.Errorf("await job: %w", err)
	}
	if job == nil || job.ID <= 0 || job.Task == "" {
		return nil, fmt.Errorf("await job: %w", invalid(errors.New("pass what the enqueue returned, or a *backfill.Job with ID and Task")))
	}
	if _, ok := ctx.Deadline(); !ok {
		limited, cancel := context.WithTimeout(ctx, awaitLimit)
		defer cancel()
		ctx = limited
	}
	output, err := c.await(ctx, job)
	if err != nil {
		return nil, fmt.Errorf("await: %w", err)
	}
	return output, nil
}

func (c *Client) await(ctx context.Context, job *Job) (json.RawMessage, error) {
	caller := c.watch.Add(job.ID)
	if caller == nil {
		return nil, ErrClosed
	}
	defer c.watch.Remove(caller)
	w := waiting{client: c, job: job, revision: job.Revision, trouble: errNotAsked}
	for {
		select {
		case <-ctx.Done():
			return nil, &PendingError{JobID: job.ID, State: JobState(w.last.State), Err: context.Cause(ctx), Trouble: w.trouble}
		case look, ok := <-caller.Looks:
			if !ok {
				return nil, ErrClosed
			}
			w.trouble = look.Err
			if look.Err == nil {
				w.last = look.Standing
				output, ended, err := w.judge(ctx)
				if ended {
					return output, err
				}
				if ctx.Err() == nil {
					w.trouble = err
				}
			}
			if pg.IsLasting(w.trouble) {
				return nil, w.trouble
			}
		}
	}
}

var errNotAsked = errors.New("there was no time to ask the database")

// waiting is one call that waits for a job.
type waiting struct {
	client   *Client
	job      *Job
	last     pg.Awaited
	trouble  error
	revision int             // of the job's row when its args were compared
	writers  map[string]bool // transactions that may have made the job; nil: nobody has looked
	ended    bool            // all of these have
}

// judge says whether the job has ended, and what there is to return then. Before that, an err says
// that the database could not be asked.
func (w *waiting) judge(ctx context.Context) (output json.RawMessage, ended bool, err error) {
	end := func(how JobEnd) (json.RawMessage, bool, error) {
		return nil, true, &EndError{
			JobID: w.job.ID, Task: w.job.Task, End: how, Attempt: w.last.Attempt, LastError: w.last.Error, EndedAt: w.last.EndedAt, DeadLetterID: w.last.LetterID,
		}
	}
	switch w.last.Outcome {
	case "completed":
		if w.last.Output == nil {
			return end(EndNoOutput)
		}
		return w.last.Output, true, nil
	case "dead":
		return end(EndFailed)
	case "canceled":
		return end(EndCanceled)
	case "superseded":
		return end(EndSuperseded)
	case "removed":
		return end(EndRemoved)
	}
	switch {
	case w.last.LetterID > 0, w.last.State == string(JobFailed):
		return end(EndFailed)
	case w.last.State != "":
		w.writers, w.ended = nil, false
		replaced, err := w.replaced(ctx)
		if replaced {
			return end(EndReplaced)
		}
		return nil, false, err
	}
	absence, err := w.client.admin.Absent(ctx, w.job.ID, w.job.Task)
	switch {
	case err != nil:
		return nil, false, err
	case absence.Hidden:
		return nil, true, errHidden
	case w.last.Outcome != "": // of an attempt that was not the last one
		return end(EndUnrecorded)
	case absence.NotGivenOut:
		return end(EndUnknown)
	case w.mayBeCommitted(absence.Writers):
		return nil, false, nil
	case absence.Retention == 0:
		return end(EndNoHistory)
	case !w.job.CreatedAt.IsZero() && absence.Now.Sub(w.job.CreatedAt) > absence.Retention:
		return end(EndExpired)
	}
	return end(EndUnrecorded)
}

var errHidden = errors.New("row level security hides jobs from this role, so it cannot tell how a job has ended: " +
	"give it the rights of a reader (backfill migrate --reader-role)")

// mayBeCommitted reports whether a transaction may have made the job since it was looked for. Those
// that are open when it is missing for the first time may: later ones have not made it, because its
// ID was given out before. When they have ended, there is one more look.
func (w *waiting) mayBeCommitted(open []string) bool {
	if w.ended {
		return false
	}
	if w.writers == nil {
		w.writers = make(map[string]bool, len(open))
		for _, transaction := range open {
			w.writers[transaction] = true
		}
	}
	w.ended = !slices.ContainsFunc(open, func(transaction string) bool { return w.writers[transaction] })
	return true
}

// replaced reports whether the waiting row has other args than the job. Arrays grow instead: they
// have the job's elements among theirs.
func (w *waiting) replaced(ctx context.Context) (bool, error) {
	if w.job.Key == "" || len(w.job.Args) == 0 || w.job.Args[0] == '[' || w.last.Revision <= w.revision {
		return false, nil
	}
	row, _, err := w.client.admin.Inspect(ctx, w.job.ID)
	if errors.Is(err, ErrJobNotFound) {
		return false, nil // it has ended meanwhile
	}
	if err != nil {
		return false, err
	}
	w.revision = row.Revision
	return cmp.Or(row.Key, w.job.Key) == w.job.Key && (row.Task != w.job.Task || !sameJSON(row.Payload, w.job.Args)), nil
}

// sameJSON reports whether two documents say the same.
func sameJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var values [2]any
	for i, document := range [][]byte{a, b} {
		decoder := json.NewDecoder(bytes.NewReader(document))
		decoder.UseNumber()
		if decoder.Decode(&values[i]) != nil {
			return false
		}
	}
	return reflect.DeepEqual(values[0], values[1])
}
