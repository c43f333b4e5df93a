package admin

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// LetterFilter says which dead letters are meant: those that everything in it is true of. A field that
// is nil or zero is not asked for. A list matches what is one of its elements; an empty list, or an
// empty text in one, is an error, and never means all. So is a field that is not known, in JSON.
type LetterFilter struct {
	_ [0]func() // fields may be added

	IDs     []int64  `json:"ids,omitzero"`     // of the dead letters
	JobIDs  []int64  `json:"job_ids,omitzero"` // that the jobs had when they failed last
	Tasks   []string `json:"tasks,omitzero"`   // wire names, exactly
	Queues  []string `json:"queues,omitzero"`
	Keys    []string `json:"keys,omitzero"`
	Reasons []string `json:"reasons,omitzero"` // see Letter.Reason

	FailedFrom    time.Time `json:"failed_from,omitzero"` // then or later
	FailedBefore  time.Time `json:"failed_before,omitzero"`
	ErrorContains string    `json:"error_contains,omitzero"` // a text that is in the last error, and not hidden there
	// Requeued also lists those that are requeued.
	Requeued bool `json:"requeued,omitzero"`
}

// UnmarshalJSON refuses fields that are not known, given twice, or empty.
func (f *LetterFilter) UnmarshalJSON(data []byte) error {
	type plain LetterFilter // without this method
	var read plain
	if err := decodeFilter(data, &read); err != nil {
		return err
	}
	*f = LetterFilter(read)
	return nil
}

var letterReasons = []string{"exhausted", "permanent", "crashed", "interrupted", "swept"}

// Check reports everything that is wrong with a filter; its errors are ErrInvalid.
func (f *LetterFilter) Check() error {
	problems := []error{
		checkList("ids", f.IDs, checkID), checkList("job_ids", f.JobIDs, checkID),
		checkList("tasks", f.Tasks, checkName), checkList("queues", f.Queues, checkName), checkList("keys", f.Keys, checkName),
		checkList("reasons", f.Reasons, func(reason string) error {
			if !slices.Contains(letterReasons, reason) {
				return fmt.Errorf("the reason %s is none: want one of %v", quoteShort(reason), letterReasons)
			}
			return nil
		}),
		checkTimes("failed", f.FailedFrom, f.FailedBefore),
	}
	if f.ErrorContains != "" {
		problems = append(problems, named("error_contains", checkName(f.ErrorContains)))
	}
	return invalid(errors.Join(problems...))
}

func (f *LetterFilter) toPG() pg.DeadLetterFilter {
	return pg.DeadLetterFilter{
		IDs: f.IDs, JobIDs: f.JobIDs, Tasks: f.Tasks, Queues: f.Queues, Keys: f.Keys, Reasons: f.Reasons,
		FailedAfter: f.FailedFrom, FailedBefore: f.FailedBefore, ErrorContains: f.ErrorContains,
	}
}
