package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// letterRow is a dead letter.
type letterRow struct {
	Task, Queue, Payload, Key, Reason, LastError string
	Attempts, MaxAttempts, Count                 int
}

// letterRows returns the dead letters, by id.
func letterRows(t *testing.T, db *pgtest.Database) []letterRow {
	t.Helper()
	rows, err := db.Pool().Query(t.Context(), `select task_identifier, coalesce(queue_name, ''), payload::text, coalesce(job_key, ''),
		failure_reason, coalesce(last_error, ''), attempts, max_attempts, failure_count from graphile_worker.backfill_dlq order by id`)
	if err != nil {
		t.Fatal(err)
	}
	letters, err := pgx.CollectRows(rows, pgx.RowToStructByPos[letterRow])
	if err != nil {
		t.Fatal(err)
	}
	return letters
}

// onlyLetter returns the one dead letter that there is, and checks that no job is left.
func onlyLetter(t *testing.T, db *pgtest.Database) letterRow {
	t.Helper()
	letters := letterRows(t, db)
	if len(letters) != 1 || len(jobRows(t, db)) != 0 {
		t.Fatalf("dead letters %+v, and jobs %+v, want one dead letter alone", letters, jobRows(t, db))
	}
	return letters[0]
}

// onlyEnd returns the row of the only job, or what a row of it would say now that it is a dead
// letter.
func onlyEnd(t *testing.T, db *pgtest.Database) jobRow {
	t.Helper()
	switch rows := jobRows(t, db); len(rows) { // one read: the job may end between two
	case 0:
	case 1:
		return rows[0]
	default:
		t.Fatalf("%d jobs, want 1: %+v", len(rows), rows)
	}
	letter := onlyLetter(t, db)
	return jobRow{
		Task: letter.Task, Queue: letter.Queue, Payload: letter.Payload, Key: letter.Key, LastError: letter.LastError,
		Attempts: letter.Attempts, MaxAttempts: letter.MaxAttempts,
	}
}

// A defect of the first backfill (9): a permanent failure waited for a tick of a processor. Here
// the statement that records it makes the dead letter, and the worker says so once.
func TestLettersAreMadeAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, registry := taskOf("send", func(context.Context, mailArgs) error { return backfill.Permanent(errBoom) })
	enqueue(t, client, task, mailArgs{UserID: 1}, backfill.Queue("q"), backfill.Key("k"))
	var seen logOfEvents
	var log logBook
	report := runOnce(t, client, registry, backfill.WithObserver(seen.observe), backfill.WithLogger(log.logger()))
	if diff := cmp.Diff(&backfill.Report{Failed: 1, Exhausted: 1}, report); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	want := letterRow{
		Task: "send", Queue: "q", Payload: `{"user_id":1}`, Key: "k", Reason: "permanent", LastError: "boom", Attempts: 1, MaxAttempts: 25, Count: 1,
	}
	if diff := cmp.Diff(want, onlyLetter(t, db)); diff != "" {
		t.Errorf("dead letter (-want +got):\n%s", diff)
	}
	if n := seen.count(backfill.EventDead); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	log.want(t, "job ended", "dead_letter=permanent")
}

// A defect of the first backfill (7): which errors are permanent was guessed from words in their
// texts. Here the handler says it.
func TestLettersGoByWhatTheHandlerSays(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	texts := []string{"permanent: user not found", "invalid", "unauthorized, do not retry"}
	tries, registry := taskOf("tries", func(_ context.Context, n int) error { return errors.New(texts[n]) })
	for n := range texts {
		enqueue(t, client, tries, n)
	}
	runOnce(t, client, registry)
	for _, row := range jobRows(t, db) {
		if row.Attempts != 1 || row.MaxAttempts != 25 {
			t.Errorf("row %+v, want one that is tried again", row)
		}
	}
	if letters := letterRows(t, db); len(letters) > 0 {
		t.Errorf("dead letters %+v, want none", letters)
	}
	wantJobs(t, db, len(texts))
}

// A defect of the first backfill (8): a job that died again kept the old payload, and a key was one
// dead letter for all its jobs.
func TestLettersHaveTheLastPayload(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, registry := taskOf("send", func(_ context.Context, a mailArgs) error { return backfill.Permanent(fmt.Errorf("user %d", a.UserID)) })
	enqueue(t, client, task, mailArgs{UserID: 1}, backfill.Key("k"))
	runOnce(t, client, registry)
	dbtest.Run(t, db.Pool(), `with job as (insert into graphile_worker._private_jobs (task_id, payload, key)
		select t.id, d.payload, d.job_key from graphile_worker.backfill_dlq as d
		  join graphile_worker._private_tasks as t on t.identifier = d.task_identifier returning id)
		update graphile_worker.backfill_dlq set requeued_job_id = job.id from job`)
	enqueue(t, client, task, mailArgs{UserID: 2}, backfill.Key("k")) // replaces what was requeued
	runOnce(t, client, registry)
	want := letterRow{
		Task: "send", Payload: `{"user_id":2}`, Key: "k", Reason: "permanent", LastError: "user 2", Attempts: 1, MaxAttempts: 25, Count: 2,
	}
	if diff := cmp.Diff(want, onlyLetter(t, db)); diff != "" {
		t.Errorf("dead letter (-want +got):\n%s", diff)
	}
	enqueue(t, client, task, mailArgs{UserID: 3}, backfill.Key("k"), backfill.UnsafeDedupe) // a failed job does not block it
	runOnce(t, client, registry)
	if letters := letterRows(t, db); len(letters) != 2 || letters[1].LastError != "user 3" {
		t.Errorf("dead letters %+v, want one more", letters)
	}
}

