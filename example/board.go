package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/example/tasks"
)

// board is what the page shows besides the form: the jobs by their state, and the newest mail.
type board struct {
	Columns []column
	Mails   int
	Newest  []arrived // the newest first, at most 20
}

// MailComes reports whether a welcome mail is on its way.
func (b board) MailComes() bool {
	return slices.ContainsFunc(b.Columns, func(c column) bool {
		return c.State != "done" && c.State != "failed" &&
			slices.ContainsFunc(c.Jobs, func(j job) bool { return j.Task == tasks.TaskSendWelcome.Name })
	})
}

// column has the jobs of one state.
type column struct {
	State string
	Count int
	Jobs  []job // at most 4: the next to run, the last that ended
}

// More returns how many jobs the column does not show.
func (c column) More() int { return c.Count - len(c.Jobs) }

// job is a job on the board.
type job struct {
	ID                    int64
	Task, Queue           string
	Attempts, MaxAttempts int       // Attempts has the one that runs
	At                    time.Time // when it is due, was taken by a worker, or was done
	Took                  time.Duration
	Error                 string // of the last attempt
}

// Next returns the number of the attempt that comes next.
func (j job) Next() int { return j.Attempts + 1 }

// arrived is a mail in the outbox.
type arrived struct {
	ID                                  int64
	At                                  time.Time
	MessageID, Recipient, Subject, Body string
}

// jobsByState reads the view "jobs", the dead letters, which are the jobs that failed for good, and
// done_jobs, which [history] writes, because a job that is done is deleted. Until it is, a job is running, whatever the
// history says.
const jobsByState = `
	with present as materialized (
		select id, task_identifier as task, coalesce(queue_name, '') as queue, attempts, max_attempts,
			coalesce(locked_at, run_at) as at, coalesce(last_error, '') as error,
			case
				when locked_at is not null then 'running'
				when attempts >= max_attempts then 'failed'
				when attempts > 0 then 'retrying'
				else 'waiting'
			end as state
		from backfill_example.jobs
		union all
		select original_job_id, task_identifier, coalesce(queue_name, ''), attempts, max_attempts, failed_at, coalesce(last_error, ''), 'failed'
		from backfill_example.backfill_dlq where requeued_job_id is null
	), shown as (
		select states.state, next.*
		from (values ('waiting'), ('running'), ('retrying'), ('failed')) as states (state)
		cross join lateral (
			select id, task, queue, attempts, max_attempts, at, 0::bigint as took, left(error, 300) as error
			from present where present.state = states.state order by at, id limit 4
		) as next
		union all
		(select 'done', id, task, queue, attempts, 0, done_at, took, '' from backfill_example.done_jobs as done
		where not exists (select from present where present.id = done.id) order by done_at desc limit 4)
	), counted as (
		select state, count(*) as total from present group by state
		union all
		select 'done', count(*) - (select count(*) from present join backfill_example.done_jobs using (id))
		from backfill_example.done_jobs
	)
	select state, total, id, task, queue, attempts, max_attempts, at, took, error
	from shown join counted using (state)
	order by state, case when state = 'done' then -extract(epoch from at) else extract(epoch from at) end, id`

// readBoard reads the board from the database.
func readBoard(ctx context.Context, db *pgxpool.Pool) (b board, err error) {
	if b.Columns, err = readColumns(ctx, db); err != nil {
		return b, fmt.Errorf("read jobs: %w", err)
	}
	rows, err := db.Query(ctx, `
		select id, arrived_at, message_id, recipient, subject, body from backfill_example.outbox order by id desc limit 20`)
	if err == nil {
		b.Newest, err = pgx.CollectRows(rows, pgx.RowToStructByPos[arrived])
	}
	if err == nil {
		err = db.QueryRow(ctx, "select count(*) from backfill_example.outbox").Scan(&b.Mails)
	}
	if err != nil {
		return b, fmt.Errorf("read mail: %w", err)
	}
	return b, nil
}

// readColumns returns all columns, those without a job too; but "failed" only if there is one.
func readColumns(ctx context.Context, db *pgxpool.Pool) ([]column, error) {
	rows, err := db.Query(ctx, jobsByState)
	if err != nil {
		return nil, err
	}
	found := map[string]column{}
	var state string
	var total int
	var j job
	fields := []any{&state, &total, &j.ID, &j.Task, &j.Queue, &j.Attempts, &j.MaxAttempts, &j.At, &j.Took, &j.Error}
	_, err = pgx.ForEachRow(rows, fields, func() error {
		found[state] = column{State: state, Count: total, Jobs: append(found[state].Jobs, j)}
		return nil
	})
	var columns []column
	for _, state := range []string{"waiting", "running", "retrying", "done", "failed"} {
		c := found[state]
		c.State = state
		if state != "failed" || c.Count > 0 {
			columns = append(columns, c)
		}
	}
	return columns, err
}

// boards hands out boards that are a moment old. All who look at the page share what is read, and
// reading takes at most a tenth of the time, however many jobs there are.
type boards struct {
	db   *pgxpool.Pool
	mu   sync.Mutex
	last board
	good time.Time // until then
}

// boardAge is how old a board becomes before it is read again, at least.
const boardAge = 100 * time.Millisecond

func (b *boards) now(ctx context.Context) (board, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	began := time.Now()
	if began.Before(b.good) {
		return b.last, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	next, err := readBoard(ctx, b.db)
	if err == nil {
		b.last, b.good = next, time.Now().Add(max(boardAge, 9*time.Since(began)))
	}
	return next, err
}
