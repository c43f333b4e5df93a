package admin

import (
	"context"
	"errors"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// PauseRequest says what is to be paused, or resumed: a task or a queue.
type PauseRequest struct {
	_ [0]func() // fields may be added

	Task  string `json:"task,omitzero"` // the wire name
	Queue string `json:"queue,omitzero"`
	// Until is when the pause ends by itself. Default: when somebody ends it.
	Until time.Time `json:"until,omitzero"`
}

// target returns what a pause is about.
func (p *PauseRequest) target() (Target, error) {
	switch {
	case (p.Task == "") == (p.Queue == ""):
		return Target{}, invalid(errors.New("want a task or a queue, and one of them"))
	case p.Task != "":
		return Target{Kind: KindTask, ID: p.Task, Task: p.Task}, invalid(named("task", checkName(p.Task)))
	default:
		return Target{Kind: KindQueue, ID: p.Queue, Queue: p.Queue}, invalid(named("queue", checkName(p.Queue)))
	}
}

// Pause keeps the jobs of a task or a queue from starting on Go workers, within 2 seconds. Running
// ones go on, and Node workers know no pauses. What is paused already gets the new reason and end.
func (a *Admin) Pause(ctx context.Context, what PauseRequest, options ChangeOptions) (*Outcome, error) {
	target, err := what.target()
	if err == nil && !what.Until.IsZero() {
		err = invalid(checkTimes("until", what.Until, time.Time{}))
	}
	if err != nil {
		return nil, err
	}
	ch := &change{admin: a, action: ActionPause, target: target, options: options, detail: what}
	return ch.run(ctx, func(ctx context.Context, c *pg.Changing) (*pg.Item, error) {
		if err := a.allow(ctx, ActionPause, target); err != nil {
			return nil, err
		}
		known, err := c.Pause(ctx, pg.Pause{Task: what.Task, Queue: what.Queue, By: principal(ctx).Name, Reason: options.Reason, Until: what.Until})
		if err != nil {
			return nil, err
		}
		if !known {
			return nil, unknownTaskError{pg.ErrUnknownTask}
		}
		return &pg.Item{Task: what.Task, Queue: what.Queue}, nil
	})
}

// unknownTaskError is an ErrNotFound that says more.
type unknownTaskError struct{ error }

func (unknownTaskError) Is(target error) bool { return target == ErrNotFound }

// Resume ends the pause of a task or a queue. What is not paused is skipped (SkipPaused).
func (a *Admin) Resume(ctx context.Context, what PauseRequest, options ChangeOptions) (*Outcome, error) {
	target, err := what.target()
	if err != nil {
		return nil, err
	}
	ch := &change{admin: a, action: ActionPause, target: target, options: options, detail: map[string]bool{"resume": true}}
	return ch.run(ctx, func(ctx context.Context, c *pg.Changing) (*pg.Item, error) {
		if err := a.allow(ctx, ActionPause, target); err != nil {
			return nil, err
		}
		item := &pg.Item{Task: what.Task, Queue: what.Queue}
		paused, err := c.Resume(ctx, what.Task, what.Queue)
		if err == nil && !paused {
			item.Skip, item.Detail = pg.Skip(SkipPaused), "it is not paused"
		}
		return item, err
	})
}
