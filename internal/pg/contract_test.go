package pg_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/internal/worker/storetest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// The contract of worker.Store, which the one in memory of the worker's own tests keeps as well. It
// holds without the index on queues, too, where claims have other texts.
func TestStoreContract(t *testing.T) {
	t.Parallel()
	const nothing, dropIndex = "select 1", "drop index graphile_worker.backfill_jobs_queue_idx"
	for name, test := range map[string]struct {
		change, mode string
		sessions     int // of the pooler; with one, who has it must not wait for another
	}{
		"indexed": {nothing, "", 0}, "without the index on queues": {dropIndex, "", 0},
		"through a transaction pooler": {nothing, "exec", 3}, "through one, by the simple protocol": {nothing, "simple_protocol", 1},
		"through one, as for prepared statements": {dropIndex, "cache_statement", 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) storetest.Database { //nolint:thelper // it opens a database
				database := pgtest.New(t)
				db := contractDB{t, database.Pool(), database.Pool()}
				dbtest.Run(t, db.pool, test.change)
				if test.mode != "" {
					through := dbtest.Pooler(t, database.URL, "transaction", test.sessions, "server_round_robin = 1")
					db.workers = newPool(t, withParameter(t, through, "default_query_exec_mode", test.mode), nil)
				}
				return db
			}, func(t *testing.T, test func(*testing.T)) { //nolint:thelper // it runs the test
				test(t)
			})
		})
	}
}

// contractDB is a database as the contract's cases see it.
type contractDB struct {
	t    *testing.T
	pool *pgxpool.Pool
	// workers is the application's pool, which stores connect as.
	workers *pgxpool.Pool
}

func (db contractDB) NewStore() worker.Store {
	store, err := pg.Open(db.t.Context(), pg.SettingsOf(db.workers, schemaName))
	if err != nil {
		db.t.Fatal(err)
	}
	db.t.Cleanup(store.Close)
	return store
}

func (db contractDB) Add(job wire.Job) int64 {
	db.t.Helper()
	payload, most := "{}", 25
	if job.Payload != nil {
		payload = string(job.Payload)
	}
	if job.MaxAttempts != 0 {
		most = job.MaxAttempts
	}
	id := dbtest.Get[int64](db.t, db.pool, `select id from graphile_worker.add_job($1, $2::json, nullif($3, ''), $4,
		max_attempts := $5, job_key := nullif($6, ''), priority := $7, flags := $8)`,
		job.Task, payload, job.Queue, job.RunAt, most, job.Key, int(job.Priority), job.Flags)
	if job.Attempt > 0 {
		dbtest.Run(db.t, db.pool, "update graphile_worker._private_jobs set attempts = $2 where id = $1", id, job.Attempt)
	}
	return id
}

func (db contractDB) Job(id int64) (row storetest.Row, ok bool) {
	db.t.Helper()
	var wait float64
	err := db.pool.QueryRow(db.t.Context(), `select attempts, max_attempts, coalesce(last_error, ''), coalesce(locked_by, ''),
		payload::text, extract(epoch from greatest(run_at - now(), interval '0'))::float8
		from graphile_worker._private_jobs where id = $1`, id).
		Scan(&row.Attempts, &row.MaxAttempts, &row.LastError, &row.LockedBy, &row.Payload, &wait)
	if err == pgx.ErrNoRows { //nolint:errorlint // never wrapped
		return row, false
	}
	if err != nil {
		db.t.Fatal(err)
	}
	row.Wait = time.Duration(wait * float64(time.Second)).Round(time.Minute)
	return row, true
}

func (db contractDB) QueueLock(queue string) string {
	db.t.Helper()
	return dbtest.Get[string](db.t, db.pool,
		"select coalesce(max(locked_by), '') from graphile_worker._private_job_queues where queue_name = $1", queue)
}

func (db contractDB) LockJob(id int64) (unlock func()) {
	return db.lock("select from graphile_worker._private_jobs where id = $1 for update", id)
}

