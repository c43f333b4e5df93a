package testutil_test

import (
	"context"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
)

// A job runs when it is due: in the time of the test.
func TestDrainUntilMovesTheTime(t *testing.T) {
	t.Parallel()
	client, db := newClient(t)
	task := &backfill.Task[string]{Name: "step"}
	type ran struct {
		name      string
		now, wall time.Time
	}
	var runs []ran
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, name string) error {
		r := ran{name: name}
		if err := db.Pool().QueryRow(ctx, "select now()").Scan(&r.now); err != nil {
			return err
		}
		runs = append(runs, r)
		if name == "snoozes" && backfill.JobInfo(ctx).RunAt.Equal(backfill.JobInfo(ctx).CreatedAt) {
			return backfill.Snooze(2 * time.Hour)
		}
		return nil
	}))
	mustEnqueue(t, client, task.Request("now"), task.Request("later", backfill.Delay(time.Hour)), task.Request("snoozes"),
		task.Request("tomorrow", backfill.Delay(25*time.Hour)))
	first := testutil.Drain(t, client, registry)
	if len(first.Left) != 3 || first.Ended != 1 {
		t.Errorf("left: %v", first.Left)
	}
	drained := testutil.DrainUntil(t, client, registry, 24*time.Hour)
	t.Logf("%+v", drained)
	for _, r := range runs {
		t.Log(r)
	}
	for _, l := range drained.Left {
		t.Log(l)
	}
}
