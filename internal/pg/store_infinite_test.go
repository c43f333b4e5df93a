package pg_test

import (
	"testing"
	"time"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
)

// The contract's functions take run_at := 'infinity', to park a job, and dates further away than a
// time.Duration reaches. Such a job is never due, and is in nobody's way.
func TestParkedJobs(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]string{"infinity": "infinity", "far away": "9999-12-31Z"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.add("'a', run_at := '" + at + "'")
			r.add("'a', run_at := '" + at + "', queue_name := 'q'")
			for _, queue := range []string{"", ", queue_name := 'q'"} {
				due := r.add("'a'" + queue)
				claimed := r.try(10, 10)
				wantIDs(t, "claimed", idsOf(claimed.Jobs), due)
				if claimed.NextDue != 0 {
					t.Errorf("the next job is due in %v, want never", claimed.NextDue)
				}
			}
			soon := r.add("'a', run_at := now() + interval '1 hour'")
			if next := r.tryAll(10, 10).NextDue; next < 50*time.Minute || next > time.Hour {
				t.Errorf("the next job, %d, is due in %v, want an hour", soon, next)
			}
		})
	}
}

// A job that was always due ends in every way, too.
func TestJobDueSinceForever(t *testing.T) {
	t.Parallel()
	for name, end := range endings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			id := r.add("'a', run_at := '-infinity', queue_name := 'q'")
			job := r.claimOne()
			if !job.RunAt.IsZero() {
				t.Errorf("claimed with run_at %v, want the zero Time", job.RunAt)
			}
			if settled := end(r, job); len(settled.Lost)+len(settled.Busy) > 0 {
				t.Errorf("settled: %+v", settled)
			}
			if locks := dbtest.Get[int](t, r.pool, "select count(*)::int from graphile_worker._private_jobs where id = $1 and locked_at is not null", id); locks != 0 {
				t.Error("it is still locked")
			}
		})
	}
}

// What returns a job can return a parked one: as the zero Time.
func TestParkedJobsAreReturned(t *testing.T) {
	t.Parallel()
	one := func(job *wire.Job, err error) ([]*wire.Job, error) { return []*wire.Job{job}, err }
	insert := func(mode wire.KeyMode, access schema.Access) func(*rig, int64) ([]*wire.Job, error) {
		return func(r *rig, _ int64) ([]*wire.Job, error) {
			spec := wire.Spec{Task: "a", Payload: []byte("{}"), MaxAttempts: 25, Key: "k", KeyMode: mode}
			jobs, _, err := pg.NewInserter(r.pool, schemaName, access).InsertAll(r.t.Context(), []wire.Spec{spec}, nil)
			if err != nil {
				return nil, err
			}
			return one(jobs[0], err)
		}
	}
	admin := func(do func(*rig, *pg.Admin, []int64) ([]*wire.Job, error)) func(*rig, int64) ([]*wire.Job, error) {
		return func(r *rig, id int64) ([]*wire.Job, error) {
			return do(r, pg.NewAdmin(r.pool, schemaName), []int64{id})
		}
	}
	for name, do := range map[string]func(*rig, int64) ([]*wire.Job, error){
		"dedupe":             insert(wire.KeyUnsafeDedupe, schema.WritesTables),
		"preserve":           insert(wire.KeyPreserveRunAt, schema.WritesTables),
		"dedupe, function":   insert(wire.KeyUnsafeDedupe, schema.CallsFunction),
		"preserve, function": insert(wire.KeyPreserveRunAt, schema.CallsFunction),
		"complete": admin(func(r *rig, a *pg.Admin, ids []int64) ([]*wire.Job, error) {
			return a.Complete(r.t.Context(), ids)
		}),
		"fail": admin(func(r *rig, a *pg.Admin, ids []int64) ([]*wire.Job, error) {
			return a.Fail(r.t.Context(), ids, "")
		}),
		"reschedule": admin(func(r *rig, a *pg.Admin, ids []int64) ([]*wire.Job, error) {
			return a.Reschedule(r.t.Context(), ids, nil, new(int16(3)), nil, nil)
		}),
		"remove": admin(func(r *rig, a *pg.Admin, _ []int64) ([]*wire.Job, error) {
			return a.Remove(r.t.Context(), "k")
		}),
		"force unlock": admin(func(r *rig, a *pg.Admin, _ []int64) ([]*wire.Job, error) {
			dbtest.Run(r.t, r.pool, "update graphile_worker._private_jobs set locked_at = now(), locked_by = 'pool-node'")
			return a.ForceUnlock(r.t.Context(), []string{"pool-node"})
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			id := r.add("'a', run_at := 'infinity', job_key := 'k'")
			jobs, err := do(r, id)
			if err != nil {
				t.Fatal(err)
			}
			if len(jobs) != 1 || jobs[0].ID != id || !jobs[0].RunAt.IsZero() {
				t.Errorf("returned %+v", jobs)
			}
			if n := dbtest.Get[int](t, r.pool, "select count(*)::int from graphile_worker._private_jobs where locked_at is not null"); n != 0 {
				t.Errorf("%d jobs are locked", n)
			}
		})
	}
}
