package pg_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/testutil/pgtest"
)

// pause pauses a task or a queue, or several queues.
func (r *rig) pause(task string, queues ...string) {
	r.t.Helper()
	admin := pg.NewAdmin(r.pool, schemaName)
	pauses := []pg.Pause{{Task: task}}
	if task == "" {
		pauses = nil
	}
	for _, queue := range queues {
		pauses = append(pauses, pg.Pause{Queue: queue, By: "ada"})
	}
	for _, pause := range pauses {
		if err := admin.Pause(r.t.Context(), pause); err != nil {
			r.t.Fatal(err)
		}
	}
}

// Thousands of jobs of paused queues in front of the line keep neither another queue waiting nor
// free jobs, whatever the text of the claim: what is bounded is bounded behind the condition, or
// what is behind the bound is searched.
func TestPausedQueuesStarveNobody(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"indexed": "select 1", "without the index on queues": "drop index graphile_worker.backfill_jobs_queue_idx",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			dbtest.Run(t, r.pool, change)
			r.store.ForgetTasks()
			r.addMany(10_000, "a", 3*time.Hour, 0, "one", 1)
			r.addMany(3000, "a", 3*time.Hour, -1, "many", 1500)
			r.pause("", "one0")
			dbtest.Run(t, r.pool, `insert into graphile_worker.backfill_queue_pauses (queue_name)
				select queue_name from graphile_worker._private_job_queues where queue_name like 'many%'`)
			queued := r.add("'a', queue_name := 'open', run_at := now() - interval '1 hour'")
			free := r.add("'a'")
			wantIDs(t, "claimed", idsOf(r.claim(10)), queued, free)
			r.claimNone()
			if locked := r.lockedQueues(); locked != 1 {
				t.Errorf("%d queues are locked", locked)
			}
		})
	}
}

// A queue whose row is deleted, and that comes back under another id, is paused all the same.
func TestPausedQueueUnderAnotherID(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pause("", "q")
	r.add("'a', queue_name := 'q'")
	r.claimNone()
	dbtest.Run(t, r.pool, "delete from graphile_worker._private_jobs")
	dbtest.Run(t, r.pool, "delete from graphile_worker._private_job_queues")
	r.add("'a', queue_name := 'q'")
	r.claimNone()
	r.add("'a', queue_name := 'other'")
	r.claimOne()
}

// A worker's log says what is paused, once, and what is not any more; of many queues, the first.
func TestLogOfPauses(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := rigOn(t, db.Pool(), schemaName)
	var log bytes.Buffer
	r.store.LogTo(slog.New(slog.NewTextHandler(&log, nil)))
	say := func() string {
		t.Helper()
		defer log.Reset()
		r.store.ForgetTasks()
		r.claimNone()
		return log.String()
	}
	r.pause("a", "q")
	dbtest.Mentions(t, errors.New(say()), `level=WARN msg="paused: its jobs wait" task=a pause="since `,
		`level=WARN msg="paused: its jobs wait" queue=q pause="ada, since `)
	if again := say(); again != "" {
		t.Errorf("it says again: %s", again)
	}
	dbtest.Run(t, r.pool, `insert into graphile_worker.backfill_queue_pauses (queue_name) select 'x' || i from generate_series(1, 100) as i`)
	if lines := strings.Count(say(), "\n"); lines != 19 {
		t.Errorf("of 100 queues more, %d lines tell, want 19", lines)
	}
	dbtest.Run(t, r.pool, "delete from graphile_worker.backfill_pauses")
	dbtest.Run(t, r.pool, "update graphile_worker.backfill_queue_pauses set ends_at = now() where queue_name = 'q' or queue_name like 'x%'")
	dbtest.Mentions(t, errors.New(say()), `level=INFO msg="not paused any more" task=a`, `level=INFO msg="not paused any more" queue=q`)
}

// While anything is paused that a worker could run, its claims say when to look again; else not.
func TestClaimsSayWhenPausesAreReadAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		task   string
		queues []string
		again  bool
	}{
		"nothing": {}, "a task": {task: "a", again: true}, "a task of others": {task: "foreign"}, "a queue": {queues: []string{"q"}, again: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.add("'foreign'")
			r.pause(test.task, test.queues...)
			r.store.ForgetTasks()
			claimed := r.try(1, 1)
			if got := claimed.Reread; (got > 0) != test.again || got > 1500*time.Millisecond {
				t.Errorf("the claim says to look again after %v", got)
			}
		})
	}
}
