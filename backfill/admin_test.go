package backfill_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Jobs that wait.
const (
	adminFree  = "select id from graphile_worker.add_job('t', '{\"n\":1}', queue_name := 'q', job_key := 'free', run_at := now() + interval '1 day')"
	adminPlain = "select id from graphile_worker.add_job('t', flags := array['f'])"
)

func addJob(t *testing.T, db *pgtest.Database, sql string) int64 {
	t.Helper()
	return get[int64](t, db.Pool(), sql)
}

// addLocked adds a job that a Node worker runs.
func addLocked(t *testing.T, db *pgtest.Database) int64 {
	t.Helper()
	id := addJob(t, db, "select id from graphile_worker.add_job('t', queue_name := 'held', job_key := 'locked')")
	exec(t, db.Pool(), "update graphile_worker._private_jobs set locked_at = now(), locked_by = 'pool-node', attempts = 1 where id = $1", id)
	exec(t, db.Pool(), "update graphile_worker._private_job_queues set locked_at = now(), locked_by = 'pool-node' where queue_name = 'held'")
	return id
}

// listenForJobs returns a function that waits for the next notification of workers.
func listenForJobs(t *testing.T, db *pgtest.Database) func() string {
	t.Helper()
	conn := connect(t, db)
	if _, err := conn.Exec(t.Context(), `listen "jobs:insert"`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	return func() string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), hang)
		defer cancel()
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			t.Fatalf("wait for a notification: %v", err)
		}
		_, count, _ := strings.Cut(n.Payload, `"count":`)
		return strings.TrimSuffix(count, "}")
	}
}

func idsOf(jobs []*backfill.Job) []int64 {
	var ids []int64
	for _, job := range jobs {
		ids = append(ids, job.ID)
	}
	return ids
}

