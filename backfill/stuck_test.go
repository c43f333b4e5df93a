package backfill_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// hanging is a handler that ignores its timeout, the first time. It counts runs that overlap.
type hanging struct {
	inside, release chan bool
	running, runs   atomic.Int32
	overlaps        atomic.Int32
}

func newHanging() *hanging { return &hanging{inside: make(chan bool, 10), release: make(chan bool)} }

func (h *hanging) handle() error {
	if h.running.Add(1) > 1 {
		h.overlaps.Add(1)
	}
	defer h.running.Add(-1)
	first := h.runs.Add(1) == 1
	h.inside <- true
	if !first {
		return nil
	}
	<-h.release
	return errBoom
}

// wantOneStuck waits until a job is stuck, and checks what the worker says of it.
func wantOneStuck(t *testing.T, db *pgtest.Database, w *running, job *backfill.Job) {
	t.Helper()
	until(t, "a stuck job", func() bool { return len(w.Health().StuckJobs) == 1 })
	until(t, "its slot", func() bool { return w.Health().StuckJobs[0].SlotGiven })
	h := w.Health()
	stuck := h.StuckJobs[0]
	if stuck.ID != job.ID || stuck.Task != job.Task || !errors.Is(stuck.Cause, backfill.ErrTimeout) || stuck.Ended.Before(stuck.Since) {
		t.Errorf("stuck: %+v", stuck)
	}
	until(t, "a heartbeat that names it", func() bool {
		return get[bool](t, db.Pool(), "select running @> array[$1::bigint] from graphile_worker.backfill_workers where id = $2",
			job.ID, w.Health().WorkerID)
	})
}

// While a handler ignores its timeout, jobs run in its slot, though the worker has no other. Its
// job is not tried again beside it, nor does a job of its queue run; when it returns, that is
// recorded.
func TestStuckHandlerGivesItsSlot(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var book logBook
	client := newClient(t, db, backfill.WithLogger(book.logger()))
	h := newHanging()
	hangs := &backfill.Task[mailArgs]{Name: "hangs", Timeout: 50 * time.Millisecond, Backoff: backfill.FixedBackoff(time.Millisecond)}
	other := &backfill.Task[mailArgs]{Name: "other"}
	registry := backfill.NewRegistry(
		backfill.Handle(hangs, func(context.Context, mailArgs) error { return h.handle() }), backfill.Handle(other, ignore))
	w := start(t, client, registry, backfill.WithConcurrency(1), backfill.Hurry(20))
	job := enqueue(t, client, hangs, mailArgs{}, backfill.Queue("q"))
	receive(t, "the handler", h.inside)
	next := enqueue(t, client, hangs, mailArgs{}, backfill.Queue("q"))
	for range 3 {
		ran := enqueue(t, client, other, mailArgs{})
		w.await("another job in its slot", 1, of(backfill.EventFinished, ran.ID))
	}
	wantOneStuck(t, db, w, job)
	until(t, "the line, whose stack takes time", func() bool { return strings.Contains(book.String(), "handler is stuck") })
	book.want(t, "handler is stuck: it ignores that its context has ended", `cause="task timed out"`, `slot="given to others"`, "stuck_test.go")
	for _, row := range jobRows(t, db) {
		if row.Task == "hangs" && row.Locked != (row.Attempts == 1) {
			t.Errorf("while it hangs: %+v", row)
		}
	}
	if n := h.runs.Load(); n != 1 {
		t.Errorf("%d of the queue's jobs have started", n)
	}
	h.release <- true
	failed := w.await("its failure", 1, of(backfill.EventFailed, job.ID))
	if !errors.Is(failed.Err, errBoom) || failed.Final {
		t.Errorf("%+v", failed)
	}
	w.await("the next of the queue", 1, of(backfill.EventFinished, next.ID))
	w.await("its second run", 1, of(backfill.EventFinished, job.ID))
	if n := h.overlaps.Load(); n != 0 || h.runs.Load() != 3 {
		t.Errorf("of %d runs, %d overlapped another one", h.runs.Load(), n)
	}
	until(t, "the end", func() bool { return len(jobRows(t, db)) == 0 })
	if health := w.Health(); len(health.StuckJobs) != 0 || health.Running != 0 || health.Slots != 1 {
		t.Errorf("afterwards: %+v", health)
	}
}

// A stuck transactional handler counts among the connections still: another one does not start, a
// plain job does. What it writes is not visible.
func TestStuckTransactionalHandler(t *testing.T) {
	t.Parallel()
	r := newTxRig(t)
	h := newHanging()
	other := &backfill.Task[mailArgs]{Name: "other"}
	task, registry := txTask(func(task *backfill.Task[txArgs]) {
		task.Timeout, task.Backoff = 500*time.Millisecond, backfill.FixedBackoff(time.Millisecond)
	}, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
		if err := write(ctx, tx, "written"); err != nil {
			return err
		}
		return h.handle()
	}, backfill.Handle(other, ignore))
	w := start(t, r.client, registry, backfill.WithConcurrency(1), backfill.WithTxConnections(1), backfill.Hurry(20))
	job := enqueue(t, r.client, task, txArgs{})
	receive(t, "the handler", h.inside)
	next := enqueue(t, r.client, task, txArgs{})
	for range 3 {
		ran := enqueue(t, r.client, other, mailArgs{})
		w.await("another job in its slot", 1, of(backfill.EventFinished, ran.ID))
	}
	wantOneStuck(t, r.db, w, job)
	if n := h.runs.Load(); n != 1 || r.effects(t, "") != 0 {
		t.Errorf("%d have started, with one connection; %d effects", n, r.effects(t, ""))
	}
	if events, _ := w.seen(); slices.ContainsFunc(events, of(backfill.EventStart, next.ID)) {
		t.Error("one has a slot for which there is no connection")
	}
	h.release <- true
	w.await("its failure", 1, of(backfill.EventFailed, job.ID))
	w.await("the next one", 1, of(backfill.EventFinished, next.ID))
	w.await("its second run", 1, of(backfill.EventFinished, job.ID))
	if n := h.overlaps.Load(); n != 0 || r.effects(t, "") != 2 {
		t.Errorf("%d runs overlapped another one, and there are %d effects", n, r.effects(t, ""))
	}
}
