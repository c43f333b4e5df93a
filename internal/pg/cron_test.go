package pg_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

var tick = time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC)

// What the database knows is told, and what it does not know is known from then on.
func TestKnownCrontabs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Run(t, r.pool, "insert into graphile_worker._private_known_crontabs values ('old', $1, null), ('ran', $1, $2), ('other', $1, null)", tick, tick.Add(time.Hour))
	start := tick.Add(24 * time.Hour)
	for _, also := range []string{"new", "newer"} {
		r.knows(t, []string{"ran", also, "old"}, start, map[string]worker.KnownCrontab{
			"old": {KnownSince: tick}, "ran": {KnownSince: tick, LastExecution: tick.Add(time.Hour)}, also: {KnownSince: start},
		})
	}
	r.knows(t, []string{"new"}, start.Add(time.Hour), map[string]worker.KnownCrontab{"new": {KnownSince: start}})
}

// What another process adds, and executes, between the two statements of KnownCrontabs is told, too:
// a worker that took it for new would not make up for missed ticks.
func TestKnownCrontabsRace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Rollback(context.WithoutCancel(t.Context())) }()
	dbtest.Run(t, other, "insert into graphile_worker._private_known_crontabs values ('new', $1, $1)", tick)
	var done sync.WaitGroup
	done.Go(func() {
		r.knows(t, []string{"new"}, tick.Add(time.Hour), map[string]worker.KnownCrontab{"new": {KnownSince: tick, LastExecution: tick}})
	})
	dbtest.Until(t, func() bool { return dbtest.SomeoneWaits(t, r.pool, "transactionid") })
	if err := other.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	done.Wait()
}

func (r *rig) knows(t *testing.T, identifiers []string, start time.Time, want map[string]worker.KnownCrontab) {
	t.Helper()
	known, err := r.store.KnownCrontabs(t.Context(), identifiers, start)
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(want, known); diff != "" {
		t.Errorf("known (-want +got):\n%s", diff)
	}
}

// A tick is enqueued once per identifier, by whoever comes first; an older one never; and all of it
// or nothing.
func TestTickOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	identifiers := []string{"b", "a"}
	jobs := []wire.Spec{
		{Task: "b", Payload: []byte(`{"n":1}`), Queue: "q", Key: "k", Priority: 3, MaxAttempts: 2, RunAt: tick, Flags: []string{"f"}},
		{Task: "a", Payload: []byte(`{"n":2}`), MaxAttempts: 25, RunAt: tick},
	}
	schedule := func(at time.Time, identifiers []string, jobs []wire.Spec) int {
		n, err := r.store.Tick(t.Context(), at, identifiers, jobs)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	var all atomic.Int64
	var group sync.WaitGroup
	for range 5 {
		group.Go(func() { all.Add(int64(schedule(tick, identifiers, jobs))) })
	}
	group.Wait()
	if all.Load() != 2 {
		t.Errorf("%d jobs were scheduled, want 2", all.Load())
	}
	if n := schedule(tick.Add(-time.Minute), identifiers, jobs); n != 0 {
		t.Errorf("%d jobs of an older tick", n)
	}
	if n := schedule(tick.Add(time.Minute), identifiers[1:], jobs[1:]); n != 1 {
		t.Errorf("%d jobs of the next tick", n)
	}
	got := dbtest.Get[string](t, r.pool, `select string_agg(concat_ws(' ', task_identifier, queue_name, key, priority, max_attempts, run_at at time zone 'utc', flags), '; ' order by id)
		from graphile_worker.jobs`)
	want := `b q k 3 2 2026-11-22 04:00:00 {"f": true}; a 0 25 2026-11-22 04:00:00; a 0 25 2026-11-22 04:00:00`
	if got != want {
		t.Errorf("jobs\n%s\nwant\n%s", got, want)
	}
	bad := []wire.Spec{{Task: "a", Payload: []byte("{"), RunAt: tick, MaxAttempts: 1}}
	_, err := r.store.Tick(t.Context(), tick.Add(time.Hour), []string{"b"}, bad)
	if _, rejected := errors.AsType[*wire.RejectedError](err); !rejected {
		t.Errorf("a payload that is no JSON: %v", err)
	}
	dbtest.Run(t, r.pool, "create function graphile_worker.fail() returns trigger language plpgsql as $$begin raise sqlstate '53100'; end$$; "+
		"create trigger fail before insert on graphile_worker._private_jobs for each row execute function graphile_worker.fail()")
	_, err = r.store.Tick(t.Context(), tick.Add(time.Hour), []string{"b"}, jobs[:1])
	if _, rejected := errors.AsType[*wire.RejectedError](err); err == nil || rejected {
		t.Errorf("a disk that is full: %v", err)
	}
	last := dbtest.Get[time.Time](t, r.pool, "select last_execution from graphile_worker._private_known_crontabs where identifier = 'b'")
	if !last.Equal(tick) {
		t.Errorf("a tick that failed was recorded: %v", last)
	}
}

// The server's clock is behind that of the process that schedules: a tick's job is due at once all
// the same.
func TestTickIsDueByTheServersClock(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ahead := time.Now().Add(10 * time.Minute).Truncate(time.Minute)
	jobs := []wire.Spec{{Task: "a", Payload: []byte("{}"), Key: "k", MaxAttempts: 25, RunAt: ahead}}
	if n, err := r.store.Tick(t.Context(), ahead, []string{"a"}, jobs); n != 1 || err != nil {
		t.Fatalf("scheduled %d jobs: %v", n, err)
	}
	r.claimOne()
}
