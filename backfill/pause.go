package backfill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// Pause is a task whose jobs wait. [Client.Paused] returns it.
type Pause struct {
	_ [0]func() // fields may be added

	Task   string // its wire name
	At     time.Time
	By     string // who paused it; "": not said
	Reason string
	Until  time.Time // zero: until [Client.Resume]
}

// PauseOptions says more about a pause. The zero value says nothing.
type PauseOptions struct {
	_ [0]func() // fields may be added

	By     string    // who pauses the task, 512 characters at most
	Reason string    // why, 10,000 characters at most
	Until  time.Time // when the pause ends by itself; zero: never
}

// Pause keeps the jobs of a task from starting, on all Go workers of the database, within 5
// seconds: when a task harms something, or what it needs is away. Running jobs go on; cron entries
// and enqueues add jobs, which wait. It is stored, and lasts over restarts. Node workers do not
// know it. A task that is paused already gets the new options.
//
// The name is the one on the wire ([Task].Name), and each alias is a name of its own. A name that
// no worker serves and no job has is an [ErrUnknownTask]. A worker's log says what is paused.
func (c *Client) Pause(ctx context.Context, task string, options PauseOptions) error {
	err := c.usable(ctx)
	if err == nil {
		err = options.check(task)
	}
	if err == nil {
		err = c.admin.Pause(ctx, pg.Pause{Task: task, By: options.By, Reason: options.Reason, Until: options.Until})
	}
	if err != nil {
		return fmt.Errorf("pause task %s: %w", shortQuote(task), err)
	}
	return nil
}

func (o PauseOptions) check(task string) error {
	problems := []error{
		checkName("task name", task), checkText("by", o.By, maxKeyLength), checkText("reason", o.Reason, maxErrorText),
	}
	if !o.Until.IsZero() && !o.Until.After(time.Now()) {
		problems = append(problems, fmt.Errorf("until is %v, which is over", o.Until.Format(time.RFC3339)))
	}
	return errors.Join(append(problems, checkRunAt(o.Until))...)
}

// Resume ends the pause of a task. Its jobs start within 7 seconds. If it is not paused, the error
// is [ErrNotPaused].
func (c *Client) Resume(ctx context.Context, task string) error {
	err := c.usable(ctx)
	if err == nil {
		err = checkName("task name", task)
	}
	if err == nil {
		err = c.admin.Resume(ctx, task)
	}
	if err != nil {
		return fmt.Errorf("resume task %s: %w", shortQuote(task), err)
	}
	return nil
}

// Paused returns the tasks that are paused now, by name.
func (c *Client) Paused(ctx context.Context) ([]Pause, error) {
	if err := c.usable(ctx); err != nil {
		return nil, fmt.Errorf("read what is paused: %w", err)
	}
	found, err := c.admin.Paused(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what is paused: %w", err)
	}
	pauses := make([]Pause, len(found))
	for i, p := range found {
		pauses[i] = Pause{Task: p.Task, At: p.At, By: p.By, Reason: p.Reason, Until: p.Until}
	}
	return pauses, nil
}
