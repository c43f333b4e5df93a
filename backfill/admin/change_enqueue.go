package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
)

// defaultMaxAttempts is the contract's.
const defaultMaxAttempts = 25

// EnqueueJob enqueues a job; of the request, only Task is required. What the database would not
// take, or Graphile Worker's functions refuse, is ErrInvalid, and so are args that hold what stands
// for hidden values. The outcome's JobID is the job's. With a key, that can be a job that was there
// before.
func (a *Admin) EnqueueJob(ctx context.Context, request backfill.Request, options ChangeOptions) (*Outcome, error) {
	if err := request.Validate(); err != nil {
		return nil, invalid(err)
	}
	args := []byte(request.Args)
	if len(args) == 0 {
		args = []byte("{}")
	}
	target := Target{Kind: KindTask, ID: request.Task, Task: request.Task, Queue: request.Queue}
	if _, err := a.unredact(ctx, target, []byte("null"), args); err != nil {
		return nil, err
	}
	spec := wire.Spec{
		Task: request.Task, Payload: args, Queue: request.Queue, Key: request.Key, KeyMode: wire.KeyMode(request.KeyMode), Priority: int16(request.Priority),
		MaxAttempts: int16(cmp.Or(request.MaxAttempts, defaultMaxAttempts)), //nolint:gosec // validated
		RunAt:       request.RunAt, Delay: request.Delay, Flags: request.Flags,
	}
	return (&change{admin: a, action: ActionEnqueue, target: Target{Kind: KindJob}, options: options}).enqueue(ctx, target, spec)
}

// enqueue enqueues a job, if the principal may do what the change is with the target.
func (ch *change) enqueue(ctx context.Context, target Target, spec wire.Spec) (*Outcome, error) {
	outcome, err := ch.run(ctx, func(ctx context.Context, c *pg.Changing) (*pg.Item, error) {
		if err := ch.admin.allow(ctx, ch.action, target); err != nil {
			return nil, err
		}
		job, err := c.Enqueue(ctx, spec)
		if err != nil {
			return nil, err
		}
		return &pg.Item{ID: job.ID, Task: spec.Task, Queue: spec.Queue, JobID: job.ID}, nil
	})
	if refused, ok := errors.AsType[*wire.RejectedError](err); ok {
		return nil, invalid(fmt.Errorf("the database does not take the job: %w", refused))
	}
	return outcome, err
}
