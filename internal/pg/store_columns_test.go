package pg_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// columns returns the columns of a row as text; nil if there is no such row.
func (r *rig) columns(table string, id any) map[string]string {
	r.t.Helper()
	rows, err := r.pool.Query(r.t.Context(),
		"select e.key, coalesce(e.value, 'null') from graphile_worker."+table+" as x, jsonb_each_text(to_jsonb(x)) as e where x.id = $1", id)
	if err != nil {
		r.t.Fatal(err)
	}
	got := map[string]string{}
	var key, value string
	if _, err := pgx.ForEachRow(rows, []any{&key, &value}, func() error { got[key] = value; return nil }); err != nil {
		r.t.Fatal(err)
	}
	return got
}

// changes lists the columns that differ, with the values that do not depend on clocks and claims.
func changes(before, after map[string]string) string {
	if len(after) == 0 {
		return "deleted"
	}
	var changed []string
	for _, column := range slices.Sorted(maps.Keys(before)) {
		switch value := after[column]; {
		case before[column] == value:
		case value != "null" && (strings.HasSuffix(column, "_at") || column == "locked_by"):
			changed = append(changed, column)
		default:
			changed = append(changed, column+"="+value)
		}
	}
	return strings.Join(changed, " ")
}

// Contract sections 5.3 and 5.7: which columns each action writes, and none besides.
func TestWhoWritesWhichColumn(t *testing.T) {
	t.Parallel()
	const freed = "is_available=true locked_at=null locked_by=null"
	insert := func(mode wire.KeyMode) func(*rig, *wire.Job) error {
		return func(r *rig, _ *wire.Job) error {
			_, _, err := pg.NewInserter(r.pool, schemaName, schema.WritesTables).InsertAll(r.t.Context(), []wire.Spec{{
				Task: "a", Queue: "q", Key: "k", KeyMode: mode, Payload: []byte("[9]"), MaxAttempts: 25, Flags: []string{"f"}, RunAt: time.Now(),
			}}, nil)
			return err
		}
	}
	admin := func(call func(*pg.Admin, *rig, []int64) error) func(*rig, *wire.Job) error {
		return func(r *rig, job *wire.Job) error {
			return call(pg.NewAdmin(r.pool, schemaName), r, []int64{job.ID})
		}
	}
	ending := func(name string) func(*rig, *wire.Job) error {
		return func(r *rig, job *wire.Job) error {
			endings[name](r, job)
			return nil
		}
	}
	fail := func(o worker.Outcome) func(*rig, *wire.Job) error {
		return func(r *rig, job *wire.Job) error {
			o.Text = "new"
			_, err := r.store.Fail(r.t.Context(), []worker.Ended{{Lease: job.Lease, Outcome: o}})
			return err
		}
	}
	// The job has attempts = 3 before it is claimed, and 4 after.
	tests := map[string]struct {
		claimed    bool // the action is one on a claimed job
		act        func(*rig, *wire.Job) error
		job, queue string
	}{
		"fetch": {
			false, func(r *rig, _ *wire.Job) error { r.claimOne(); return nil },
			"attempts=4 is_available=false locked_at locked_by", "is_available=false locked_at locked_by",
		},
		"complete":         {true, ending("complete"), "deleted", freed},
		"fail":             {true, fail(worker.Outcome{Kind: worker.OutcomeFailed, Delay: time.Hour}), "is_available=true last_error=new locked_at=null locked_by=null run_at", freed},
		"fail in part":     {true, fail(worker.Outcome{Kind: worker.OutcomeFailed, Payload: []byte("[2]")}), "is_available=true last_error=new locked_at=null locked_by=null payload=[2] run_at", freed},
		"fail permanently": {true, fail(worker.Outcome{Kind: worker.OutcomeExhausted}), "attempts=25 last_error=new locked_at=null locked_by=null run_at", freed},
		"return":           {true, ending("return"), "attempts=3 " + freed, freed},
		"snooze":           {true, ending("snooze"), "attempts=3 " + freed + " run_at", freed},
		"renew": {true, func(r *rig, job *wire.Job) error {
			_, err := r.store.Renew(r.t.Context(), []wire.Lease{job.Lease})
			return err
		}, "locked_at", "locked_at"},
		"sweep of a fresh lock": {true, admin(func(a *pg.Admin, r *rig, _ []int64) error {
			_, _, err := a.Sweep(r.t.Context())
			return err
		}), "", ""},
		"sweep": {true, admin(func(a *pg.Admin, r *rig, _ []int64) error {
			dbtest.Run(r.t, r.pool, "update graphile_worker._private_jobs set locked_at = now() - interval '5 hours'")
			dbtest.Run(r.t, r.pool, "update graphile_worker._private_job_queues set locked_at = now() - interval '5 hours'")
			_, _, err := a.Sweep(r.t.Context())
			return err
		}), freed + " run_at", freed},
		"unlock": {true, admin(func(a *pg.Admin, r *rig, _ []int64) error {
			_, _, _, err := a.Unlock(r.t.Context(), r.id)
			return err
		}), "attempts=3 " + freed, freed},
		"force unlock": {true, func(r *rig, job *wire.Job) error {
			_, err := pg.NewAdmin(r.pool, schemaName).ForceUnlock(r.t.Context(), []string{job.Token, job.Claim()})
			return err
		}, freed, freed},
		"replace":                {false, insert(wire.KeyReplace), "attempts=0 last_error=null payload=[1, 2, 9] revision=1 run_at updated_at", ""},
		"preserve, attempted":    {false, insert(wire.KeyPreserveRunAt), "attempts=0 last_error=null payload=[1, 2, 9] revision=1 run_at updated_at", ""},
		"dedupe":                 {false, insert(wire.KeyUnsafeDedupe), "revision=1 updated_at", ""},
		"replace while it runs":  {true, insert(wire.KeyReplace), "attempts=25 key=null updated_at", ""},
		"preserve while it runs": {true, insert(wire.KeyPreserveRunAt), "attempts=25 key=null updated_at", ""},
		"dedupe while it runs":   {true, insert(wire.KeyUnsafeDedupe), "revision=1 updated_at", ""},
		"complete_jobs": {false, admin(func(a *pg.Admin, r *rig, ids []int64) error {
			_, err := a.Complete(r.t.Context(), ids)
			return err
		}), "deleted", ""},
		"permanently_fail_jobs": {false, admin(func(a *pg.Admin, r *rig, ids []int64) error {
			_, err := a.Fail(r.t.Context(), ids, "x")
			return err
		}), "attempts=25 is_available=false last_error=x updated_at", ""},
		"remove_job":               {false, admin(func(a *pg.Admin, r *rig, _ []int64) error { _, err := a.Remove(r.t.Context(), "k"); return err }), "deleted", ""},
		"remove_job while it runs": {true, admin(func(a *pg.Admin, r *rig, _ []int64) error { _, err := a.Remove(r.t.Context(), "k"); return err }), "attempts=25 key=null updated_at", ""},
		"complete_jobs, it runs": {true, admin(func(a *pg.Admin, r *rig, ids []int64) error {
			_, err := a.Complete(r.t.Context(), ids)
			return err
		}), "", ""},
		"permanently_fail, it runs": {true, admin(func(a *pg.Admin, r *rig, ids []int64) error {
			_, err := a.Fail(r.t.Context(), ids, "x")
			return err
		}), "", ""},
		"reschedule_jobs": {false, admin(func(a *pg.Admin, r *rig, ids []int64) error {
			_, err := a.Reschedule(r.t.Context(), ids, new(time.Now()), new(int16(-3)), new(0), new(9))
			return err
		}), "attempts=0 max_attempts=9 priority=-3 run_at updated_at", ""},
		"reschedule_jobs, one": {false, admin(func(a *pg.Admin, r *rig, ids []int64) error {
			_, err := a.Reschedule(r.t.Context(), ids, nil, nil, new(0), nil)
			return err
		}), "attempts=0 updated_at", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			id := r.add("'a', '[1, 2]', queue_name := 'q', job_key := 'k', flags := array['f']")
			dbtest.Run(t, r.pool, `update graphile_worker._private_jobs set attempts = 3, last_error = 'old',
				run_at = run_at - interval '1 day', created_at = created_at - interval '2 days', updated_at = updated_at - interval '2 days'`)
			queue := dbtest.Get[int32](t, r.pool, "select job_queue_id from graphile_worker._private_jobs")
			job := &wire.Job{Lease: wire.Lease{ID: id}}
			if test.claimed {
				job = r.claimOne()
			}
			jobBefore, queueBefore := r.columns("_private_jobs", id), r.columns("_private_job_queues", queue)
			if err := test.act(r, job); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.job, changes(jobBefore, r.columns("_private_jobs", id))); diff != "" {
				t.Errorf("columns of the job (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.queue, changes(queueBefore, r.columns("_private_job_queues", queue))); diff != "" {
				t.Errorf("columns of the queue (-want +got):\n%s", diff)
			}
		})
	}
}