func (db contractDB) LockQueue(queue string) (unlock func()) {
	return db.lock("select from graphile_worker._private_job_queues where queue_name = $1 for update", queue)
}

func (db contractDB) lock(sql string, what any) (unlock func()) {
	db.t.Helper()
	tx, err := db.pool.Begin(db.t.Context())
	if err != nil {
		db.t.Fatal(err)
	}
	dbtest.Run(db.t, tx, sql, what)
	return func() { _ = tx.Rollback(context.Background()) }
}

func (db contractDB) Delete(id int64) {
	dbtest.Run(db.t, db.pool, "delete from graphile_worker._private_jobs where id = $1", id)
}

func (db contractDB) Relock(id int64, lockedBy string) {
	dbtest.Run(db.t, db.pool, `update graphile_worker._private_jobs
		set locked_by = nullif($2, ''), locked_at = case when $2 <> '' then now() end where id = $1`, id, lockedBy)
}

func (db contractDB) RelockQueue(queue, lockedBy string) {
	dbtest.Run(db.t, db.pool, `update graphile_worker._private_job_queues
		set locked_by = nullif($2, ''), locked_at = case when $2 <> '' then now() end where queue_name = $1`, queue, lockedBy)
}

func (db contractDB) LockWorker(workerID string) (unlock func()) {
	return db.lock("select from graphile_worker.backfill_workers where id = $1 for update", workerID)
}

func (db contractDB) Change(id int64, attempts int, runAt time.Time) {
	dbtest.Run(db.t, db.pool, "update graphile_worker._private_jobs set attempts = $2, run_at = $3 where id = $1", id, attempts, runAt)
}

func (db contractDB) Supersede(id int64) {
	dbtest.Run(db.t, db.pool, `select graphile_worker.add_job('a', job_key := key, run_at := now() + interval '1 hour')
		from graphile_worker._private_jobs where id = $1`, id)
}

func (db contractDB) Remove(id int64) {
	dbtest.Run(db.t, db.pool, "select graphile_worker.remove_job(key) from graphile_worker._private_jobs where id = $1", id)
}

func (db contractDB) Keyed(key string) int64 {
	db.t.Helper()
	return dbtest.Get[int64](db.t, db.pool, "select id from graphile_worker._private_jobs where key = $1", key)
}

func (db contractDB) Fail(id int64, text string) {
	dbtest.Run(db.t, db.pool, "update graphile_worker._private_jobs set last_error = $2 where id = $1", id, text)
}

func (db contractDB) Age(id int64, by time.Duration) {
	dbtest.Run(db.t, db.pool, `with job as (
		update graphile_worker._private_jobs set locked_at = locked_at - $2::interval where id = $1 returning job_queue_id)
		update graphile_worker._private_job_queues set locked_at = locked_at - $2::interval
		where id = (select job_queue_id from job)`, id, by)
}

func (db contractDB) EndSession(store worker.Store) {
	pg.EndPulse(db.t, store.(*pg.Store)) //nolint:forcetypeassert // there is no other
}

func (db contractDB) Forget(workerID string) {
	dbtest.Run(db.t, db.pool, "delete from graphile_worker.backfill_workers where id = $1", workerID)
}

func (db contractDB) AgeSweep(workerID string, by time.Duration) {
	dbtest.Run(db.t, db.pool, "update graphile_worker.backfill_workers set swept_at = swept_at - $2::interval where id = $1", workerID, by)
}

func (db contractDB) Refuse(id int64) {
	dbtest.Run(db.t, db.pool, fmt.Sprintf(`create function refuse() returns trigger language plpgsql as $$
		begin raise exception 'refused' using errcode = 'check_violation'; end $$;
		create trigger refuse before update or delete on graphile_worker._private_jobs
		for each row when (old.id = %d) execute function refuse()`, id))
}

