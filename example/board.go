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
	Newest  []arrived // the newest first, at most 50
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

// jobsByState reads the view "jobs", which everybody may read, and done_jobs, which [history] writes, because a job that is done
// is deleted. Until it is, a job is running, whatever the history says.
const jobsByState = `
	with present as (
		select id, task_identifier as task, coalesce(queue_name, '') as queue, attempts, max_attempts, 0::bigint as took,
			coalesce(last_error, '') as error, run_at, locked_at,
			case
				when locked_at is not null then 'running'
				when attempts >= max_attempts then 'failed'
				when attempts > 0 then 'retrying'
				else 'waiting'
			end as state
		from backfill_example.jobs
	), everything as (
		select state, id, task, queue, attempts, max_attempts, coalesce(locked_at, run_at) as at, took, error,
			row_number() over (partition by state order by coalesce(locked_at, run_at), id) as place
		from present
		union all
		select 'done', id, task, queue, attempts, 0, done_at, took, '', row_number() over (order by done_at desc, id desc)
		from backfill_example.done_jobs as done
		where not exists (select from present where present.id = done.id)
	), counted as (
		select *, count(*) over (partition by state) as total from everything
	)
	select state, total, id, task, queue, attempts, max_attempts, at, took, left(error, 300)
	from counted where place <= 4 order by state, place`

// readBoard reads the board from the database.
func readBoard(ctx context.Context, db *pgxpool.Pool) (b board, err error) {
	if b.Columns, err = readColumns(ctx, db); err != nil {
		return b, fmt.Errorf("read jobs: %w", err)
	}
	rows, err := db.Query(ctx, `
		select id, arrived_at, message_id, recipient, subject, body from backfill_example.outbox order by id desc limit 50`)
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

// boards hands out boards that are at most boardAge old. All who look at the page share what is read.
type boards struct {
	db    *pgxpool.Pool
	mu    sync.Mutex
	last  board
	since time.Time
}

const boardAge = 100 * time.Millisecond

func (b *boards) now(ctx context.Context) (board, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.since) < boardAge {
		return b.last, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	next, err := readBoard(ctx, b.db)
	if err == nil {
		b.last, b.since = next, time.Now()
	}
	return next, err
}
