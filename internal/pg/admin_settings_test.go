package pg_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// adminCalls makes every call of an operator's, and returns what each says. It leaves no row.
func adminCalls(t *testing.T, db *pgtest.Database, conn *pgx.Conn, admin *pg.Admin) []string {
	t.Helper()
	var said []string
	say := func(call string, jobs []*wire.Job, err error, counts ...int) {
		said = append(said, fmt.Sprint(call, counts, err))
		for _, job := range jobs {
			said = append(said, fmt.Sprint(job.Task, job.Queue, job.Key, string(job.Payload), job.RunAt.Year(), job.CreatedAt.IsZero(),
				job.Attempt, job.MaxAttempts, job.Priority, job.Revision, job.Flags))
		}
	}
	inserter := pg.NewInserter(db.Pool(), schemaName, schema.WritesTables)
	insert := func() []int64 {
		spec := wire.Spec{Task: "a", Queue: "q", Payload: []byte(`["é"]`), MaxAttempts: 3, RunAt: time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC)}
		keyed := spec
		keyed.Key, keyed.Flags = "k", []string{"NULL"}
		jobs, _, err := inserter.InsertAll(t.Context(), []wire.Spec{spec, keyed}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return []int64{jobs[0].ID, jobs[1].ID}
	}
	lock := func(by, at string) {
		for _, table := range []string{"jobs", "job_queues"} {
			dbtest.Run(t, conn, "update graphile_worker._private_"+table+" set locked_by = $1, locked_at = now() - $2::interval", by, at)
		}
	}
	ctx := t.Context()
	jobs, err := admin.Complete(ctx, insert())
	say("complete", jobs, err)
	jobs, err = admin.Fail(ctx, insert(), "")
	say("fail", jobs, err)
	deleted, err := admin.DeleteFailed(ctx)
	say("delete failed", nil, err, deleted)
	ids := insert()
	counts, exact, err := admin.Count(ctx)
	said = append(said, fmt.Sprint(counts, exact, err))
	for _, id := range ids {
		job, row, err := admin.Inspect(ctx, id)
		say("inspect", []*wire.Job{job}, err)
		said = append(said, fmt.Sprint(row.State, row.LastError, row.LockedBy, row.LockedAt.IsZero(), row.UpdatedAt.Year()))
	}
	jobs, err = admin.Reschedule(ctx, ids, nil, new(int16(7)), nil, nil)
	say("reschedule", jobs, err)
	jobs, err = admin.Reschedule(ctx, ids, new(time.Date(2041, 1, 1, 0, 0, 0, 0, time.UTC)), nil, nil, nil)
	say("reschedule", jobs, err)
	jobs, err = admin.Remove(ctx, "k")
	say("remove", jobs, err)
	jobs, err = admin.Remove(ctx, "k")
	say("remove", jobs, err)
	lock("node", "1 hour")
	jobs, err = admin.ForceUnlock(ctx, []string{"node"})
	say("force unlock", jobs, err)
	lock("node", "1 hour")
	unlocked, queues, _, err := admin.Unlock(ctx, "node")
	say("unlock", nil, err, unlocked, queues)
	_, _, _, err = admin.Unlock(ctx, "node")
	say("unlock", nil, err)
	lock("pool-0123456789abcdef01.1.1", "1 hour")
	unlocked, queues, _, err = admin.Unlock(ctx, "pool-0123456789abcdef01.1.1")
	say("unlock", nil, err, unlocked, queues)
	lock("node", "5 hours")
	unlocked, queues, err = admin.Sweep(ctx)
	say("sweep", nil, err, unlocked, queues)
	dbtest.Run(t, conn, "truncate graphile_worker._private_jobs")
	names, err := admin.DeleteTasks(ctx, []string{"b"})
	say("delete tasks", nil, err, names)
	names, err = admin.DeleteQueues(ctx)
	say("delete queues", nil, err, names)
	return said
}

// Operators' calls do the same whatever the settings of the application's sessions are, and leave
// the sessions as they are.
func TestAdminUnderSettings(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"strangers first", "empty path, and all that is harmless", "serializable"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn := dbtest.Connect(t, db.URL)
			dbtest.NeedSuperuser(t, conn)
			want := adminCalls(t, db, conn, pg.NewAdmin(db.Pool(), schemaName))
			if name == "strangers first" {
				dbtest.Run(t, conn, dbtest.Strangers)
			}
			alterDatabase(t, conn, sessionSettings[name])
			for _, mode := range execModes {
				pool := poolWith(t, db.URL, func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode, c.MaxConns = mode, 1 })
				before := allSettings(t, pool)
				if diff := cmp.Diff(want, adminCalls(t, db, conn, pg.NewAdmin(pool, schemaName))); diff != "" {
					t.Errorf("%v (-plain session +with the settings):\n%s", mode, diff)
				}
				if diff := cmp.Diff(before, allSettings(t, pool)); diff != "" {
					t.Errorf("%v: the session's settings (-before +after):\n%s", mode, diff)
				}
			}
		})
	}
}

// allSettings are the settings of a pool's only session.
func allSettings(t *testing.T, pool *pgxpool.Pool) (settings map[string]string) {
	t.Helper()
	err := pool.AcquireFunc(context.Background(), func(conn *pgxpool.Conn) error {
		settings = map[string]string{}
		result := conn.Conn().PgConn().ExecParams(t.Context(), "show all", nil, nil, nil, nil).Read()
		for _, row := range result.Rows {
			if name := string(row[0]); !strings.HasPrefix(name, "plpgsql.") { // there once it has been called
				settings[name] = string(row[1])
			}
		}
		return result.Err
	})
	if err != nil || len(settings) < 100 {
		t.Fatalf("%d settings, %v", len(settings), err)
	}
	return settings
}
