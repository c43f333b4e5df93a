package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// letterInput names a dead letter.
type letterInput struct {
	LetterID int64 `path:"id"`
}

// letterChange is the body of a change of a dead letter.
type letterChange struct {
	reasoned

	FailedAt time.Time `json:"failed_at,omitzero"` // when it had failed as it was seen: it is left as it is if it has failed again since
}

// add narrows a filter to one task and one queue; "": to any.
func (f *LetterFilter) add(task, queue string) error {
	if task != "" && f.Tasks != nil || queue != "" && f.Queues != nil {
		return invalid(errors.New("task_identifier beside tasks, or queue_name beside queues: choose one"))
	}
	if task != "" {
		f.Tasks = []string{task}
	}
	if queue != "" {
		f.Queues = []string{queue}
	}
	return nil
}

// lettersMeant says which dead letters a request is about.
type lettersMeant struct {
	reasoned

	Filter *LetterFilter `json:"filter,omitzero"`
	Task   string        `json:"task_identifier,omitzero"` // one of the filter's tasks
	Queue  string        `json:"queue_name,omitzero"`      // one of the filter's queues
	All    bool          `json:"all,omitzero"`             // all are meant: without, a filter is
	Max    *int          `json:"max_jobs,omitzero"`        // of them, those that failed last
	DryRun bool          `json:"dry_run,omitzero"`         // change nothing, and say what would be changed
}

type cleanupLetters struct {
	reasoned

	Days   *int `json:"older_than_days,omitzero"` // 1 to 36500; 90 unless it is there
	Max    *int `json:"max_jobs,omitzero"`        // 1 to 10000; 1000 unless it is there
	DryRun bool `json:"dry_run,omitzero"`         // change nothing, and say what would be changed
}

type requeueLetters struct {
	lettersMeant

	Throttle *int   `json:"throttle_ms,omitzero"` // between two of them, 0 to 5000; 50 unless it is there
	Notes    string `json:"notes,omitzero"`
}

type deleteLetters struct{ lettersMeant }

// LetterBatch is what became of a number of dead letters.
type LetterBatch struct {
	_ [0]func() // fields may be added

	DryRun  bool `json:"dry_run"`
	Matched int  `json:"matched"` // max_jobs at most
	// Operation is what changes them, or has. nil: there is nothing to do, or it is a dry run.
	Operation *Operation      `json:"operation,omitempty"`
	Items     []OperationItem `json:"items"` // the first 20
}

// httpStatus tells an operation that goes on from one that is done.
func (b *LetterBatch) httpStatus() int {
	if b.Operation != nil && b.Operation.State == OperationRunning {
		return http.StatusAccepted
	}
	return http.StatusOK
}

// limited is a number of a request, or what it is unless it is there.
func limited(name string, value *int, usual, least, most int) (int, error) {
	switch {
	case value == nil:
		return usual, nil
	case *value < least || *value > most:
		return 0, fmt.Errorf("%s is %d: want %d to %d", name, *value, least, most)
	}
	return *value, nil
}

func (c *cleanupLetters) run(ctx context.Context, a *Admin) (*LetterBatch, error) {
	const usualDays, mostDays, usual, most = 90, 36_500, 1_000, 10_000
	days, err := limited("older_than_days", c.Days, usualDays, 1, mostDays)
	size, second := limited("max_jobs", c.Max, usual, 1, most)
	if err = errors.Join(err, second); err != nil {
		return nil, invalid(err)
	}
	filter := LetterFilter{FailedBefore: time.Now().AddDate(0, 0, -days)}
	return a.letterBatch(ctx, Bulk{Action: ActionDelete, DeadLetters: &filter}, size, c.DryRun, c.Reason)
}

func (q *requeueLetters) run(ctx context.Context, a *Admin) (*LetterBatch, error) {
	const usualThrottle, mostThrottle = 50, 5_000
	bulk, size, err := q.bulk(ActionRequeue)
	throttle, second := limited("throttle_ms", q.Throttle, usualThrottle, 0, mostThrottle)
	if err = errors.Join(err, second); err != nil {
		return nil, invalid(err)
	}
	if bulk.Notes = q.Notes; throttle > 0 {
		bulk.PerSecond = 1000 / float64(throttle)
	}
	return a.letterBatch(ctx, bulk, size, q.DryRun, q.Reason)
}

func (d *deleteLetters) run(ctx context.Context, a *Admin) (*LetterBatch, error) {
	bulk, size, err := d.bulk(ActionDelete)
	if err != nil {
		return nil, invalid(err)
	}
	return a.letterBatch(ctx, bulk, size, d.DryRun, d.Reason)
}

func (m *lettersMeant) bulk(action Action) (Bulk, int, error) {
	const usual, most = 100, 1_000
	filter := LetterFilter{}
	if m.Filter != nil {
		filter = *m.Filter
	}
	size, err := limited("max_jobs", m.Max, usual, 1, most)
	err = errors.Join(err, filter.add(m.Task, m.Queue))
	switch empty := filter.IsEmpty(); {
	case empty && !m.All:
		err = errors.Join(err, errors.New("the filter is empty: set a field, or all if all are meant"))
	case !empty && m.All:
		err = errors.Join(err, errors.New("all beside a filter: leave out one or the other"))
	}
	if filter.Requeued {
		err = errors.Join(err, errors.New("requeued is for lists: what is requeued cannot be changed"))
	}
	return Bulk{Action: action, DeadLetters: &filter}, size, err
}

