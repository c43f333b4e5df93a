package pgstore_test

import (
	"testing"
	"time"

	"github.com/backfillhq/go/internal/engine"
	"github.com/backfillhq/go/internal/engine/pgstore"
)

// The contract's functions take run_at := 'infinity', to park a job, and dates further away than a time.Duration reaches. Such a job is
// never due, and is in nobody's way.
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
			if next := r.try(10, 10).NextDue; next < 50*time.Minute || next > time.Hour {
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
			if locks := get[int](t, r.pool, "select count(*)::int from graphile_worker._private_jobs where id = $1 and locked_at is not null", id); locks != 0 {
				t.Error("it is still locked")
			}
		})
	}
}

// What returns a job can return a parked one: as the zero Time.
func TestParkedJobsAreReturned(t *testing.T) {
	t.Parallel()
	one := func(job *engine.Job, err error) ([]*engine.Job, error) { return []*engine.Job{job}, err }
	insert := func(mode engine.KeyMode, access pgstore.EnqueueAccess) func(*rig, int64) ([]*engine.Job, error) {
		return func(r *rig, _ int64) ([]*engine.Job, error) {
			spec := engine.Spec{Task: "a", Payload: []byte("{}"), MaxAttempts: 25, Key: "k", KeyMode: mode}
			jobs, err := pgstore.NewInserter(r.pool, schemaName).Through(access).Insert(r.t.Context(), []engine.Spec{spec})
			if err != nil {
				return nil, err
			}
			return one(jobs[0], err)
		}
	}
	admin := func(do func(*rig, *pgstore.Admin, []int64) ([]*engine.Job, error)) func(*rig, int64) ([]*engine.Job, error) {
		return func(r *rig, id int64) ([]*engine.Job, error) {
			return do(r, pgstore.NewAdmin(r.pool, schemaName), []int64{id})
		}
	}
	for name, do := range map[string]func(*rig, int64) ([]*engine.Job, error){
		"dedupe":             insert(engine.KeyUnsafeDedupe, pgstore.EnqueueDirectly),
		"preserve":           insert(engine.KeyPreserveRunAt, pgstore.EnqueueDirectly),
		"dedupe, function":   insert(engine.KeyUnsafeDedupe, pgstore.EnqueueByFunction),
		"preserve, function": insert(engine.KeyPreserveRunAt, pgstore.EnqueueByFunction),
		"complete": admin(func(r *rig, a *pgstore.Admin, ids []int64) ([]*engine.Job, error) {
			return a.Complete(r.t.Context(), ids)
		}),
		"fail": admin(func(r *rig, a *pgstore.Admin, ids []int64) ([]*engine.Job, error) {
			return a.Fail(r.t.Context(), ids, "")
		}),
		"reschedule": admin(func(r *rig, a *pgstore.Admin, ids []int64) ([]*engine.Job, error) {
			return a.Reschedule(r.t.Context(), ids, nil, new(int16(3)), nil, nil)
		}),
		"remove": admin(func(r *rig, a *pgstore.Admin, _ []int64) ([]*engine.Job, error) {
			return a.Remove(r.t.Context(), "k")
		}),
		"force unlock": admin(func(r *rig, a *pgstore.Admin, _ []int64) ([]*engine.Job, error) {
			run(r.t, r.pool, "update graphile_worker._private_jobs set locked_at = now(), locked_by = 'pool-node'")
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
			if n := get[int](t, r.pool, "select count(*)::int from graphile_worker._private_jobs where locked_at is not null"); n != 0 {
				t.Errorf("%d jobs are locked", n)
			}
		})
	}
}