func (db contractDB) Pause(task, queue string, until time.Time) {
	db.t.Helper()
	if err := db.admin().Pause(db.t.Context(), pg.Pause{Task: task, Queue: queue, Until: until}); err != nil {
		db.t.Fatal(err)
	}
}

func (db contractDB) Resume(task, queue string) {
	db.t.Helper()
	resume, name := db.admin().Resume, task
	if queue != "" {
		resume, name = db.admin().ResumeQueue, queue
	}
	if err := resume(db.t.Context(), name); err != nil {
		db.t.Fatal(err)
	}
}

// Request implements storetest.DB. The request is so old that whoever has stored it looks no more.
func (db contractDB) Request(id int64, request worker.Request) {
	dbtest.Run(db.t, db.pool, `insert into graphile_worker.backfill_cancels (job_id, requested_at, requested_by, reason)
		values ($1, now() - interval '10 seconds', $2, $3)`, id, request.By, request.Reason)
}

func (db contractDB) Requested(id int64) bool {
	db.t.Helper()
	return dbtest.Get[bool](db.t, db.pool, "select exists (select from graphile_worker.backfill_cancels where job_id = $1)", id)
}

func (db contractDB) admin() *pg.Admin { return pg.NewAdmin(db.pool, schemaName) }

func (db contractDB) Letter(id int64) (letter storetest.Letter, ok bool) {
	db.t.Helper()
	err := db.pool.QueryRow(db.t.Context(), `select task_identifier, coalesce(queue_name, ''), coalesce(job_key, ''), payload::text, priority,
		attempts, max_attempts, failure_reason, failure_count, last_error, first_error
		from graphile_worker.backfill_dlq where original_job_id = $1 and requeued_job_id is null`, id).
		Scan(&letter.Task, &letter.Queue, &letter.Key, &letter.Payload, &letter.Priority, &letter.Attempts, &letter.MaxAttempts,
			&letter.Reason, &letter.Count, &letter.LastError, &letter.FirstError)
	if err == pgx.ErrNoRows { //nolint:errorlint // never wrapped
		return letter, false
	}
	if err != nil {
		db.t.Fatal(err)
	}
	return letter, true
}

func (db contractDB) Requeue(id int64) int64 {
	db.t.Helper()
	return dbtest.Get[int64](db.t, db.pool, `with letter as (
		select * from graphile_worker.backfill_dlq where original_job_id = $1 and requeued_job_id is null
	), job as (
		insert into graphile_worker._private_jobs (task_id, job_queue_id, payload, priority, max_attempts, key)
		select t.id, q.id, letter.payload, letter.priority, letter.max_attempts, letter.job_key from letter
		  join graphile_worker._private_tasks as t on t.identifier = letter.task_identifier
		  left join graphile_worker._private_job_queues as q on q.queue_name = letter.queue_name returning id
	) update graphile_worker.backfill_dlq as d set requeued_job_id = job.id, requeued_count = requeued_count + 1
	    from job where d.original_job_id = $1 and d.requeued_job_id is null returning job.id`, id)
}

func (db contractDB) LockLetter(id int64) (unlock func()) {
	return db.lock(`select from graphile_worker.backfill_dlq
		where requeued_job_id = $1 or original_job_id = $1 and requeued_job_id is null for update`, id)
}

func (db contractDB) AgeLetter(id int64, by time.Duration) {
	dbtest.Run(db.t, db.pool, "update graphile_worker.backfill_dlq set failed_at = failed_at - $2::interval where original_job_id = $1", id, by)
}

func (db contractDB) Exhaust(id int64, text string, ago time.Duration) {
	dbtest.Run(db.t, db.pool, `update graphile_worker._private_jobs
		set attempts = max_attempts, last_error = nullif($2, ''), updated_at = now() - interval '1 day',
		    run_at = now() - $3::interval + exp(least(10, max_attempts)) * interval '1 second' where id = $1`, id, text, ago)
}
