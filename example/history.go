package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
)

// history writes the jobs that are done to a table, for the page: the queue deletes them. An
// observer must return quickly, so it only puts the event into a channel. A goroutine takes all
// events that are there, and writes them in one statement. The history is for display. If the
// channel is full, because the database does not answer, jobs are left out: the worker never waits
// for it.
type history struct {
	db    *pgxpool.Pool
	jobs  chan backfill.Event
	ended chan struct{}
}

func newHistory(db *pgxpool.Pool) *history {
	h := &history{db: db, jobs: make(chan backfill.Event, 10_000), ended: make(chan struct{})}
	go h.write()
	return h
}

// observe is a backfill.Observer.
func (h *history) observe(e backfill.Event) {
	if e.Kind != backfill.EventFinished {
		return
	}
	select {
	case h.jobs <- e:
	default:
	}
}

// close returns when everything is written. The worker has to have ended.
func (h *history) close() {
	close(h.jobs)
	<-h.ended
}

func (h *history) write() {
	defer close(h.ended)
	failing := false // what fails again and again is logged once
	for e := range h.jobs {
		batch := []backfill.Event{e}
		for len(h.jobs) > 0 && len(batch) < 1000 {
			batch = append(batch, <-h.jobs)
		}
		err := h.insert(batch)
		if err != nil && !failing {
			slog.Warn("history of jobs not written", slog.Any("error", err))
		}
		failing = err != nil
	}
}

func (h *history) insert(batch []backfill.Event) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var ids, took []int64
	var attempts []int
	var names, queues []string
	for _, e := range batch {
		ids, took, attempts = append(ids, e.Job.ID), append(took, int64(e.Duration)), append(attempts, e.Job.Attempt)
		names, queues = append(names, e.Job.Task), append(queues, e.Job.Queue)
	}
	// A job that ran twice would be there twice, and one statement must not change a row twice.
	_, err := h.db.Exec(ctx, `
		insert into backfill_example.done_jobs (id, task, queue, attempts, took)
		select distinct on (id) id, task, queue, attempts, took
		from unnest($1::bigint[], $2::text[], $3::text[], $4::int[], $5::bigint[]) as jobs (id, task, queue, attempts, took)
		order by id, attempts desc
		on conflict (id) do update set attempts = excluded.attempts, took = excluded.took, done_at = excluded.done_at`,
		ids, names, queues, attempts, took)
	return err
}
