package pg_test

import (
	"fmt"
	"testing"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// A rescue reads the jobs a few times, however many queues it releases: the same for what a worker
// releases of its own. Once for each queue took 3 minutes for 500 queues and 2 million jobs, and
// their statement has 30 seconds.
func TestQueuesAreReleasedInFewScans(t *testing.T) {
	t.Parallel()
	for what, release := range map[string]func(*rig, string) (queues int, err error){
		"rescue": func(r *rig, dead string) (int, error) {
			rescued, err := r.store.Rescue(r.t.Context(), worker.RescueRequest{IDs: []string{dead}})
			return rescued.Queues, err
		},
		"reclaim": func(r *rig, dead string) (int, error) {
			answer, err := r.store.Reclaim(r.t.Context(), dead, nil)
			return answer.Queues, err
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t).Pool()
			for _, join := range []string{"enable_hashjoin", "enable_mergejoin"} { // as a planner that expects one queue
				dbtest.Run(t, db, fmt.Sprintf("alter database %s set %s = off", db.Config().ConnConfig.Database, join))
			}
			r := rigOn(t, db, schemaName)
			dead := wire.NewWorkerID()
			dbtest.Run(t, r.pool, "insert into graphile_worker._private_job_queues (queue_name) select 'q' || i from generate_series(1, 300) as i")
			dbtest.Run(t, r.pool, `insert into graphile_worker._private_jobs (task_id, payload, job_queue_id)
				select (select min(id) from graphile_worker._private_tasks), '{}', case when i % 3 = 0 then 1 + i % 300 end
				from generate_series(1, 3000) as i`)
			dbtest.Run(t, r.pool, "update graphile_worker._private_job_queues set locked_at = now(), locked_by = $1", dead+".1")
			dbtest.Run(t, r.pool, "analyze graphile_worker._private_jobs, graphile_worker._private_job_queues")
			before := r.scans()
			if queues, err := release(r, dead); err != nil || queues != 300 {
				t.Fatalf("released %d queues, %v", queues, err)
			}
			r.store.Close() // the server counts at the end of a session, at the latest
			dbtest.Until(t, func() bool {
				return dbtest.Get[int](t, r.pool, `select count(*)::int from pg_stat_activity
					where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`) == 0
			})
			if n := r.scans() - before; n > 20 {
				t.Errorf("read the jobs %d times", n)
			}
		})
	}
}

// scans returns how often all jobs were read so far, as far as the server has counted.
func (r *rig) scans() int64 {
	return dbtest.Get[int64](r.t, r.pool, "select seq_scan from pg_stat_all_tables where relid = 'graphile_worker._private_jobs'::regclass")
}