func wantIDs(t *testing.T, what string, got []*backfill.Job, want ...int64) {
	t.Helper()
	if diff := cmp.Diff(want, idsOf(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestCompleteJobs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	free, plain, locked := addJob(t, db, adminFree), addJob(t, db, adminPlain), addLocked(t, db)
	jobs, err := client.CompleteJobs(t.Context(), locked, plain, free, 4711)
	if err != nil {
		t.Fatal(err)
	}
	wantIDs(t, "completed", jobs, free, plain)
	if jobs[0].Task != "t" || jobs[0].Queue != "q" || jobs[0].Key != "free" || string(jobs[0].Args) != `{"n":1}` ||
		jobs[1].Queue != "" || jobs[1].Key != "" || cmp.Diff([]string{"f"}, jobs[1].Flags) != "" {
		t.Errorf("completed %+v and %+v", jobs[0], jobs[1])
	}
	if row := onlyRow(t, db); !row.Locked {
		t.Errorf("the job that runs is left as %+v", row)
	}
	if jobs, err := client.CompleteJobs(t.Context()); len(jobs) != 0 || err != nil {
		t.Errorf("no ids: %v, %v", jobs, err)
	}
}

// Many ids are one call, and a job whose task's name is gone is not hidden, as the view would hide
// it.
func TestFailJobs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	ids := make([]int64, 100_000)
	for i := range ids {
		ids[i] = int64(i) + 1000
	}
	ids[7] = addJob(t, db, adminPlain)
	exec(t, db.Pool(), "delete from graphile_worker._private_tasks")
	ids[99_998] = addJob(t, db, "select id from graphile_worker.add_job('other')")
	jobs, err := client.FailJobs(t.Context(), "not wanted", ids...)
	if err != nil {
		t.Fatal(err)
	}
	wantIDs(t, "failed", jobs, ids[7], ids[99_998])
	if jobs[0].Task != "" || jobs[1].Task != "other" || jobs[1].Attempt != 25 {
		t.Errorf("failed %+v and %+v", jobs[0], jobs[1])
	}
	if row := onlyRow(t, db); row.LastError != "not wanted" || row.Attempts != 25 {
		t.Errorf("left %+v", row)
	}
	if _, err := client.FailJobs(t.Context(), "", ids[99_998]); err != nil {
		t.Fatal(err)
	}
	if row := onlyRow(t, db); row.LastError != "Manually marked as failed" {
		t.Errorf("without a reason: %+v", row)
	}
}

// Each field is optional, and 0 is a value.
func TestRescheduleJobs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	past := time.Date(2001, 2, 3, 4, 5, 6, 7000, time.UTC)
	tests := map[string]struct {
		change backfill.RescheduleChange
		want   backfill.Job
	}{
		"run at":       {backfill.RescheduleChange{RunAt: &past}, backfill.Job{RunAt: past, Priority: 9, Attempt: 5, MaxAttempts: 7}},
		"priority":     {backfill.RescheduleChange{Priority: new(backfill.Priority(0))}, backfill.Job{Attempt: 5, MaxAttempts: 7}},
		"attempts":     {backfill.RescheduleChange{Attempts: new(0)}, backfill.Job{Priority: 9, MaxAttempts: 7}},
		"max attempts": {backfill.RescheduleChange{MaxAttempts: new(1)}, backfill.Job{Priority: 9, Attempt: 5, MaxAttempts: 1}},
		"all": {
			backfill.RescheduleChange{RunAt: &past, Priority: new(backfill.Priority(-32768)), Attempts: new(32767), MaxAttempts: new(32767)},
			backfill.Job{RunAt: past, Priority: -32768, Attempt: 32767, MaxAttempts: 32767},
		},
	}
	for name, test := range tests {
		id := addJob(t, db, "select id from graphile_worker.add_job('t', priority := 9, max_attempts := 7, run_at := now() + interval '1 day')")
		exec(t, db.Pool(), "update graphile_worker._private_jobs set attempts = 5 where id = $1", id)
		jobs, err := client.RescheduleJobs(t.Context(), test.change, id, addLocked(t, db))
		if err != nil {
			t.Fatal(err)
		}
		wantIDs(t, name+": rescheduled", jobs, id)
		got := backfill.Job{Priority: jobs[0].Priority, Attempt: jobs[0].Attempt, MaxAttempts: jobs[0].MaxAttempts}
		if jobs[0].RunAt.Before(time.Now()) {
			got.RunAt = jobs[0].RunAt.UTC()
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// The contract's function does not notify; we do, so that nobody waits for a poll.
func TestAdminWakesWorkers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	free, locked := addJob(t, db, adminFree), addLocked(t, db)
	next := listenForJobs(t, db)
	steps := map[string]func() error{
		"reschedule": func() error {
			_, err := client.RescheduleJobs(t.Context(), backfill.RescheduleChange{RunAt: new(time.Now())}, free)
			return err
		},
		"force unlock": func() error {
			_, err := client.ForceUnlock(t.Context(), "pool-node")
			return err
		},
		"unlock, of a queue only": func() error {
			exec(t, db.Pool(), `insert into graphile_worker._private_job_queues (queue_name, locked_at, locked_by) values ('left', now(), 'pool-gone')`)
			jobs, err := client.UnlockWorker(t.Context(), "pool-gone")
			if jobs != 0 {
				t.Errorf("unlocked %d jobs", jobs)
			}
			return err
		},
		"stale locks": func() error {
			exec(t, db.Pool(), `update graphile_worker._private_jobs set locked_at = now() - interval '5 hours', locked_by = 'x' where id = $1`, locked)
			jobs, err := client.ReleaseStaleLocks(t.Context())
			if jobs != 1 {
				t.Errorf("released the locks of %d jobs", jobs)
			}
			return err
		},
	}
	for name, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if count := next(); count != "1" {
			t.Errorf("%s: notified with count %s", name, count)
		}
	}
}

func TestRemoveJob(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	free, locked := addJob(t, db, adminFree), addLocked(t, db)
	if job, err := client.RemoveJob(t.Context(), "nobody's"); job != nil || err != nil {
		t.Errorf("removed %+v, %v", job, err)
	}
	if job, err := client.RemoveJob(t.Context(), "free"); err != nil || job.ID != free || job.Queue != "q" || job.Key != "free" {
		t.Errorf("removed %+v, %v", job, err)
	}
	if job, err := client.RemoveJob(t.Context(), "locked"); err != nil || job.ID != locked || job.Key != "" || job.Attempt != 25 {
		t.Errorf("removed while it runs: %+v, %v", job, err)
	}
	wantJobs(t, db, 1)
}

func TestForceUnlock(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	locked := addLocked(t, db)
	if jobs, err := client.ForceUnlock(t.Context(), "pool", "pool-nod", "pool-node.1"); !errors.Is(err, backfill.ErrNotLocked) {
		t.Errorf("unlocked %v, %v: want exact values only", jobs, err)
	}
	jobs, err := client.ForceUnlock(t.Context(), "pool-other", "pool-node")
	if err != nil {
		t.Fatal(err)
	}
	wantIDs(t, "unlocked", jobs, locked)
	if row := onlyRow(t, db); row.Locked || row.Attempts != 1 {
		t.Errorf("left %+v, want it unlocked and the attempt charged", row)
	}
	if n := get[int](t, db.Pool(), "select count(*)::int from graphile_worker._private_job_queues where locked_at is not null"); n != 0 {
		t.Errorf("%d queues are locked", n)
	}
}

// What the database would refuse is refused before, with the limit in the error.
func TestAdminLimits(t *testing.T) {
	t.Parallel()
	client := newClient(t, pgtest.New(t))
	reschedule := func(change backfill.RescheduleChange) func() error {
		return func() error {
			_, err := client.RescheduleJobs(t.Context(), change, 1)
			return err
		}
	}
	remove := func(key string) func() error {
		return func() error {
			_, err := client.RemoveJob(t.Context(), key)
			return err
		}
	}
	fail := func(reason string) func() error {
		return func() error {
			_, err := client.FailJobs(t.Context(), reason, 1)
			return err
		}
	}
	tests := map[string]struct {
		call func() error
		want string
	}{
		"attempts":        {reschedule(backfill.RescheduleChange{Attempts: new(32768)}), "attempts is 32768: want 0 to 32767"},
		"attempts below":  {reschedule(backfill.RescheduleChange{Attempts: new(-1)}), "attempts is -1: want 0 to 32767"},
		"max attempts":    {reschedule(backfill.RescheduleChange{MaxAttempts: new(0)}), "max_attempts is 0: want 1 to 32767"},
		"run at":          {reschedule(backfill.RescheduleChange{RunAt: new(time.Date(300_000, 1, 1, 0, 0, 0, 0, time.UTC))}), "4713 BC to 294276"},
		"nothing":         {reschedule(backfill.RescheduleChange{}), "set RunAt, Priority, Attempts or MaxAttempts"},
		"empty key":       {remove(""), "want 1 to 512 characters"},
		"long key":        {remove(strings.Repeat("é", 513)), "at most 512 are allowed"},
		"NUL in a key":    {remove("a\x00"), "NUL"},
		"long reason":     {fail(strings.Repeat("x", 10_001)), "at most 10000 are allowed"},
		"reason not UTF8": {fail("\xff"), "not valid UTF-8"},
		"NUL in locked_by": {func() error {
			_, err := client.ForceUnlock(t.Context(), "a\x00")
			return err
		}, "NUL"},
	}
	for name, test := range tests {
		if err := test.call(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
