package backfill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// Pause is a task or a queue whose jobs wait. [Client.Paused] returns it.
type Pause struct {
	_ [0]func() // fields may be added

	Task   string // its wire name; "": it is a queue
	Queue  string // "": it is a task
	At     time.Time
	By     string // who paused it; "": not said
	Reason string
	Until  time.Time // zero: until [Client.Resume] or [Client.ResumeQueue]
}

// PauseOptions says more about a pause. The zero value says nothing.
type PauseOptions struct {
	_ [0]func() // fields may be added

	By     string    // who pauses it, 512 characters at most
	Reason string    // why, 10,000 characters at most
	Until  time.Time // when the pause ends by itself, by the database's clock; zero: never
}

// Pause keeps the jobs of a task from starting, on all Go workers of the database, within 2
// seconds: when a task harms something, or what it needs is away. Running jobs go on; cron entries
// and enqueues add jobs, which wait. It is stored, and lasts over restarts. Node workers do not
// know it: they go on with the task. A task that is paused already gets the new options.
//
// The name is the one on the wire ([Task].Name), and each alias is a name of its own. A name that
// no worker serves and no job has is an [ErrUnknownTask]. A worker's log says what is paused.
func (c *Client) Pause(ctx context.Context, task string, options PauseOptions) error {
	return c.pause(ctx, "task", task, pg.Pause{Task: task}, options)
}

// PauseQueue keeps the jobs of a queue from starting, whatever their tasks are, as [Client.Pause]
// does those of a task: on all Go workers, within 2 seconds, and not on Node workers. Other queues
// and jobs without one go on. A queue needs no jobs to be paused, so a mistyped name is no error.
// Of more than 20 queues, a worker's log names those that have been paused for longest.
func (c *Client) PauseQueue(ctx context.Context, queue string, options PauseOptions) error {
	return c.pause(ctx, "queue", queue, pg.Pause{Queue: queue}, options)
}

func (c *Client) pause(ctx context.Context, what, name string, pause pg.Pause, options PauseOptions) error {
	pause.By, pause.Reason, pause.Until = options.By, options.Reason, options.Until
	err := c.usable(ctx)
	if err == nil {
		err = errors.Join(checkName(what+" name", name), options.check())
	}
	if err == nil {
		err = c.admin.Pause(ctx, pause)
	}
	if err != nil {
		return fmt.Errorf("pause %s %s: %w", what, shortQuote(name), err)
	}
	return nil
}

func (o PauseOptions) check() error {
	problems := []error{checkText("by", o.By, maxKeyLength), checkText("reason", o.Reason, maxErrorText)}
	if !o.Until.IsZero() && !o.Until.After(time.Now()) {
		problems = append(problems, fmt.Errorf("until is %v, which is over", o.Until.Format(time.RFC3339)))
	}
	return errors.Join(append(problems, checkRunAt(o.Until))...)
}

// Resume ends the pause of a task. Its jobs start within 2 seconds, as far as workers have room. If
// it is not paused, the error is [ErrNotPaused].
func (c *Client) Resume(ctx context.Context, task string) error {
	return c.resume(ctx, "task", task, (*pg.Admin).Resume)
}

// ResumeQueue ends the pause of a queue, as [Client.Resume] does that of a task.
func (c *Client) ResumeQueue(ctx context.Context, queue string) error {
	return c.resume(ctx, "queue", queue, (*pg.Admin).ResumeQueue)
}

func (c *Client) resume(
	ctx context.Context, what, name string, resume func(*pg.Admin, context.Context, string) error,
) error {
	err := c.usable(ctx)
	if err == nil {
		err = checkName(what+" name", name)
	}
	if err == nil {
		err = resume(c.admin, ctx, name)
	}
	if err != nil {
		return fmt.Errorf("resume %s %s: %w", what, shortQuote(name), err)
	}
	return nil
}

// Paused returns the tasks that are paused now, by name, and then the queues.
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
		pauses[i] = Pause{Task: p.Task, Queue: p.Queue, At: p.At, By: p.By, Reason: p.Reason, Until: p.Until}
	}
	return pauses, nil
}
