package pg_test

import (
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/worker/storetest"
)

func (db contractDB) History(id int64) (attempts []storetest.Attempt) {
	db.t.Helper()
	rows, err := db.pool.Query(db.t.Context(), `select attempt, outcome, started_at is not null, coalesce(error, ''),
		coalesce(output::text, ''), coalesce(log, '') from graphile_worker.backfill_history where job_id = $1 order by ended_at, started_at nulls last`, id)
	if err != nil {
		db.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var a storetest.Attempt
		if err := rows.Scan(&a.Attempt, &a.Outcome, &a.Started, &a.Error, &a.Output, &a.Log); err != nil {
			db.t.Fatal(err)
		}
		attempts = append(attempts, a)
	}
	if err := rows.Err(); err != nil {
		db.t.Fatal(err)
	}
	return attempts
}

func (db contractDB) Counted(task string) (ended storetest.Counted) {
	db.t.Helper()
	var run, wait float64
	err := db.pool.QueryRow(db.t.Context(), `select coalesce(sum(completed), 0), coalesce(sum(failed), 0), coalesce(sum(dead), 0),
		coalesce(sum(snoozed), 0), coalesce(sum(returned), 0), coalesce(sum(canceled), 0), coalesce(sum(run_seconds), 0), coalesce(sum(wait_seconds), 0),
		coalesce(sum((select sum(n) from unnest(run_counts) as u(n))), 0), coalesce(sum((select sum(n) from unnest(wait_counts) as u(n))), 0)
		from graphile_worker.backfill_counters where task_identifier = $1`, task).Scan(&ended.Completed, &ended.Failed, &ended.Dead,
		&ended.Snoozed, &ended.Returned, &ended.Canceled, &run, &wait, &ended.Runs, &ended.Waits)
	if err != nil {
		db.t.Fatal(err)
	}
	ended.Run, ended.Wait = time.Duration(run*float64(time.Second)), time.Duration(wait*float64(time.Second))
	return ended
}

func (db contractDB) Progress(id int64) (p storetest.Progress) {
	db.t.Helper()
	err := db.pool.QueryRow(db.t.Context(), `select p.attempt, p.done, p.total, p.note from graphile_worker.backfill_progress as p
		join graphile_worker._private_jobs as j on j.id = p.job_id and j.locked_by = p.token where j.id = $1`, id).Scan(&p.Attempt, &p.Done, &p.Total, &p.Note)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		db.t.Fatal(err)
	}
	return p
}
