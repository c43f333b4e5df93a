package testutil

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
)

// State is what [WaitFor] waits for.
type State string

// The states that a job can reach. All but Running are reached when the database knows of it.
const (
	Running   State = "running"   // a handler has started
	Succeeded State = "succeeded" // a handler has succeeded, and the job is gone
	Failed    State = "failed"    // an attempt has failed, the last or one before
	Snoozed   State = "snoozed"   // a handler has put the job off
	Dead      State = "dead"      // the job has failed for good
	Canceled  State = "canceled"  // the job was deleted, because [backfill.Client.Cancel] asked for it
)

// reached are the events after which a job may have reached a state. Those of Dead can come from
// another worker.
var reached = map[State]backfill.EventKind{
	Running: backfill.EventStart, Succeeded: backfill.EventFinished, Failed: backfill.EventFailed, Snoozed: backfill.EventSnoozed,
	Dead: backfill.EventDead, Canceled: backfill.EventCanceled,
}

// WaitOption changes how [WaitFor] waits.
type WaitOption interface{ applyToWait(o *waitOptions) }

type waitOptions struct{ limit time.Duration }

type within time.Duration

func (d within) applyToWait(o *waitOptions) { o.limit = time.Duration(d) }

// Within limits how long [WaitFor] waits. Default: 30 seconds.
func Within(d time.Duration) WaitOption { return within(d) }

const (
	waitTimeout = 30 * time.Second
	// reportTime is what is left of the test's own time for the failure.
	reportTime = time.Second
)

// WaitFor waits until a job has reached a state, and returns the event that says so, with its Err.
// It does not matter whether it has reached the state before the call, and left it since. Pass the
// job that an enqueue or [RequireEnqueued] returned.
//
//	event := testutil.WaitFor(t, worker, job, testutil.Failed)
//
// It waits for the events of the worker, so the job has to be one that this worker runs. When its
// time is over, or the state cannot be reached any more, the test fails, and says what the job
// does: its state and error, when it runs again, or where its handler hangs.
func WaitFor(tb testing.TB, w *Worker, job *backfill.Job, state State, opts ...WaitOption) backfill.Event {
	tb.Helper()
	options := waitOptions{limit: waitTimeout}
	for _, option := range opts {
		if option != nil {
			option.applyToWait(&options)
		}
	}
	if w == nil || job == nil || reached[state] == "" {
		tb.Fatalf("testutil: WaitFor: the worker or the job is nil, or nobody knows the state %q", state)
		return backfill.Event{}
	}
	event, err := w.wait(tb, job, state, options.limit)
	if err != nil {
		tb.Fatalf("testutil: %v", err)
	}
	return event
}

func (w *Worker) wait(tb testing.TB, job *backfill.Job, state State, limit time.Duration) (backfill.Event, error) {
	tb.Helper()
	if test, ok := tb.(interface{ Deadline() (time.Time, bool) }); ok {
		if deadline, ok := test.Deadline(); ok {
			limit = min(limit, time.Until(deadline)-reportTime)
		}
	}
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	defer cancel()
	s := sighting{id: job.ID, task: job.Task, asked: -1}
	for {
		changed, stopped := w.look(ctx, &s)
		switch event, ok := s.is(state); {
		case ok:
			return event, nil
		case s.over():
			return backfill.Event{}, fmt.Errorf("job %d of task %q will not be %s any more: %s", s.id, s.task, state, w.describe(&s))
		case stopped:
			return backfill.Event{}, fmt.Errorf("job %d of task %q is not %s, and the worker has stopped: %s", s.id, s.task, state, w.describe(&s))
		}
		select {
		case <-changed:
		case <-w.ended:
		case <-ctx.Done():
			return backfill.Event{}, fmt.Errorf("job %d of task %q is not %s after %v: %s",
				s.id, s.task, state, limit.Round(time.Millisecond), w.describe(&s))
		}
	}
}

// sighting is what is known of a job.
type sighting struct {
	id     int64
	task   string
	events []seen
	asked  int                 // Worker.flushes when the database was asked; -1: never
	knew   int                 // how many events there were then
	row    *backfill.JobStatus // nil: there is none, or the database was not asked
	gone   bool                // there is none
	err    error               // of asking
}

