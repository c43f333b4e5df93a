package admin

import (
	"context"
	"fmt"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// batchSize is how many items a step of an operation changes at most.
const batchSize = 100

// carryEvery is how often Carry looks for operations that somebody else has started.
const carryEvery = 2 * time.Second

// Carry carries on the operations that run, until ctx ends, which is no error. Several processes can:
// each step is a transaction, which changes up to 100 items and records what became of each, so that
// none is changed twice, whoever is killed. An Admin without WithAuthorize leaves out operations that
// were started by principals of one with it: it could not tell what they may do.
func (a *Admin) Carry(ctx context.Context) error {
	for {
		left, err := a.step(ctx, 0, nil)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // as it says
		}
		if err != nil {
			return err
		}
		if !pause(ctx, min(left, carryEvery)) {
			return nil
		}
	}
}

// CarryOperation carries on one operation until it is done, or stopped, or ctx ends, and returns it.
// Each is called for every item of the steps that this call does, in order; nil: for none.
func (a *Admin) CarryOperation(ctx context.Context, id int64, each func(OperationItem)) (*Operation, error) {
	for {
		o, err := a.Operation(ctx, id)
		if err != nil || o.State != OperationRunning {
			return o, err
		}
		left, err := a.step(ctx, id, each)
		if err != nil {
			return nil, fmt.Errorf("carry on operation %d: %w", id, err)
		}
		if !pause(ctx, min(left, carryEvery)) {
			return nil, ctx.Err()
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return ctx.Err() == nil
	}
}

// step does what is due of the operations that run, a batch of each; id 0: of any. It returns when
// to look again.
func (a *Admin) step(ctx context.Context, id int64, each func(OperationItem)) (again time.Duration, err error) {
	again = carryEvery
	running, err := a.writer.RunningOperations(ctx, id, a.authorize != nil)
	if err != nil {
		return again, err
	}
	for _, o := range running {
		if o.DueIn > 0 {
			again = min(again, o.DueIn)
			continue
		}
		var items []pg.Item
		taken, err := a.writer.Carry(ctx, o.ID, a.authorize != nil, func(ctx context.Context, c *pg.Changing, o *pg.Operation) (*pg.Batch, error) {
			batch, err := a.batch(ctx, c, o)
			if err == nil {
				items = batch.Items
			}
			return batch, err
		})
		if err != nil {
			return again, err
		}
		if !taken { // somebody else does it
			again = min(again, busyPause)
			continue
		}
		again = 0
		for _, item := range items {
			if each != nil {
				each(newItem(item))
			}
		}
	}
	if again == 0 {
		return 0, nil
	}
	return again, nil
}

// busyPause is how long a step waits for somebody else's.
const busyPause = 100 * time.Millisecond

// batch does the next items of an operation, on behalf of who has started it.
func (a *Admin) batch(ctx context.Context, c *pg.Changing, o *pg.Operation) (*pg.Batch, error) {
	bulk, err := bulkOf(o)
	if err != nil {
		return nil, err
	}
	ctx = As(ctx, Principal{Name: o.Principal, Roles: o.Roles})
	if !o.Restricted { // who has started it may do everything
		all := *a
		all.authorize = nil
		a = &all
	}
	size := batchSize
	if o.PerSecond > 0 {
		size = min(size, max(1, int(o.PerSecond)))
	}
	found, reached, err := find(ctx, c, bulk, o, o.After, size)
	if err != nil {
		return nil, fmt.Errorf("find the next items: %w", err)
	}
	batch := &pg.Batch{After: o.After, Done: reached == nil}
	if reached != nil {
		batch.After = *reached
	}
	if err := a.changeFound(ctx, c, bulk, o, found, batch); err != nil {
		return nil, err
	}
	if batch.Done {
		err = a.nameMissing(ctx, c, bulk, o, batch)
	}
	return batch, err
}

// nameMissing gives the ids of the filter that nothing was found for an outcome.
func (a *Admin) nameMissing(ctx context.Context, c *pg.Changing, bulk *Bulk, o *pg.Operation, batch *pg.Batch) error {
	var ids []int64
	if bulk.Jobs != nil {
		ids = bulk.Jobs.IDs
	} else {
		ids = bulk.DeadLetters.IDs
	}
	if len(ids) == 0 {
		return nil
	}
	missing, err := c.Missing(ctx, o.ID, ids, batch.Items)
	if err != nil || len(missing) == 0 {
		return err
	}
	standing, err := c.Standing(ctx, missing, bulk.Jobs != nil)
	may := a.judge(ctx, bulk.Action, Place(o.Place).kind())
	for _, id := range missing {
		item, there := standing[id]
		if !there || may(id, item.Task, item.Queue) == pg.MayNothing {
			item = pg.Item{Skip: pg.SkipGone, Detail: "there is none"}
		}
		item.ID = id
		batch.Items = append(batch.Items, item)
	}
	return err
}

// changeFound changes what was found, on behalf of who has started the operation.
func (a *Admin) changeFound(ctx context.Context, c *pg.Changing, bulk *Bulk, o *pg.Operation, found []pg.FoundItem, batch *pg.Batch) (err error) {
	may := a.judge(ctx, bulk.Action, Place(o.Place).kind())
	if bulk.Jobs != nil {
		change := bulk.changeOfJobs()
		change.By, change.Reason, change.SeenAt = o.Principal, o.Reason, o.SeenAt.Time
		ids := make([]int64, len(found))
		for i, item := range found {
			ids[i] = item.ID
		}
		if len(ids) > 0 {
			batch.Items, err = c.Jobs(ctx, ids, change, may, func(ctx context.Context, ids []int64) ([]int64, error) {
				return c.StillMatching(ctx, bulk.Jobs.toPG(), ids)
			})
		}
		return err
	}
	places := make([]pg.DeadLetterPlace, len(found))
	for i, item := range found {
		places[i] = item.Place
	}
	if len(places) > 0 {
		batch.Items, err = c.Letters(ctx, places, pg.LetterChange{Requeue: bulk.Action == ActionRequeue, Notes: bulk.Notes}, may)
	}
	return err
}