// A defect of the first backfill (10): a batch claim broke the order of a queue. Jobs of a queue
// that fail for good are dead letters in its order, one at a time, and do not stop it.
func TestLettersKeepQueuesSerial(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	running := make(chan struct{}, 1)
	task, registry := taskOf("serial", func(_ context.Context, n int) error {
		select {
		case running <- struct{}{}:
			defer func() { <-running }()
		default:
			t.Errorf("job %d runs beside another one", n)
		}
		if n%2 == 0 {
			return backfill.Permanent(fmt.Errorf("job %d", n))
		}
		return nil
	})
	for n := range 20 {
		enqueue(t, client, task, n, backfill.Queue("q"))
	}
	if report := runOnce(t, client, registry); report.Completed != 10 || report.Exhausted != 10 {
		t.Errorf("report %+v", report)
	}
	letters := letterRows(t, db)
	for i, letter := range letters {
		if want := fmt.Sprintf("job %d", 2*i); letter.LastError != want {
			t.Errorf("dead letter %d is of %s, want %s", i, letter.LastError, want)
		}
	}
	if len(letters) != 10 {
		t.Errorf("%d dead letters, want 10", len(letters))
	}
}

func TestWithoutDeadLetters(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, registry := taskOf("send", func(context.Context, mailArgs) error { return backfill.Permanent(errBoom) })
	enqueue(t, client, task, mailArgs{}, backfill.Key("k"))
	var seen logOfEvents
	runOnce(t, client, registry, backfill.WithoutDeadLetters(), backfill.WithObserver(seen.observe))
	if row := onlyRow(t, db); row.Attempts != 25 || row.LastError != "boom" || row.Locked {
		t.Errorf("row %+v", row)
	}
	if letters := letterRows(t, db); len(letters) > 0 || seen.count(backfill.EventDead) > 0 {
		t.Errorf("dead letters %+v, and %d events, want none", letters, seen.count(backfill.EventDead))
	}
}

// An operator who says that a worker is dead ends its jobs with one attempt as a rescue does.
func TestUnlockWorkerMakesLetters(t *testing.T) {
	t.Parallel()
	for name, letters := range map[string]bool{"with": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			var log logBook
			client := newClient(t, db, backfill.WithLogger(log.logger()))
			const id = "pool-0123456789abcdef01"
			task, _ := taskOf("send", func(context.Context, mailArgs) error { return nil })
			enqueue(t, client, task, mailArgs{}, backfill.MaxAttempts(1), backfill.Queue("q"))
			enqueue(t, client, task, mailArgs{})
			exec(t, db.Pool(), `insert into graphile_worker.backfill_workers (id, host, pid, beats, version, server, machine, process_start, tasks, slots, dead_letters)
				values ($1, 'h', 1, 0, '', '', '', 0, '{send}', 1, $2)`, id, letters)
			exec(t, db.Pool(), "update graphile_worker._private_jobs set attempts = 1, locked_at = now(), locked_by = $1 || '.1.1'", id)
			exec(t, db.Pool(), "update graphile_worker._private_job_queues set locked_at = now(), locked_by = $1 || '.1'", id)
			if n, err := client.UnlockWorker(t.Context(), id); err != nil || n != 2 {
				t.Errorf("unlocked %d jobs, %v", n, err)
			}
			if open := get[bool](t, db.Pool(), "select locked_at is null from graphile_worker._private_job_queues"); !open {
				t.Error("the queue is locked")
			}
			got := letterRows(t, db)
			if !letters {
				if rows := jobRows(t, db); len(got) > 0 || len(rows) != 2 || rows[0].Attempts != 1 || rows[0].Locked {
					t.Errorf("rows %+v, and dead letters %+v", rows, got)
				}
				return
			}
			if len(got) != 1 || got[0].Reason != "crashed" || got[0].Queue != "q" {
				t.Errorf("dead letters %+v", got)
			}
			wantJobs(t, db, 1)
			log.want(t, "job is a dead letter", "dead_letter=crashed")
		})
	}
}

func TestDeadLetterRetention(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	exec(t, db.Pool(), `insert into graphile_worker.backfill_dlq
		(original_job_id, task_identifier, payload, priority, max_attempts, attempts, failure_reason, original_created_at, original_run_at, failed_at)
		select n, 'send', '{}', 0, 25, 25, 'exhausted', now(), now(), now() - n * interval '1 hour' from generate_series(1, 3000) as n`)
	_, registry := taskOf("send", func(context.Context, mailArgs) error { return nil })
	if _, err := client.NewWorker(registry, backfill.WithDeadLetterRetention(-1)); err == nil {
		t.Error("a negative retention is no error")
	}
	w := start(t, client, registry, backfill.WithDeadLetterRetention(1000*time.Hour+30*time.Minute))
	if expired := w.await("expiry", 1, is(backfill.EventExpired)); expired.Count != 2000 {
		t.Errorf("event %+v", expired)
	}
	if n := get[int64](t, db.Pool(), "select count(*) from graphile_worker.backfill_dlq"); n != 1000 {
		t.Errorf("%d dead letters are left, want 1000", n)
	}
}
