package backfill

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// DeadLetterFilter says which dead letters are meant: those that everything in it is true of. A
// field that is nil or zero is not asked for. A list matches what is one of its elements; an empty
// list, or an empty text in one, is an error, and never means all.
type DeadLetterFilter struct {
	_ [0]func() // fields may be added

	IDs     []int64  // of the dead letters
	JobIDs  []int64  // that the jobs had when they failed last
	Tasks   []string // wire names, exactly
	Queues  []string
	Keys    []string
	Reasons []DeadLetterReason

	FailedAfter   time.Time // they failed then or later
	FailedBefore  time.Time // they failed earlier
	ErrorContains string    // their LastError has this text in it

	// UpTo leaves out what failed later: what a dry run has not seen. See [DeadLetterResult].
	UpTo DeadLetterBound
	// Requeued also lists those that are requeued. It is for lists only: they cannot be changed.
	Requeued bool
	// All says that a filter with none of the other fields is meant for all dead letters. Requeue
	// and delete refuse such a filter without it.
	All bool
}

// DeadLetterBound is what was there at a moment: dead letters up to an id, whose last failure was
// not later. The zero value is no bound.
type DeadLetterBound struct {
	_ [0]func() // fields may be added

	ID       int64
	FailedAt time.Time
}

func (b DeadLetterBound) isZero() bool { return b.ID == 0 && b.FailedAt.IsZero() }

// check reports everything that is wrong with a filter of a list.
func (f *DeadLetterFilter) check() error {
	problems := []error{
		checkIDs("IDs", f.IDs), checkIDs("JobIDs", f.JobIDs), checkTexts("Tasks", f.Tasks, maxNameLength),
		checkTexts("Queues", f.Queues, maxQueueLength), checkTexts("Keys", f.Keys, maxKeyLength), f.checkReasons(),
		checkText("ErrorContains", f.ErrorContains, maxErrorText),
	}
	for _, field := range []struct {
		name string
		at   time.Time
	}{{"FailedAfter", f.FailedAfter}, {"FailedBefore", f.FailedBefore}, {"UpTo.FailedAt", f.UpTo.FailedAt}} {
		if field.at.Before(minRunAt) || !field.at.Before(maxRunAt) {
			problems = append(problems, fmt.Errorf("%s is in the year %d: PostgreSQL has times from 4713 BC to 294276", field.name, field.at.UTC().Year()))
		}
	}
	if !f.FailedAfter.IsZero() && !f.FailedBefore.IsZero() && !f.FailedAfter.Before(f.FailedBefore) {
		problems = append(problems, errors.New("FailedAfter is not before FailedBefore: nothing can match"))
	}
	if !f.UpTo.isZero() && (f.UpTo.ID <= 0 || f.UpTo.FailedAt.IsZero()) {
		problems = append(problems, errors.New("UpTo needs both ID and FailedAt: pass what a dry run returned"))
	}
	return errors.Join(problems...)
}

func checkIDs(field string, ids []int64) error {
	switch {
	case ids != nil && len(ids) == 0:
		return fmt.Errorf("%s is an empty list: leave it nil for any", field)
	case slices.ContainsFunc(ids, func(id int64) bool { return id <= 0 }):
		return fmt.Errorf("%s has a number that is no id: want 1 to %d", field, math.MaxInt64)
	}
	return nil
}

func checkTexts(field string, texts []string, limit int) error {
	if texts != nil && len(texts) == 0 {
		return fmt.Errorf("%s is an empty list: leave it nil for any", field)
	}
	for _, text := range texts {
		if text == "" {
			return fmt.Errorf("%s has an empty text", field)
		}
		if err := checkText(field, text, limit); err != nil {
			return err
		}
	}
	return nil
}

func (f *DeadLetterFilter) checkReasons() error {
	if f.Reasons != nil && len(f.Reasons) == 0 {
		return errors.New("Reasons is an empty list: leave it nil for any") //nolint:staticcheck // the name of a field
	}
	for _, reason := range f.Reasons {
		if !slices.Contains(deadLetterReasons, reason) {
			return fmt.Errorf("the reason %s is none: want one of %v", shortQuote(string(reason)), deadLetterReasons)
		}
	}
	return nil
}

// checkForChange reports what is wrong with a filter that says what to change.
func (f *DeadLetterFilter) checkForChange() error {
	problem := f.check()
	switch empty := f.empty(); {
	case empty && !f.All:
		problem = errors.Join(problem, errors.New("the filter is empty: set a field, or All if all dead letters are meant"))
	case !empty && f.All:
		problem = errors.Join(problem, errors.New("the filter has All beside other fields: leave out one or the others"))
	}
	if f.Requeued {
		problem = errors.Join(problem, errors.New("the filter has Requeued, which is for lists only: what is requeued cannot be changed"))
	}
	return problem
}

// empty reports whether a filter asks for nothing in particular.
func (f *DeadLetterFilter) empty() bool {
	return f.IDs == nil && f.JobIDs == nil && f.Tasks == nil && f.Queues == nil && f.Keys == nil && f.Reasons == nil &&
		f.FailedAfter.IsZero() && f.FailedBefore.IsZero() && f.ErrorContains == ""
}

func (f *DeadLetterFilter) toPG() pg.DeadLetterFilter {
	var reasons []string
	for _, reason := range f.Reasons {
		reasons = append(reasons, string(reason))
	}
	filter := pg.DeadLetterFilter{
		IDs: f.IDs, JobIDs: f.JobIDs, Tasks: f.Tasks, Queues: f.Queues, Keys: f.Keys, Reasons: reasons,
		FailedAfter: f.FailedAfter, FailedBefore: f.FailedBefore, ErrorContains: f.ErrorContains,
	}
	if !f.UpTo.isZero() {
		filter.UpTo = pg.NewDeadLetterPlace(f.UpTo.FailedAt, f.UpTo.ID)
	}
	return filter
}
