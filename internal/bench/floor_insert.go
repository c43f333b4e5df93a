package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	floorInsertNotify = "floor: insert and pg_notify"
	floorInsertOnly   = "floor: insert"
	floorUnnestName   = "floor: unnest"
	floorCopyName     = "floor: COPY"
)

// floorConnections bounds the connections of the floor that enqueues. On a few cores, 100 of them are slower than 10.
const floorConnections = 10

// floorInsert inserts one job in one statement, prepared, that is its own transaction. With notify it wakes workers in that same
// transaction, as add_job does. It knows the task's id, leaves all else to the columns' defaults, checks nothing, and asks for
// nothing but the id.
type floorInsert struct {
	tables
	notify bool
}

const (
	insertOnly   = "insert into graphile_worker._private_jobs (task_id, payload) values ($1, $2) returning id"
	insertNotify = "with i as (" + insertOnly + `) select i.id from i, pg_notify('jobs:insert', '{"r":0.5,"count":1}')`
)

func (f floorInsert) name() string {
	if f.notify {
		return floorInsertNotify
	}
	return floorInsertOnly
}

func (f floorInsert) enqueue(ctx context.Context, callers int, during time.Duration) (sample, int, error) {
	task, err := taskID(ctx, f.admin)
	if err != nil {
		return nil, 0, err
	}
	config, err := pgxpool.ParseConfig(f.url)
	if err != nil {
		return nil, 0, fmt.Errorf("configure connections: %w", err)
	}
	config.MaxConns = int32(min(callers, floorConnections)) //nolint:gosec // at most 10
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, 0, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	defer pool.Close()
	statement := insertOnly
	if f.notify {
		statement = insertNotify
	}
	return f.call(ctx, callers, during, func(ctx context.Context, n int) error {
		var id int64
		return pool.QueryRow(ctx, statement, task, payload(n)).Scan(&id)
	})
}

// payload is the args of job n, as encoding/json would write them.
func payload(n int) []byte {
	return append(strconv.AppendInt([]byte(`{"n":`), int64(n), 10), '}')
}

// floorUnnest inserts batches on one connection, from an array of payloads that are there before the clock runs. The task's id
// is known, all else is the columns' defaults; it checks nothing, notifies nobody, and asks for no ids.
type floorUnnest struct{ tables }

const insertUnnest = "insert into graphile_worker._private_jobs (task_id, payload) select $1, unnest($2::text[])::json"

func (f floorUnnest) name() string { return floorUnnestName }

func (f floorUnnest) bulk(ctx context.Context, jobs int) (sample, error) {
	payloads := make([]string, jobs)
	for n := range payloads {
		payloads[n] = string(payload(n))
	}
	return f.insert(ctx, jobs, bulkBatch, func(conn *pgx.Conn, task int32, first, count int) error {
		_, err := conn.Exec(ctx, insertUnnest, task, payloads[first:first+count])
		return err
	})
}

// copyBatch is larger, because COPY takes a round trip more for each batch.
const copyBatch = 5000

// floorCopy is the fastest way to get rows into a table, for a program that knows the columns: to know, not to compare with.
type floorCopy struct{ tables }

func (f floorCopy) name() string { return floorCopyName }

func (f floorCopy) bulk(ctx context.Context, jobs int) (sample, error) {
	table, columns := pgx.Identifier{"graphile_worker", "_private_jobs"}, []string{"task_id", "payload"}
	return f.insert(ctx, jobs, copyBatch, func(conn *pgx.Conn, task int32, first, count int) error {
		_, err := conn.CopyFrom(ctx, table, columns, pgx.CopyFromSlice(count, func(i int) ([]any, error) {
			return []any{task, payload(first + i)}, nil
		}))
		return err
	})
}

// insert inserts jobs on one connection, batch after batch.
func (t tables) insert(ctx context.Context, jobs, batch int, do func(conn *pgx.Conn, task int32, first, count int) error) (sample, error) {
	task, err := taskID(ctx, t.admin)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, t.url)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	defer conn.Close(ctx)
	return t.batches(ctx, jobs, batch, func(first, count int) error { return do(conn, task, first, count) })
}
