package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
)

const (
	floorOneConsumer   = "floor: 1 consumer"
	floorFourConsumers = "floor: 4 consumers"
)

// floorSession are settings that a good program makes: plans are made once, and are index scans whatever the statistics say.
const floorSession = "set jit = off; set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set enable_bitmapscan = off"

// floorWork is the least that a program must do which shares the tables with others, and does it the fastest way known: it claims
// 500 jobs in the order of the contract, with SKIP LOCKED and a mark on the row that survives a crash, hands each payload to
// nothing, and deletes them. The delete of one batch and the claim of the next are one round trip and one transaction, with
// statements that are prepared and have literal limits.
//
// It does not: look at queues, check that its lease still holds when it deletes, notice that it was declared dead, wait for
// notifications, decode payloads, run handlers side by side or survive their panics, record failures, or go on working while it
// waits for the database.
type floorWork struct {
	tables
	consumers int
}

// The array keeps the update from planning a join: it is 500 probes of the primary key.
const floorClaimUpTo = `
with free as materialized (
  select id from graphile_worker._private_jobs
   where is_available and job_queue_id is null and run_at <= now() and task_id = any($1::int[])
   order by priority, run_at limit %d for update skip locked
)
update graphile_worker._private_jobs as j
   set attempts = j.attempts + 1, locked_by = $2::text, locked_at = now()
 where j.id = any(array(select id from free))
returning j.id, j.task_id, j.payload, j.attempts`

var floorClaim, floorClaimOne = fmt.Sprintf(floorClaimUpTo, 500), fmt.Sprintf(floorClaimUpTo, 1)

const floorDelete = `delete from graphile_worker._private_jobs where id = any($1::bigint[])`

func (f floorWork) name() string {
	if f.consumers == 1 {
		return floorOneConsumer
	}
	return floorFourConsumers
}

func (f floorWork) work(ctx context.Context, jobs int) (sample, error) {
	return f.workIn(ctx, childSpec{Role: roleFloor, Consumers: f.consumers, Jobs: jobs})
}

// prepareFloor connects the consumers, in the child.
func prepareFloor(ctx context.Context, spec childSpec) (func(context.Context) (childReport, error), error) {
	consumers := make([]*floorConsumer, spec.Consumers)
	for i := range consumers {
		var err error
		if consumers[i], err = newFloorConsumer(ctx, fmt.Sprintf("floor-%d", i)); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) (childReport, error) {
		failed := make(chan error)
		for _, c := range consumers {
			go func() { failed <- c.run(ctx) }()
		}
		var r childReport
		var err error
		for range consumers {
			err = errors.Join(err, <-failed)
		}
		for _, c := range consumers {
			r.Ran += c.ran
			r.Twice += c.twice
			c.conn.Close(ctx)
		}
		return r, err
	}, nil
}

type floorConsumer struct {
	conn       *pgx.Conn
	id         string
	tasks      []int32
	claimed    []int64
	ran, twice int
	bytes      int // of payloads, which is what the handler would read
}

func newFloorConsumer(ctx context.Context, id string) (*floorConsumer, error) {
	conn, err := connectFloor(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return nil, err
	}
	for name, text := range map[string]string{"claim": floorClaim, "delete": floorDelete} {
		if _, err := conn.Prepare(ctx, name, text); err != nil {
			return nil, errors.Join(fmt.Errorf("prepare %s: %w", name, err), conn.Close(ctx))
		}
	}
	task, err := taskID(ctx, conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return &floorConsumer{conn: conn, id: id, tasks: []int32{task}}, nil
}

// connectFloor makes a connection with the floor's settings.
func connectFloor(ctx context.Context, url string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	if _, err := conn.Exec(ctx, floorSession); err != nil {
		return nil, errors.Join(fmt.Errorf("set session parameters: %w", err), conn.Close(ctx))
	}
	return conn, nil
}

// run works until a claim finds nothing: what is left then is in the hands of other consumers.
func (c *floorConsumer) run(ctx context.Context) error {
	for {
		batch := &pgx.Batch{}
		if len(c.claimed) > 0 {
			batch.Queue("delete", c.claimed)
		}
		batch.Queue("claim", c.tasks, c.id)
		if err := c.next(c.conn.SendBatch(ctx, batch)); err != nil {
			return fmt.Errorf("delete and claim: %w", err)
		}
		if len(c.claimed) == 0 {
			return nil
		}
	}
}

// next reads the answer to one round trip.
func (c *floorConsumer) next(results pgx.BatchResults) error {
	defer results.Close()
	if done := len(c.claimed); done > 0 {
		tag, err := results.Exec()
		if err != nil {
			return err
		}
		if got := int(tag.RowsAffected()); got != done {
			return fmt.Errorf("WRONG: %d of %d jobs were there to delete", got, done)
		}
	}
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	c.claimed = c.claimed[:0]
	var id int64
	var task int32
	var payload []byte
	var attempts int16
	for rows.Next() {
		if err := rows.Scan(&id, &task, &payload, &attempts); err != nil {
			return err
		}
		c.claimed = append(c.claimed, id)
		c.ran++
		c.bytes += len(payload)
		if attempts > 1 { // a job that somebody has claimed before
			c.twice++
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return results.Close()
}
