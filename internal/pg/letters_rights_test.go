package pg_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// rigOfRole is a rig whose role has a worker's rights alone, without the policy of a table; "": with
// all. It also returns the owner's pool.
func rigOfRole(t *testing.T, without string) (r *rig, owner *pgxpool.Pool) {
	t.Helper()
	db := pgtest.New(t)
	admin := dbtest.Connect(t, db.URL)
	dbtest.NeedSuperuser(t, admin)
	role := dbtest.NewRole(t, admin)
	grantee := strings.ReplaceAll(strings.Trim(role, `"`), `""`, `"`)
	if _, err := schema.GrantRole(t.Context(), admin, grantee, schema.WorkerRole, schema.Options{Schema: schemaName}); err != nil {
		t.Fatal(err)
	}
	r = rigOn(t, newPool(t, db.URL, func(config *pgxpool.Config) {
		config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "set role "+role)
			return err
		}
	}), schemaName)
	if without != "" {
		losePolicy(t, db.Pool(), without)
	}
	return r, db.Pool()
}

// losePolicy drops the only policy of a table.
func losePolicy(t *testing.T, owner *pgxpool.Pool, table string) {
	t.Helper()
	policy := dbtest.Get[string](t, owner, "select polname::text from pg_policy where polrelid = $1::regclass", "graphile_worker."+table)
	dbtest.Run(t, owner, "drop policy "+pgx.Identifier{policy}.Sanitize()+" on graphile_worker."+table)
}

// A worker whose role has lost its policy for dead letters while it runs can make none. Whatever ends
// jobs ends them in their rows then, and is not in the way of other jobs (R19).
func TestLettersThatARoleMayNotMake(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(r *rig, jobs []*wire.Job, owner *pgxpool.Pool) error{
		"outcomes": func(r *rig, jobs []*wire.Job, _ *pgxpool.Pool) error {
			outcome := worker.Outcome{Kind: worker.OutcomeExhausted, Text: "never", Reason: worker.ReasonPermanent}
			_, err := r.store.Fail(r.quick(), ended(jobs, outcome))
			if rejected, ok := errors.AsType[*wire.RejectedError](err); !ok || !rejected.Row {
				r.t.Errorf("it is not the dead letters' fault: %v", err)
			}
			outcome.Reason = "" // as the worker tries next
			_, err = r.store.Fail(r.quick(), ended(jobs, outcome))
			return err
		},
		"rescue": func(r *rig, _ []*wire.Job, owner *pgxpool.Pool) error {
			dbtest.Run(r.t, owner, "update graphile_worker.backfill_workers set dead_at = now() where id = $1", r.id)
			rescued, err := r.store.Rescue(r.quick(), worker.RescueRequest{IDs: []string{r.id}})
			if len(rescued.Dead) != 2 || len(rescued.Jobs) != 1 || len(rescued.Settled) != 1 {
				r.t.Errorf("rescued %+v", rescued)
			}
			return err
		},
		"unlock": func(r *rig, _ []*wire.Job, _ *pgxpool.Pool) error {
			jobs, _, dead, err := pg.NewAdmin(r.pool, schemaName).Unlock(r.quick(), r.id)
			if jobs != 3 || len(dead) > 0 {
				r.t.Errorf("unlocked %d jobs, of which dead letters: %+v", jobs, dead)
			}
			return err
		},
		"sweep": func(r *rig, jobs []*wire.Job, owner *pgxpool.Pool) error {
			endings["return"](r, jobs...)
			dbtest.Run(r.t, owner, failedLongAgo)
			dbtest.Run(r.t, owner, "update graphile_worker._private_job_queues set locked_at = now() - interval '5 hours', locked_by = 'gone'")
			r.store.RestBy(func(time.Duration) bool { return true })
			swept, err := r.store.Sweep(r.quick(), r.id, false)
			if swept.Queues != 1 || !swept.Done || len(swept.Dead) > 0 {
				r.t.Errorf("swept %+v", swept)
			}
			dbtest.Mentions(r.t, err, "row-level security")
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, owner := rigOfRole(t, "")
			for _, arguments := range []string{"'a', max_attempts := 1", "'a', max_attempts := 1, queue_name := 'q'", "'a'"} {
				dbtest.Run(t, owner, "select graphile_worker.add_job("+arguments+")")
			}
			jobs := r.claim(3)
			losePolicy(t, owner, "backfill_dlq")
			if err := end(r, jobs, owner); err != nil {
				t.Error(err)
			}
			const state = `select count(*) filter (where locked_by is not null)::text || ' of ' || count(*) || ' locked' from graphile_worker._private_jobs`
			if got := dbtest.Get[string](t, owner, state); got != "0 of 3 locked" {
				t.Errorf("%s, want none of 3", got)
			}
		})
	}
}

// A worker from which row level security hides the jobs does not take those of requeued dead letters
// for gone.
func TestRequeuedLettersOfHiddenJobsStay(t *testing.T) {
	t.Parallel()
	r, admin := rigOfRole(t, "_private_jobs")
	dbtest.Run(t, admin, "select graphile_worker.add_job('a')")
	addLetters(t, admin, 2)
	dbtest.Run(t, admin, "update graphile_worker.backfill_dlq set requeued_job_id = case id when 1 then (select id from graphile_worker._private_jobs) else 1000 end")
	const letters = "select count(*)::int from graphile_worker.backfill_dlq"
	_, err := r.store.Sweep(r.quick(), r.id, false)
	if n := dbtest.Get[int](t, admin, letters); n != 2 {
		t.Errorf("%d dead letters are left, want 2", n)
	}
	dbtest.Mentions(t, err, "hides the rows of _private_jobs")
}