// look brings a sighting up to date. The database is asked when it may have been told something of
// an end that is known, and at first. It returns what is closed with the next change, and whether
// the worker has stopped.
func (w *Worker) look(ctx context.Context, s *sighting) (changed <-chan struct{}, stopped bool) {
	select {
	case <-w.ended:
		stopped = true
	default:
	}
	w.mu.Lock()
	changed = w.changed
	flushes, events := w.flushes, len(w.events[s.id])
	w.mu.Unlock()
	if flushes != s.asked || events != s.knew {
		s.asked, s.knew = flushes, events
		s.row, s.err = w.client.Job(ctx, s.id)
		s.gone = errors.Is(s.err, backfill.ErrJobNotFound)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s.events = slices.Clone(w.events[s.id]) // no older than what the database has said
	return changed, stopped
}

// is reports whether the job has reached a state, and the event that says so.
func (s *sighting) is(state State) (backfill.Event, bool) {
	if state == Dead {
		return s.death()
	}
	for i, event := range slices.Backward(s.events) {
		if event.Kind == reached[state] && s.counts(i) {
			return event.Event, true
		}
	}
	return backfill.Event{}, false
}

// counts reports whether the database knows of an event. What a handler said whose lease was lost
// does not count.
func (s *sighting) counts(event int) bool {
	kind := s.events[event].Kind
	if kind == backfill.EventStart || kind == backfill.EventCanceled {
		return true
	}
	for _, later := range s.events[event+1:] {
		switch later.Kind { //nolint:exhaustive // the others say nothing of it
		case backfill.EventLeaseLost, backfill.EventCanceled: // which counts, whatever the handler said
			return false
		case backfill.EventStart, backfill.EventDead:
			return true
		}
	}
	switch {
	case s.asked <= s.events[event].flushes: // nothing was recorded since
		return false
	case s.gone:
		return true
	case s.row == nil || kind == backfill.EventFinished:
		return false
	}
	return s.row.State != backfill.JobRunning
}

// death is Dead. The database tells, whoever has ended the job.
func (s *sighting) death() (backfill.Event, bool) {
	for _, event := range slices.Backward(s.events) {
		if event.Kind == backfill.EventDead {
			return event.Event, true
		}
	}
	if s.row == nil || s.row.State != backfill.JobFailed {
		return backfill.Event{}, false
	}
	job := s.row.Job
	return backfill.Event{Kind: backfill.EventDead, Job: &job, Err: errors.New(s.row.LastError), Final: true}, true
}

// over reports whether nothing more will become of the job.
func (s *sighting) over() bool {
	_, succeeded := s.is(Succeeded)
	_, dead := s.is(Dead)
	_, canceled := s.is(Canceled)
	return succeeded || dead || canceled
}

// describe says what a job does.
func (w *Worker) describe(s *sighting) string {
	var text strings.Builder
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s.asked = -1
	w.look(ctx, s)
	_, succeeded := s.is(Succeeded)
	_, canceled := s.is(Canceled)
	stack := w.worker.Stack(s.id)
	switch {
	case canceled:
		text.WriteString("it was cancelled")
	case succeeded:
		text.WriteString("it has succeeded")
	case s.row != nil:
		describeRow(&text, s.row)
	case s.gone && len(s.events) == 0:
		text.WriteString("there is no such job: it is not committed, was removed, or another worker has run it")
	case s.gone:
		text.WriteString("it is gone: it was removed, or another worker has run it")
	default:
		fmt.Fprintf(&text, "the database does not say what it does: %v", s.err)
	}
	for _, event := range s.events {
		describeEvent(&text, event.Event)
	}
	health := w.worker.Health()
	switch err := health.Ready(); {
	case stack != "":
		text.WriteString("\nits handler runs:\n" + stack)
	case err != nil:
		fmt.Fprintf(&text, "\nthe worker takes no jobs: %v", err)
	case s.row != nil && s.row.State == backfill.JobDue:
		fmt.Fprintf(&text, "\nthe worker has not taken it: %d of its %d slots are busy; does its registry have the task, "+
			"is the job's queue held, is either paused?", health.Running, health.Slots)
	}
	return text.String()
}

func describeRow(text *strings.Builder, row *backfill.JobStatus) {
	switch row.State {
	case backfill.JobFailed:
		text.WriteString("it has failed for good")
	case backfill.JobWaiting:
		fmt.Fprintf(text, "it waits until %s, for %v more", row.RunAt.Format(time.RFC3339), time.Until(row.RunAt).Round(time.Millisecond))
	case backfill.JobDue, backfill.JobRunning, backfill.JobSuspect:
		fmt.Fprintf(text, "it is %s", row.State)
	}
	fmt.Fprintf(text, ", attempt %d of %d", row.Attempt, row.MaxAttempts)
	if row.LockedBy != "" {
		fmt.Fprintf(text, ", locked by %s", row.LockedBy)
	}
	if row.LastError != "" {
		fmt.Fprintf(text, "; its last error: %s", row.LastError)
	}
}

func describeEvent(text *strings.Builder, event backfill.Event) {
	fmt.Fprintf(text, "\n  attempt %d: %s", event.Job.Attempt, event.Kind)
	if event.Duration > 0 {
		fmt.Fprintf(text, " after %v", event.Duration.Round(time.Microsecond))
	}
	if event.Err != nil {
		fmt.Fprintf(text, ": %v", event.Err)
	}
	if event.Delay > 0 {
		fmt.Fprintf(text, ", to run again in %v", event.Delay.Round(time.Millisecond))
	}
}
