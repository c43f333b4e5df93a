package pg_test

import (
	"context"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
)

// operations are all that an operator may ask for, on a database whose tables are not empty.
var operations = map[string]func(context.Context, *pg.Admin) error{
	"complete":      func(ctx context.Context, a *pg.Admin) error { _, err := a.Complete(ctx, []int64{1}); return err },
	"fail":          func(ctx context.Context, a *pg.Admin) error { _, err := a.Fail(ctx, []int64{1}, "x"); return err },
	"remove":        func(ctx context.Context, a *pg.Admin) error { _, err := a.Remove(ctx, "waiting"); return err },
	"force unlock":  func(ctx context.Context, a *pg.Admin) error { _, err := a.ForceUnlock(ctx, []string{"x"}); return err },
	"unlock":        func(ctx context.Context, a *pg.Admin) error { _, _, _, err := a.Unlock(ctx, "x"); return err },
	"delete failed": func(ctx context.Context, a *pg.Admin) error { _, err := a.DeleteFailed(ctx); return err },
	"delete tasks":  func(ctx context.Context, a *pg.Admin) error { _, err := a.DeleteTasks(ctx, []string{}); return err },
	"delete queues": func(ctx context.Context, a *pg.Admin) error { _, err := a.DeleteQueues(ctx); return err },
	"reschedule": func(ctx context.Context, a *pg.Admin) error {
		_, err := a.Reschedule(ctx, []int64{1}, nil, nil, new(int), nil)
		return err
	},
}

// An operator's call without a deadline ends when a table is locked, or the server is silent.
func TestAdminIsAnswered(t *testing.T) {
	t.Parallel()
	for name, operation := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := namesToDelete(t)
			proxy := dbtest.NewProxy(t, pool.Config().ConnString())
			proxied := newPool(t, proxy.URL, nil)
			if err := proxied.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			proxy.Arm(1, dbtest.Freeze)
			defer proxy.Disarm() // pgx waits for the server when it closes a connection
			err := operation(context.Background(), pg.NewAdmin(proxied, schemaName).WithLimit(100*time.Millisecond))
			dbtest.Mentions(t, err, "no answer within 100ms")
		})
	}
}

// A process that is cut off in a transaction does not keep its locks.
func TestAdminCutOff(t *testing.T) {
	t.Parallel()
	const (
		enqueue = "select graphile_worker.add_job('task')"
		unlock  = "select graphile_worker.force_unlock_workers(array['x'])"
	)
	for name, test := range map[string]struct{ locks, other string }{
		"delete tasks": {"lock table", enqueue}, "delete queues": {"lock table", enqueue}, "force unlock": {"for update of j", unlock},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := namesToDelete(t)
			dbtest.Run(t, pool, "update graphile_worker._private_jobs set locked_by = 'x', locked_at = now()")
			proxy := dbtest.NewProxy(t, pool.Config().ConnString())
			admin := pg.NewAdmin(newPool(t, proxy.URL, nil), schemaName)
			proxy.ArmAfter(test.locks, dbtest.Freeze)
			defer proxy.Disarm()
			done := make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() { done <- operations[name](ctx, admin) }()
			dbtest.Until(t, func() bool { return proxy.Met() == 'C' })
			client := dbtest.Connect(t, pool.Config().ConnString())
			dbtest.Run(t, client, "set lock_timeout = '20s'")
			dbtest.Run(t, client, test.other)
			cancel()
			if err := <-done; err == nil {
				t.Error("it does not know that it was cut off")
			}
		})
	}
}