// letterBatch changes the dead letters that a filter matches, size of them at most, as an operation
// over their ids. It waits for its end for some seconds; then the operation goes on by itself.
func (a *Admin) letterBatch(ctx context.Context, bulk Bulk, size int, dry bool, reason string) (*LetterBatch, error) {
	const patience = 20 * time.Second
	batch := &LetterBatch{DryRun: dry, Items: []OperationItem{}}
	ids, err := a.letterIDs(ctx, *bulk.DeadLetters, size)
	if err != nil || len(ids) == 0 {
		return batch, err
	}
	bulk.DeadLetters = &LetterFilter{IDs: ids, FailedBefore: bulk.DeadLetters.FailedBefore}
	preview, err := a.Preview(ctx, bulk)
	if err != nil {
		return nil, err
	}
	batch.Matched, batch.Items = preview.Operation.Matched, preview.Items
	if dry || preview.Token == "" {
		return batch, nil
	}
	if batch.Operation, err = a.Start(ctx, preview.Token, ChangeOptions{Reason: reason}); err != nil {
		return nil, err
	}
	carrying, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if done, err := a.CarryOperation(carrying, batch.Operation.ID, nil); err == nil {
		batch.Operation = done
		return batch, nil
	} else if carrying.Err() == nil {
		return nil, err
	}
	a.carryAlone(ctx, batch.Operation.ID)
	return batch, nil
}

// letterIDs lists dead letters that the principal may read.
func (a *Admin) letterIDs(ctx context.Context, filter LetterFilter, size int) ([]int64, error) {
	var ids []int64
	for after := ""; ; {
		list, err := a.Letters(ctx, filter, LetterPage{After: after, Size: min(size-len(ids), mostPage)})
		if err != nil {
			return nil, err
		}
		if len(list.Missing) > 0 {
			return nil, &UnreadableError{list.Missing[0]}
		}
		for i := range list.Letters {
			ids = append(ids, list.Letters[i].ID)
		}
		if after = list.Next; after == "" || len(ids) >= size {
			return ids, nil
		}
	}
}

type listDeadLettersInput struct {
	pageInput
	Task         string `query:"task_identifier"` // one of tasks
	Queue        string `query:"queue_name"`      // one of queues
	LetterFilter `query:"*"`
}

func apiListDeadLetters(ctx context.Context, a *Admin, in *listDeadLettersInput) (*LetterList, error) {
	filter := in.LetterFilter
	if err := filter.add(in.Task, in.Queue); err != nil {
		return nil, err
	}
	return a.Letters(ctx, filter, LetterPage{After: in.After, Size: in.Limit})
}

func apiCountDeadLetters(ctx context.Context, a *Admin, _ *nothing) (*LetterStats, error) {
	return a.LetterStats(ctx)
}

func apiShowDeadLetter(ctx context.Context, a *Admin, in *letterInput) (*Letter, error) {
	return a.Letter(ctx, in.LetterID)
}

type deleteDeadLetterInput struct {
	letterInput
	repeatable
	Reason   string     `query:"reason"`
	FailedAt *time.Time `query:"seen_failed_at"`
}

func apiDeleteDeadLetter(ctx context.Context, a *Admin, in *deleteDeadLetterInput) (*Outcome, error) {
	failedAt := time.Time{}
	if in.FailedAt != nil {
		failedAt = *in.FailedAt
	}
	return settled(a.DeleteDeadLetter(ctx, in.LetterID, failedAt, in.options(in.Reason)))
}

type editDeadLetterInput struct {
	letterInput
	repeatable
	Body struct {
		letterChange
		LetterEdit
	} `body:"*"`
}

func apiEditDeadLetter(ctx context.Context, a *Admin, in *editDeadLetterInput) (*Outcome, error) {
	return settled(a.EditDeadLetter(ctx, in.LetterID, in.Body.LetterEdit, in.Body.FailedAt, in.options(in.Body.Reason)))
}

type requeueDeadLetterInput struct {
	letterInput
	repeatable
	Body struct {
		letterChange

		Notes string `json:"notes,omitzero"`
	} `body:"*"`
}

func apiRequeueDeadLetter(ctx context.Context, a *Admin, in *requeueDeadLetterInput) (*Outcome, error) {
	return settled(a.RequeueDeadLetter(ctx, in.LetterID, in.Body.FailedAt, in.Body.Notes, in.options(in.Body.Reason)))
}

type cleanUpDeadLettersInput struct {
	Body cleanupLetters `body:"*"`
}

func apiCleanUpDeadLetters(ctx context.Context, a *Admin, in *cleanUpDeadLettersInput) (*LetterBatch, error) {
	return in.Body.run(ctx, a)
}

type requeueDeadLettersInput struct {
	Body requeueLetters `body:"*"`
}

func apiRequeueDeadLetters(ctx context.Context, a *Admin, in *requeueDeadLettersInput) (*LetterBatch, error) {
	return in.Body.run(ctx, a)
}

type deleteDeadLettersInput struct {
	Body deleteLetters `body:"*"`
}

func apiDeleteDeadLetters(ctx context.Context, a *Admin, in *deleteDeadLettersInput) (*LetterBatch, error) {
	return in.Body.run(ctx, a)
}
