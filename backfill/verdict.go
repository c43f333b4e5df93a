package backfill

import (
	"context"
	"errors"
	"time"
)

// Verdict says what the error of a handler does to its job. [VerdictOf] returns it. Fields may be
// added: write it with field names, and do not compare two with ==.
type Verdict struct {
	_ [0]func()

	Kind  VerdictKind
	Final bool          // the attempt was the last one, and the job is not tried again
	Delay time.Duration // until the job runs again, of snooze and retry_in; else, and if Final, 0
}

// VerdictKind says which verdict it is.
type VerdictKind string

// The kinds of verdict.
const (
	// VerdictCompleted: the job is done. The error is nil, or a *[BatchError] without failed
	// elements.
	VerdictCompleted VerdictKind = "completed"
	// VerdictRetry: the attempt failed, and the task's backoff says when the next one starts.
	VerdictRetry VerdictKind = "retry"
	// VerdictRetryIn: the attempt failed, and [RetryIn] says when the next one starts.
	VerdictRetryIn VerdictKind = "retry_in"
	// VerdictPermanent: the attempt failed, and [Permanent] says that there is no other one.
	VerdictPermanent VerdictKind = "permanent"
	// VerdictSnooze: the job runs again later, and the attempt is not charged: see [Snooze].
	VerdictSnooze VerdictKind = "snooze"
	// VerdictInterrupted: the worker stops, or has lost the job, and cancelled the handler. The job
	// runs again, here or elsewhere, and the attempt is not charged; unless the job has one attempt in
	// all, which is not repeated: then it has failed for good, and Final is true.
	VerdictInterrupted VerdictKind = "interrupted"
	// VerdictCanceled: [Client.Cancel] has requested the end of the job, so it is deleted, whatever
	// the handler returns. Final is true.
	VerdictCanceled VerdictKind = "canceled"
)

// Failed reports whether the attempt counts as a failure: an error tracker wants these errors, and
// neither snoozes nor interruptions after which the job runs again.
func (v Verdict) Failed() bool {
	switch v.Kind {
	case VerdictRetry, VerdictRetryIn, VerdictPermanent:
		return true
	case VerdictInterrupted:
		return v.Final
	case VerdictCompleted, VerdictSnooze, VerdictCanceled:
	}
	return false
}

// VerdictOf says what happens to the job of ctx if its handler returns err. Middleware calls it
// with the error of next and with its own ctx, which knows how many attempts the job has, and
// whether the worker has cancelled it. Without a job in ctx, Final is true for [Permanent] only.
//
// What counts is the error that the outermost middleware returns: the worker calls VerdictOf with
// that one.
func VerdictOf(ctx context.Context, err error) (verdict Verdict) {
	if ctx == nil {
		ctx = context.Background()
	}
	left := attemptsOf(ctx)
	defer func() {
		if recover() != nil { // a method of err panicked: an error like any other, says the worker too
			verdict = Verdict{Kind: VerdictRetry, Final: left.last}
		}
	}()
	return verdictOf(ctx, err, left)
}

// attempts says what a job has left.
type attempts struct {
	last bool // this attempt is the last one
	only bool // there is one in all, which must not be repeated
}

func attemptsLeft(attempt, most int) attempts {
	return attempts{last: most > 0 && attempt >= most, only: most == 1}
}

// attemptsOf goes by the job as it was claimed: middleware may have changed what JobInfo returns.
func attemptsOf(ctx context.Context) attempts {
	if carried, ok := ctx.Value(jobContextKey{}).(*jobContext); ok {
		return carried.left
	}
	job := JobInfo(ctx) // of testutil.WithJob
	return attemptsLeft(job.Attempt, job.MaxAttempts)
}

// verdictOf is VerdictOf for a job of which is known how many attempts are left.
func verdictOf(ctx context.Context, err error, left attempts) Verdict {
	if isCanceled(ctx) {
		return Verdict{Kind: VerdictCanceled, Final: true}
	}
	if err == nil {
		return Verdict{Kind: VerdictCompleted}
	}
	batch, isBatch := batchOf(err)
	if isBatch && len(batch.failed()) == 0 {
		return Verdict{Kind: VerdictCompleted}
	}
	said := decisionIn(err)
	if snooze, ok := said.(*snoozeError); ok {
		return Verdict{Kind: VerdictSnooze, Delay: snooze.delay}
	}
	if errors.Is(context.Cause(ctx), ErrLeaseLost) {
		return Verdict{Kind: VerdictInterrupted, Final: left.only}
	}
	// A batch that was interrupted half-way is recorded as a failure, so that its finished elements
	// do not run again; unless that would be the last attempt of several.
	if interrupted(ctx, err) && (!isBatch || left.last && !left.only) {
		return Verdict{Kind: VerdictInterrupted, Final: left.only}
	}
	switch said := said.(type) {
	case *permanentError:
		return Verdict{Kind: VerdictPermanent, Final: true}
	case *retryError:
		if left.last {
			return Verdict{Kind: VerdictRetryIn, Final: true}
		}
		return Verdict{Kind: VerdictRetryIn, Delay: said.delay}
	}
	return Verdict{Kind: VerdictRetry, Final: left.last}
}

// isCanceled reports whether the end of the job of ctx was requested: also where something else has
// ended ctx before, such as the task's timeout.
func isCanceled(ctx context.Context) bool {
	if errors.Is(context.Cause(ctx), ErrCanceled) {
		return true
	}
	carried, ok := ctx.Value(jobContextKey{}).(*jobContext)
	return ok && carried.worker != nil && errors.Is(context.Cause(carried.worker), ErrCanceled)
}

// decisionIn returns the error by which a handler decides how its job ends: the outermost in err,
// of joined ones the first; nil if there is none. What a BatchError has inside is about its
// elements.
func decisionIn(err error) (said any) {
	switch e := err.(type) { //nolint:errorlint // errors.As would look into a BatchError
	case *snoozeError, *permanentError, *retryError:
		return err
	case *BatchError:
		return nil
	case *DecodeError: // which has no Unwrap
		return decisionIn(e.cause)
	case interface{ Unwrap() error }:
		return decisionIn(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			if said = decisionIn(err); said != nil {
				return said
			}
		}
	}
	return nil
}

// interrupted reports whether err is there because the worker shuts down. That is not the job's
// fault.
func interrupted(ctx context.Context, err error) bool {
	return errors.Is(context.Cause(ctx), ErrShutdown) && (errors.Is(err, ErrShutdown) || errors.Is(err, context.Canceled))
}
