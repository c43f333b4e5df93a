package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// JobVersion says how a job was when it was seen. A change is left out (SkipChanged) if it is not
// so any more. Nil fields are not compared.
type JobVersion struct {
	_ [0]func() // fields may be added

	Revision  *int      `json:"revision,omitzero"` // an enqueue under its key changes it
	Attempts  *int      `json:"attempts,omitzero"`
	UpdatedAt time.Time `json:"updated_at,omitzero"` // zero: it is not compared
}

func (v *JobVersion) toPG() *pg.JobVersion {
	if v == nil {
		return nil
	}
	return &pg.JobVersion{Revision: v.Revision, Attempts: v.Attempts, UpdatedAt: v.UpdatedAt}
}

// RetryJob makes a job due now: one that has failed for good begins with no attempts made, and one
// that waits for its next attempt does not wait any more. Its last error stays. A job that somebody
// runs is left as it is, and so is one that a newer job has superseded.
func (a *Admin) RetryJob(ctx context.Context, id int64, seen *JobVersion, options ChangeOptions) (*Outcome, error) {
	return a.changeJob(ctx, ActionRetry, id, &pg.JobChange{Act: pg.RetryJobs, If: seen.toPG()}, options, nil)
}

// CancelJob deletes a job that nobody runs, and asks for the end of one that a Go worker runs: it
// ends when its handler does, and never runs again. One that a Node worker has cannot be told.
func (a *Admin) CancelJob(ctx context.Context, id int64, seen *JobVersion, options ChangeOptions) (*Outcome, error) {
	return a.changeJob(ctx, ActionCancel, id, &pg.JobChange{
		Act: pg.CancelJobs, If: seen.toPG(), By: principal(ctx).Name, Reason: options.Reason,
	}, options, nil)
}

// DeleteJob deletes a job that nobody runs.
func (a *Admin) DeleteJob(ctx context.Context, id int64, seen *JobVersion, options ChangeOptions) (*Outcome, error) {
	return a.changeJob(ctx, ActionDelete, id, &pg.JobChange{Act: pg.DeleteJobs, If: seen.toPG()}, options, nil)
}

// Reschedule says when and how often jobs are to run. A nil field changes nothing.
type Reschedule struct {
	_ [0]func() // fields may be added

	RunAt       *time.Time `json:"run_at,omitzero"`
	Priority    *int       `json:"priority,omitzero"`     // -32768 to 32767
	MaxAttempts *int       `json:"max_attempts,omitzero"` // 1 to 32767, and more than were made
}

func (r *Reschedule) check() error {
	var problems []error
	if r.RunAt == nil && r.Priority == nil && r.MaxAttempts == nil {
		problems = append(problems, errors.New("nothing to change: set run_at, priority or max_attempts"))
	}
	if r.RunAt != nil {
		problems = append(problems, checkTimes("run_at", *r.RunAt, time.Time{}))
	}
	if r.Priority != nil && (*r.Priority < math.MinInt16 || *r.Priority > math.MaxInt16) {
		problems = append(problems, fmt.Errorf("priority is %d: want %d to %d", *r.Priority, math.MinInt16, math.MaxInt16))
	}
	if r.MaxAttempts != nil && (*r.MaxAttempts < 1 || *r.MaxAttempts > math.MaxInt16) {
		problems = append(problems, fmt.Errorf("max_attempts is %d: want 1 to %d", *r.MaxAttempts, math.MaxInt16))
	}
	return invalid(errors.Join(problems...))
}

// toPG converts what was checked.
func (r *Reschedule) toPG() *pg.JobChange {
	change := &pg.JobChange{Act: pg.RescheduleJobs, RunAt: r.RunAt}
	if r.Priority != nil {
		change.Priority = new(int16(*r.Priority)) //nolint:gosec // checked
	}
	if r.MaxAttempts != nil {
		change.MaxAttempts = new(int16(*r.MaxAttempts)) //nolint:gosec // checked
	}
	return change
}

// RescheduleJob changes when and how often a job that waits runs.
func (a *Admin) RescheduleJob(ctx context.Context, id int64, to Reschedule, seen *JobVersion, options ChangeOptions) (*Outcome, error) {
	if err := to.check(); err != nil {
		return nil, err
	}
	change := to.toPG()
	change.If = seen.toPG()
	return a.changeJob(ctx, ActionReschedule, id, change, options, to)
}

// EditJob replaces the payload of a job that nobody runs. Fields that are hidden from who reads it
// stay as they are where the new payload has what hides them. Values that it has no more are hidden
// in the job's last error.
func (a *Admin) EditJob(ctx context.Context, id int64, payload json.RawMessage, seen *JobVersion, options ChangeOptions) (*Outcome, error) {
	if err := checkPayload(payload); err != nil {
		return nil, err
	}
	return a.changeJob(ctx, ActionEdit, id, &pg.JobChange{
		Act: pg.EditJob, If: seen.toPG(), Edit: a.edit(ctx, KindJob, payload),
	}, options, nil)
}

func (a *Admin) changeJob(ctx context.Context, action Action, id int64, how *pg.JobChange, options ChangeOptions, detail any) (*Outcome, error) {
	if id <= 0 {
		return nil, invalid(fmt.Errorf("%d is no id of a job", id))
	}
	ch := &change{admin: a, action: action, target: Target{Kind: KindJob, ID: strconv.FormatInt(id, 10)}, options: options, detail: detail}
	return ch.run(ctx, func(ctx context.Context, c *pg.Changing) (*pg.Item, error) {
		return only(c.Jobs(ctx, []int64{id}, how, a.judge(ctx, action, KindJob), nil))
	})
}

// only returns the one item; nil: there is none.
func only(items []pg.Item, err error) (*pg.Item, error) {
	if err != nil || len(items) == 0 {
		return nil, err
	}
	return &items[0], nil
}

// maxPayload is what PostgreSQL can hold of a payload, and be sent.
const maxPayload = 256 << 20

// checkPayload reports what is wrong with a payload that is to be stored.
func checkPayload(payload json.RawMessage) error {
	switch {
	case len(payload) == 0:
		return invalid(errors.New("the payload is empty: want JSON"))
	case len(payload) > maxPayload:
		return invalid(fmt.Errorf("the payload has %d bytes: want %d at most", len(payload), maxPayload))
	case !json.Valid(payload):
		return invalid(errors.New("the payload is no valid JSON"))
	}
	return nil
}

// edit returns what makes the new payload of the stored one. Values that it has no more are hidden
// in texts about it. What is hidden in a text is found by the payload, so whoever may not see payloads
// could read them there otherwise.
func (a *Admin) edit(ctx context.Context, kind Kind, payload json.RawMessage) pg.EditPayload {
	return func(of pg.Item, stored []byte) ([]byte, func(string) string, error) {
		edited, err := a.unredact(ctx, Target{Kind: kind, ID: strconv.FormatInt(of.ID, 10), Task: of.Task, Queue: of.Queue}, stored, payload)
		if err != nil {
			return nil, nil, err
		}
		return edited, func(text string) string { return removed(stored, edited).text(text, false) }, nil
	}
}
