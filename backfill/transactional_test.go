package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
)

// What the handler writes, what it enqueues and the end of its job are committed together.
func TestTransactional(t *testing.T) {
	t.Parallel()
	r := newTxRig(t)
	next, _ := taskOf("next", func(context.Context, mailArgs) error { return nil })
	var seen atomic.Int32
	task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, args txArgs) error {
		if job := backfill.JobInfo(ctx); job.Task != "transactional" || args.N != 7 {
			return fmt.Errorf("job %+v, args %+v", job, args)
		}
		if err := write(ctx, tx, "written"); err != nil {
			return err
		}
		if _, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), next, mailArgs{UserID: 2}); err != nil {
			return err
		}
		if _, err := backfill.Enqueue(ctx, r.client.WithTx(tx), next, mailArgs{UserID: 3}); err != nil {
			return err
		}
		seen.Store(int32(r.effects(t, "")))
		rows := jobRows(t, r.db) // of another session
		seen.Add(int32(10 * (len(rows) - 1)))
		return nil
	})
	enqueue(t, r.client, task, txArgs{N: 7}, backfill.Queue("q"))
	report := runOnce(t, r.client, registry)
	if report.Completed != 1 || report.Failed != 0 {
		t.Fatalf("report %+v; jobs %+v", *report, jobRows(t, r.db))
	}
	if seen.Load() != 0 {
		t.Errorf("before the commit others see rows: %d", seen.Load())
	}
	if n := r.effects(t, "written"); n != 1 {
		t.Errorf("%d effects, want 1", n)
	}
	if rows := jobRows(t, r.db); len(rows) != 2 || rows[0].Task != "next" || rows[1].Task != "next" {
		t.Errorf("jobs %+v, want the two that were enqueued", rows)
	}
	if locked := get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_job_queues where locked_by is not null"); locked > 0 {
		t.Error("the queue is still locked")
	}
}

// A worker that listens hears of what a transactional handler enqueues, and runs the jobs of a queue
// one after the other, whichever of them are transactional (order in mixed queues).
func TestTransactionalJobsOfQueues(t *testing.T) {
	t.Parallel()
	r := newTxRig(t)
	var order []int
	note := func(n int) { order = append(order, n) } // one at a time, by the queue
	plain := &backfill.Task[txArgs]{Name: "plain"}
	task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, args txArgs) error {
		note(args.N)
		return write(ctx, tx, "x")
	}, backfill.Handle(plain, func(_ context.Context, args txArgs) error { note(args.N); return nil }))
	const jobs = 60
	for n := range jobs {
		if n%3 == 1 {
			enqueue(t, r.client, plain, txArgs{N: n}, backfill.Queue("q"))
		} else {
			enqueue(t, r.client, task, txArgs{N: n}, backfill.Queue("q"))
		}
		enqueue(t, r.client, task, txArgs{N: n}, backfill.Queue(fmt.Sprint("other ", n)), backfill.MaxAttempts(1),
			backfill.Delay(time.Hour)) // not due
	}
	w := start(t, r.client, registry, backfill.WithTxConnections(1))
	w.awaitRecorded(jobs)
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	for i, n := range order {
		if i != n {
			t.Fatalf("the order is %v", order)
		}
	}
	if n := r.effects(t, "x"); n != jobs-jobs/3 {
		t.Errorf("%d effects, want %d", n, jobs-jobs/3)
	}
}

// Transactional jobs never run beside more others than there are connections, and plain ones pass
// them.
func TestTransactionalConnections(t *testing.T) {
	t.Parallel()
	r := newTxRig(t)
	var now, most atomic.Int32
	plainRan := make(chan struct{}, 50)
	plain := &backfill.Task[txArgs]{Name: "plain"}
	task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		_, err := tx.Exec(ctx, "select pg_sleep(0.01)")
		return errors.Join(err, write(ctx, tx, "x"))
	}, backfill.Handle(plain, func(context.Context, txArgs) error { plainRan <- struct{}{}; return nil }))
	const jobs = 150
	var requests []backfill.Request
	for n := range jobs {
		requests = append(requests, task.Request(txArgs{N: n}, backfill.Priority(-1)))
	}
	for n := range 50 {
		requests = append(requests, plain.Request(txArgs{N: n}))
	}
	if _, err := r.client.Enqueue(t.Context(), requests...); err != nil {
		t.Fatal(err)
	}
	w := start(t, r.client, registry, backfill.WithTxConnections(3), backfill.WithConcurrency(20))
	for range 50 {
		receive(t, "a plain job", plainRan)
	}
	if n := r.effects(t, "x"); n == jobs {
		t.Error("the plain jobs have waited for all transactional ones")
	}
	w.awaitRecorded(jobs + 50)
	if most.Load() != 3 {
		t.Errorf("%d transactional jobs ran at the same time, want 3", most.Load())
	}
	if n := r.effects(t, "x"); n != jobs {
		t.Errorf("%d effects, want %d", n, jobs)
	}
}

// What a descriptor and a handler may say.
func TestTransactionalProblems(t *testing.T) {
	t.Parallel()
	tx := func(context.Context, pgx.Tx, txArgs) error { return nil }
	plain := func(context.Context, txArgs) error { return nil }
	for name, test := range map[string]struct {
		binding backfill.Binding
		want    string
	}{
		"no timeout":   {backfill.Handle(&backfill.Task[txArgs]{Name: "t"}, tx), "it needs a timeout"},
		"too long":     {backfill.Handle(&backfill.Task[txArgs]{Name: "t", Timeout: 4 * time.Hour}, tx), "too long"},
		"no isolation": {backfill.Handle(&backfill.Task[txArgs]{Name: "t", Timeout: time.Minute, Isolation: "chaos"}, tx), "unknown isolation"},
		"nil":          {backfill.Handle(&backfill.Task[txArgs]{Name: "t", Timeout: time.Minute}, (func(context.Context, pgx.Tx, txArgs) error)(nil)), "is nil"},
		"plain":        {backfill.Handle(&backfill.Task[txArgs]{Name: "t", Isolation: backfill.Serializable}, plain), "for transactional tasks"},
		"fine":         {backfill.Handle(&backfill.Task[txArgs]{Name: "t", Timeout: 3 * time.Hour, Isolation: backfill.Serializable}, tx), ""},
	} {
		err := backfill.Problems(backfill.NewRegistry(test.binding))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// Workers are notified of what a handler enqueues once that is committed, and of nothing else.
func TestTransactionalNotifies(t *testing.T) {
	t.Parallel()
	r := newTxRig(t)
	_, registry := txTask(nil, func(ctx context.Context, _ pgx.Tx, args txArgs) error {
		if _, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), &backfill.Task[txArgs]{Name: "next"}, txArgs{}); err != nil {
			return err
		}
		if args.N == 0 {
			return errBoom
		}
		return nil
	})
	listener := dbtest.Listen(t, r.db.URL)
	heard := func() bool {
		return slices.ContainsFunc(listener.Take(t), func(n string) bool { return strings.Contains(n, "jobs:insert") })
	}
	add := func(args string) { // which notifies in its own transaction
		run(t, r.db, "select graphile_worker.add_job('transactional', $1::json)", args)
		listener.Take(t)
	}
	add(`{"n": 0}`)
	runOnce(t, r.client, registry)
	if heard() {
		t.Error("of jobs that were rolled back, others were notified")
	}
	run(t, r.db, "delete from graphile_worker._private_jobs")
	add(`{"n": 1}`)
	runOnce(t, r.client, registry)
	until(t, "the notification of the commit", heard)
}
