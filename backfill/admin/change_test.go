package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
)

// as is a context in which somebody asks.
func as(t *testing.T, name string, roles ...string) context.Context {
	t.Helper()
	return admin.As(t.Context(), admin.Principal{Name: name, Roles: roles})
}

// jobRow is a job as it is stored; "": there is none.
func (r *rig) jobRow(id int64) string {
	r.Helper()
	return dbtest.Get[string](r.T, r.db.Pool(), "select coalesce((select j::text from graphile_worker._private_jobs as j where id = $1), '')", id)
}

// records are the records of changes, the oldest first.
func (r *rig) records() (records []string) {
	r.Helper()
	list, err := r.admin.Records(r.Context(), admin.RecordFilter{}, "", 0)
	if err != nil || list.Missing != "" {
		r.Fatal(err, list)
	}
	for _, record := range list.Records {
		text := fmt.Sprintf("%s %s %s %s %s: %s", record.Principal, record.Action, record.Kind, record.Target, record.Task, record.Reason)
		records = append([]string{text}, records...)
	}
	return records
}

// suspected makes a job a suspect, as a rescue does.
const suspected = "update graphile_worker._private_jobs set locked_at = now(), locked_by = 'backfill-suspect.0123456789abcdef01.1' where id = $1"

// Each change is made of a job that nobody runs, and recorded; of others it says why not, and who
// has them, and leaves their rows as they were.
func TestChangeJobs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(1, "sync")
	running := r.add("'sync', priority := -1")
	r.running(running)
	waiting, tried, failed := r.add("'sync'"), r.add("'sync'"), r.add("'sync'")
	superseded, suspect, foreign := r.add("'sync'"), r.add("'sync'"), r.add("'sync'")
	r.run("update graphile_worker._private_jobs set attempts = 3, last_error = 'declined', run_at = now() + interval '1 hour' where id = $1", tried)
	r.run("update graphile_worker._private_jobs set attempts = 25, last_error = 'declined' where id = $1", failed)
	r.run("update graphile_worker._private_jobs set attempts = 25 where id = $1", superseded)
	r.run(suspected, suspect)
	r.run("update graphile_worker._private_jobs set locked_at = now(), locked_by = 'node-7' where id = $1", foreign)
	later := time.Now().Add(time.Hour)
	for name, test := range map[string]struct {
		change func(ctx context.Context, id int64) (*admin.Outcome, error)
		want   map[int64]admin.Skip
	}{
		"retry": {
			func(ctx context.Context, id int64) (*admin.Outcome, error) {
				return r.admin.RetryJob(ctx, id, nil, admin.ChangeOptions{Reason: "cured"})
			},
			map[int64]admin.Skip{
				running: admin.SkipRunning, waiting: admin.SkipWaiting, superseded: admin.SkipSuperseded, suspect: admin.SkipSuspect, foreign: admin.SkipForeign,
			},
		},
		"reschedule": {
			func(ctx context.Context, id int64) (*admin.Outcome, error) {
				return r.admin.RescheduleJob(ctx, id, admin.Reschedule{RunAt: &later}, nil, admin.ChangeOptions{})
			},
			map[int64]admin.Skip{
				running: admin.SkipRunning, failed: admin.SkipFailed, superseded: admin.SkipFailed, suspect: admin.SkipSuspect, foreign: admin.SkipForeign,
			},
		},
		"edit": {
			func(ctx context.Context, id int64) (*admin.Outcome, error) {
				return r.admin.EditJob(ctx, id, json.RawMessage(`{"quick":true}`), nil, admin.ChangeOptions{})
			},
			map[int64]admin.Skip{running: admin.SkipRunning, suspect: admin.SkipSuspect, foreign: admin.SkipForeign},
		},
		"delete": {
			func(ctx context.Context, id int64) (*admin.Outcome, error) {
				return r.admin.DeleteJob(ctx, id, nil, admin.ChangeOptions{})
			},
			map[int64]admin.Skip{running: admin.SkipRunning, foreign: admin.SkipForeign},
		},
		"cancel of what cannot be cancelled": {
			func(ctx context.Context, id int64) (*admin.Outcome, error) {
				return r.admin.CancelJob(ctx, id, nil, admin.ChangeOptions{})
			},
			map[int64]admin.Skip{failed: admin.SkipFailed, superseded: admin.SkipFailed, foreign: admin.SkipForeign},
		},
	} {
		for id, want := range test.want {
			before := r.jobRow(id)
			outcome, err := test.change(as(t, "ada"), id)
			if err != nil || outcome.Skip != want || outcome.Record != "" || outcome.Detail == "" {
				t.Errorf("%s of job %d: %+v, %v, want the skip %s", name, id, outcome, err, want)
			} else if (want == admin.SkipRunning) != strings.HasPrefix(outcome.Worker, "pool-") || want == admin.SkipForeign && outcome.Worker != "node-7" {
				t.Errorf("%s of job %d names worker %q", name, id, outcome.Worker)
			}
			if diff := cmp.Diff(before, r.jobRow(id)); diff != "" {
				t.Errorf("%s of job %d (-before +after):\n%s", name, id, diff)
			}
		}
	}
	if records := r.records(); len(records) > 0 {
		t.Errorf("nothing was changed, and recorded is %q", records)
	}
	options := admin.ChangeOptions{Reason: "cured"}
	did := func(outcome *admin.Outcome, err error) {
		t.Helper()
		if err != nil || outcome.Skip != "" || outcome.Record == "" || outcome.Task != "sync" {
			t.Errorf("%+v, %v", outcome, err)
		}
	}
	did(r.admin.RetryJob(as(t, "ada"), tried, nil, options))
	did(r.admin.RetryJob(as(t, "ada"), failed, nil, options))
	state := "select concat_ws(' ', attempts, run_at <= now(), last_error) from graphile_worker._private_jobs where id = $1"
	for id, want := range map[int64]string{tried: "3 t declined", failed: "0 t declined"} {
		if got := dbtest.Get[string](t, r.db.Pool(), state, id); got != want {
			t.Errorf("job %d is %q, want %q", id, got, want)
		}
	}
	did(r.admin.RescheduleJob(as(t, "ada"), waiting, admin.Reschedule{RunAt: &later, Priority: new(5), MaxAttempts: new(7)}, nil, options))
	if got := dbtest.Get[string](t, r.db.Pool(), "select concat_ws(' ', run_at = $2, priority, max_attempts) from graphile_worker._private_jobs where id = $1",
		waiting, later.Truncate(time.Microsecond)); got != "t 5 7" {
		t.Errorf("the rescheduled job is %q", got)
	}
	did(r.admin.DeleteJob(as(t, "ada"), suspect, nil, options))
	did(r.admin.CancelJob(as(t, "ada"), waiting, nil, options))
	for _, id := range []int64{suspect, waiting} {
		if row := r.jobRow(id); row != "" {
			t.Errorf("job %d is left: %s", id, row)
		}
	}
	outcome, err := r.admin.CancelJob(as(t, "ada"), running, nil, options)
	did(outcome, err)
	if !strings.HasPrefix(outcome.Worker, "pool-") {
		t.Errorf("the cancel names worker %q", outcome.Worker)
	}
	dbtest.Until(t, func() bool { return r.jobRow(running) == "" })
	if _, err := r.admin.DeleteJob(as(t, "ada"), waiting, nil, options); !errors.Is(err, admin.ErrNotFound) {
		t.Errorf("a job that is gone: %v", err)
	}
	want := []string{
		fmt.Sprintf("ada retry job %d sync: cured", tried), fmt.Sprintf("ada retry job %d sync: cured", failed),
		fmt.Sprintf("ada reschedule job %d sync: cured", waiting), fmt.Sprintf("ada delete job %d sync: cured", suspect),
		fmt.Sprintf("ada cancel job %d sync: cured", waiting), fmt.Sprintf("ada cancel job %d sync: cured", running),
	}
	if diff := cmp.Diff(want, r.records()); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// A change and its record are one transaction: where the record is refused, nothing is changed, and
// the error says so. Without the tables, it says what to run.
func TestChangeWithoutARecord(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync'")
	before := r.jobRow(id)
	r.run("alter table graphile_worker.backfill_audit add constraint broken check (action <> 'delete')")
	_, err := r.admin.DeleteJob(t.Context(), id, nil, admin.ChangeOptions{})
	dbtest.Mentions(t, err, `violates check constraint "broken"`)
	r.run("drop table graphile_worker.backfill_audit")
	_, err = r.admin.DeleteJob(t.Context(), id, nil, admin.ChangeOptions{})
	dbtest.Mentions(t, err, "run backfill migrate")
	if !errors.Is(err, admin.ErrNoRecords) {
		t.Errorf("the error is %v", err)
	}
	if diff := cmp.Diff(before, r.jobRow(id)); diff != "" {
		t.Errorf("the job (-before +after):\n%s", diff)
	}
}

// A request that is sent again has the outcome of the first, whatever has happened since, and an id
// is of one request.
func TestChangeSentAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	request := backfill.Request{Task: "sync", Queue: "q", Args: json.RawMessage(`{"a":1e400}`)}
	options := admin.ChangeOptions{ID: "request 1"}
	first, err := r.admin.EnqueueJob(as(t, "ada"), request, options)
	if err != nil {
		t.Fatal(err)
	}
	id := first.JobID
	again, err := r.admin.EnqueueJob(as(t, "ada"), request, options)
	if err != nil || again.JobID != id || !again.Repeated {
		t.Errorf("again: %+v, %v, want job %d", again, err, id)
	}
	if got := dbtest.Get[string](t, r.db.Pool(), "select string_agg(payload::text, ' ') from graphile_worker._private_jobs"); got != `{"a":1e400}` {
		t.Errorf("there are jobs with %s", got)
	}
	del := admin.ChangeOptions{ID: "request 2"}
	if _, err := r.admin.DeleteJob(as(t, "ada"), id, nil, del); err != nil {
		t.Fatal(err)
	}
	gone, err := r.admin.DeleteJob(as(t, "ada"), id, nil, del)
	if err != nil || !gone.Repeated || gone.Queue != "q" {
		t.Errorf("the deletion again: %+v, %v", gone, err)
	}
	for what, ctx := range map[string]context.Context{"another change": as(t, "ada"), "somebody else": as(t, "eve")} {
		target := id
		if what == "another change" {
			target++
		}
		if _, err := r.admin.DeleteJob(ctx, target, nil, del); !errors.Is(err, admin.ErrInvalid) {
			t.Errorf("the id for %s: %v", what, err)
		}
	}
}

// Who has seen a job that was changed since does not change it.
func TestChangeOfWhatWasSeen(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync', job_key := 'k'")
	updated := dbtest.Get[time.Time](t, r.db.Pool(), "select updated_at from graphile_worker._private_jobs where id = $1", id)
	seen := &admin.JobVersion{Revision: new(0), Attempts: new(0), UpdatedAt: updated}
	r.add("'sync', job_key := 'k'")
	outcome, err := r.admin.DeleteJob(t.Context(), id, seen, admin.ChangeOptions{})
	if err != nil || outcome.Skip != admin.SkipChanged {
		t.Errorf("a job that was enqueued again: %+v, %v", outcome, err)
	}
	for _, seen := range []*admin.JobVersion{{Revision: new(0)}, {Attempts: new(1)}, {UpdatedAt: updated}} {
		if outcome, err := r.admin.DeleteJob(t.Context(), id, seen, admin.ChangeOptions{}); err != nil || outcome.Skip != admin.SkipChanged {
			t.Errorf("seen as %+v: %+v, %v", seen, outcome, err)
		}
	}
	if outcome, err := r.admin.DeleteJob(t.Context(), id, &admin.JobVersion{Revision: new(1), Attempts: new(0)}, admin.ChangeOptions{}); err != nil || outcome.Skip != "" {
		t.Errorf("as it was seen: %+v, %v", outcome, err)
	}
}

// An edit leaves hidden fields as they are, and records no value. The mask is no value elsewhere.
func TestChangeEdit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add(`'sync', '{"to": "a", "password": "hunter22", "n": 12345678901234567890}'`)
	edited := json.RawMessage(`{"to": "b", "password": "` + admin.Redacted + `", "n": 12345678901234567891}`)
	if outcome, err := r.admin.EditJob(t.Context(), id, edited, nil, admin.ChangeOptions{}); err != nil || outcome.Skip != "" {
		t.Fatalf("%+v, %v", outcome, err)
	}
	const want = `{"to": "b", "password": "hunter22", "n": 12345678901234567891}`
	if got := dbtest.Get[string](t, r.db.Pool(), "select payload::text from graphile_worker._private_jobs where id = $1", id); got != want {
		t.Errorf("the payload is %s, want %s", got, want)
	}
	for _, payload := range []string{`{"to": "` + admin.Redacted + `"}`, `{`, ``, `{} {}`} {
		if _, err := r.admin.EditJob(t.Context(), id, json.RawMessage(payload), nil, admin.ChangeOptions{}); !errors.Is(err, admin.ErrInvalid) {
			t.Errorf("the payload %q: %v", payload, err)
		}
	}
	if kept := dbtest.Get[string](t, r.db.Pool(), "select string_agg(a::text, ' ') from graphile_worker.backfill_audit as a"); strings.Contains(kept, "hunter22") || strings.Contains(kept, "123456") {
		t.Errorf("the record has a value of the payload: %s", kept)
	}
}

// A principal is asked about with the task and queue of the row, in the transaction that changes it:
// what he may not read is not there, and what he may read and not change is refused.
func TestChangeByWhoMay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	mine, read, hidden := r.add("'mine', queue_name := 'q'"), r.add("'read'"), r.add("'hidden'")
	a := openAdmin(t, r.db.URL, admin.WithAuthorize(func(_ context.Context, p admin.Principal, action admin.Action, target admin.Target) bool {
		return p.Name == "ada" && (target.Task == "mine" && target.Queue == "q" || target.Task == "read" && action == admin.ActionRead)
	}))
	if _, err := a.DeleteJob(as(t, "ada"), hidden, nil, admin.ChangeOptions{}); !errors.Is(err, admin.ErrNotFound) || errors.Is(err, admin.ErrForbidden) {
		t.Errorf("a hidden job: %v", err)
	}
	if _, err := a.DeleteJob(as(t, "ada"), read, nil, admin.ChangeOptions{}); !errors.Is(err, admin.ErrForbidden) {
		t.Errorf("a job that may be read: %v", err)
	}
	if _, err := a.DeleteJob(as(t, "eve"), mine, nil, admin.ChangeOptions{}); !errors.Is(err, admin.ErrNotFound) {
		t.Errorf("somebody else: %v", err)
	}
	if outcome, err := a.DeleteJob(as(t, "ada"), mine, nil, admin.ChangeOptions{}); err != nil || outcome.Skip != "" {
		t.Errorf("%+v, %v", outcome, err)
	}
	for _, id := range []int64{read, hidden} {
		if r.jobRow(id) == "" {
			t.Errorf("job %d is gone", id)
		}
	}
	if list, err := a.Records(as(t, "eve"), admin.RecordFilter{}, "", 0); err != nil || len(list.Records) > 0 {
		t.Errorf("somebody else sees the records %+v, %v", list, err)
	}
	if list, err := a.Records(as(t, "ada"), admin.RecordFilter{}, "", 0); err != nil || len(list.Records) != 1 {
		t.Errorf("ada sees the records %+v, %v", list, err)
	}
}

// Another transaction that holds a row is waited for a moment, and then named as the reason.
func TestChangeOfALockedRow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync'")
	conn := dbtest.Connect(t, r.db.URL)
	dbtest.Run(t, conn, "begin; select from graphile_worker._private_jobs for update")
	outcome, err := r.admin.DeleteJob(t.Context(), id, nil, admin.ChangeOptions{})
	if err != nil || outcome.Skip != admin.SkipLocked {
		t.Errorf("%+v, %v", outcome, err)
	}
	dbtest.Run(t, conn, "rollback")
	if outcome, err := r.admin.DeleteJob(t.Context(), id, nil, admin.ChangeOptions{}); err != nil || outcome.Skip != "" {
		t.Errorf("%+v, %v", outcome, err)
	}
}

// A dead letter is requeued as it is stored, edited and deleted, if nobody has changed it since it
// was seen.
func TestChangeLetters(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const add = `insert into graphile_worker.backfill_dlq (original_job_id, task_identifier, payload, queue_name, job_key, priority, max_attempts, attempts, failure_reason,
		original_created_at, original_run_at, failed_at)
		select i, 'mail', '{"n": 1,  "password": "hunter22"}', 'q', 'k' || i, 3, 25, 25, 'exhausted', now(), now(), '2026-01-01T00:00:00Z' from generate_series(1, 4) as i`
	r.run(add)
	failed := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	edit := admin.LetterEdit{Payload: json.RawMessage(`{"n": 2,  "password": "` + admin.Redacted + `"}`), Queue: new(""), Priority: new(9)}
	if outcome, err := r.admin.EditDeadLetter(as(t, "ada"), 1, edit, failed, admin.ChangeOptions{}); err != nil || outcome.Skip != "" || outcome.Task != "mail" {
		t.Fatalf("%+v, %v", outcome, err)
	}
	outcome, err := r.admin.RequeueDeadLetter(as(t, "ada"), 1, failed, "cured", admin.ChangeOptions{ID: "x"})
	if err != nil || outcome.Skip != "" || outcome.JobID == 0 {
		t.Fatalf("%+v, %v", outcome, err)
	}
	if got := dbtest.Get[string](t, r.db.Pool(), "select concat_ws(' ', payload, key, priority, job_queue_id) from graphile_worker._private_jobs where id = $1",
		outcome.JobID); got != `{"n": 2,  "password": "hunter22"} k1 9` {
		t.Errorf("the job is %s", got)
	}
	if again, err := r.admin.RequeueDeadLetter(as(t, "ada"), 1, failed, "cured", admin.ChangeOptions{ID: "x"}); err != nil || again.JobID != outcome.JobID || !again.Repeated {
		t.Errorf("again: %+v, %v", again, err)
	}
	r.add("'mail', job_key := 'k3'")
	for id, want := range map[int64]admin.Skip{1: admin.SkipRequeued, 2: admin.SkipChanged, 3: admin.SkipKeyHeld} {
		seen := failed
		if id == 2 {
			seen = failed.Add(time.Microsecond)
		}
		if outcome, err := r.admin.RequeueDeadLetter(t.Context(), id, seen, "", admin.ChangeOptions{}); err != nil || outcome.Skip != want {
			t.Errorf("dead letter %d: %+v, %v, want %s", id, outcome, err, want)
		}
	}
	if outcome, err := r.admin.DeleteDeadLetter(as(t, "ada"), 4, time.Time{}, admin.ChangeOptions{Reason: "test data"}); err != nil || outcome.Skip != "" {
		t.Errorf("%+v, %v", outcome, err)
	}
	if _, err := r.admin.DeleteDeadLetter(as(t, "ada"), 4, time.Time{}, admin.ChangeOptions{}); !errors.Is(err, admin.ErrNotFound) {
		t.Errorf("one that is gone: %v", err)
	}
	want := []string{"ada edit dead_letter 1 mail: ", "ada requeue dead_letter 1 mail: ", "ada delete dead_letter 4 mail: test data"}
	if diff := cmp.Diff(want, r.records()); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// What the database would not take, or the contract refuses, is refused before anything is stored.
func TestChangeEnqueue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, request := range []backfill.Request{
		{},
		{Task: strings.Repeat("x", 129)},
		{Task: "a", Queue: "\x00"},
		{Task: "a", KeyMode: backfill.Replace},
		{Task: "a", Args: json.RawMessage(`{`)},
		{Task: "a", MaxAttempts: -1},
		{Task: "a", Args: json.RawMessage(`{"a":"` + admin.Redacted + `"}`)},
	} {
		if _, err := r.admin.EnqueueJob(t.Context(), request, admin.ChangeOptions{}); !errors.Is(err, admin.ErrInvalid) {
			t.Errorf("%+v: %v", request, err)
		}
	}
	outcome, err := r.admin.EnqueueJob(as(t, "ada"), backfill.Request{Task: "a", Key: "k", Flags: []string{"f"}}, admin.ChangeOptions{Reason: "by hand"})
	if err != nil || outcome.JobID == 0 {
		t.Fatalf("%+v, %v", outcome, err)
	}
	want := []string{fmt.Sprintf("ada enqueue job %d a: by hand", outcome.JobID)}
	if diff := cmp.Diff(want, r.records()); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// Pauses are recorded, and end once.
func TestChangePauses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add("'sync'")
	task := admin.PauseRequest{Task: "sync"}
	if _, err := r.admin.Pause(as(t, "ada"), admin.PauseRequest{Task: "nope"}, admin.ChangeOptions{}); !errors.Is(err, admin.ErrNotFound) {
		t.Errorf("an unknown task: %v", err)
	}
	for _, what := range []admin.PauseRequest{{}, {Task: "a", Queue: "b"}} {
		if _, err := r.admin.Pause(t.Context(), what, admin.ChangeOptions{}); !errors.Is(err, admin.ErrInvalid) {
			t.Errorf("%+v: %v", what, err)
		}
	}
	if outcome, err := r.admin.Pause(as(t, "ada"), task, admin.ChangeOptions{Reason: "away"}); err != nil || outcome.Skip != "" {
		t.Errorf("%+v, %v", outcome, err)
	}
	if got := dbtest.Get[string](t, r.db.Pool(), "select concat_ws(' ', task, paused_by, reason) from graphile_worker.backfill_pauses"); got != "sync ada away" {
		t.Errorf("the pause is %q", got)
	}
	for _, want := range []admin.Skip{"", admin.SkipPaused} {
		if outcome, err := r.admin.Resume(as(t, "ada"), task, admin.ChangeOptions{}); err != nil || outcome.Skip != want {
			t.Errorf("resume: %+v, %v, want %q", outcome, err, want)
		}
	}
	if diff := cmp.Diff([]string{"ada pause task sync sync: away", "ada pause task sync sync: "}, r.records()); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// What a dead worker has locked is released, what has been locked for over 4 hours, and nothing else.
func TestChangeLocks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(1, "sync")
	running := r.add("'sync', queue_name := 'live'")
	r.running(running)
	dbtest.Until(t, func() bool { // its own sweep, which frees old locks as well, is over for the next minutes
		return dbtest.Get[bool](t, r.db.Pool(), "select exists (select from graphile_worker.backfill_workers where swept_at < clock_timestamp() - interval '2 seconds')")
	})
	const deadWorker = "pool-0123456789abcdef01"
	r.run("insert into graphile_worker.backfill_workers (id, host, pid, beats, heartbeat_at) values ($1, 'h', 7, 5, now() - interval '1 minute')", deadWorker)
	lock := func(queue, by, since string) (id int64) {
		id = r.add("'sync', queue_name := '" + queue + "'")
		r.run("update graphile_worker._private_jobs set attempts = 1, locked_by = $2, locked_at = now() - $3::text::interval where id = $1", id, by, since)
		r.run("update graphile_worker._private_job_queues set locked_by = regexp_replace($2, '\\.1$', ''), locked_at = now() - $3::text::interval where queue_name = $1", queue, by, since)
		return id
	}
	ofDead, young, old := lock("dead", deadWorker+".1.1", "1 minute"), lock("young", "node-7", "3 hours"), lock("old", "node-8", "5 hours")
	lockedNow := func() string {
		return dbtest.Get[string](t, r.db.Pool(), `select coalesce(string_agg(id::text, ' ' order by id), '') from graphile_worker._private_jobs where locked_at is not null`)
	}
	for queue, want := range map[string]admin.Skip{"live": admin.SkipRunning, "dead": admin.SkipRunning, "young": admin.SkipRunning} {
		if outcome, err := r.admin.UnlockQueue(t.Context(), queue, true, admin.ChangeOptions{}); err != nil || outcome.Skip != want || outcome.JobID == 0 {
			t.Errorf("queue %s: %+v, %v", queue, outcome, err)
		}
	}
	liveWorker := dbtest.Get[string](t, r.db.Pool(), "select split_part(locked_by, '.', 1) from graphile_worker._private_jobs where id = $1", running)
	for id, want := range map[string]admin.Skip{liveWorker: admin.SkipRunning, "node-7": admin.SkipForeign, "nobody": admin.SkipUnlocked} {
		if outcome, err := r.admin.UnlockWorker(t.Context(), id, false, admin.ChangeOptions{}); err != nil || outcome.Skip != want {
			t.Errorf("worker %s: %+v, %v, want %s", id, outcome, err, want)
		}
	}
	cleaned, err := r.admin.CleanLocks(as(t, "ada"), admin.ChangeOptions{Reason: "weekly"})
	if err != nil || cleaned.Jobs != 2 || cleaned.Queues != 2 || len(cleaned.Workers) != 1 || cleaned.Left != 0 {
		t.Errorf("cleaned %+v, %v", cleaned, err)
	}
	if got, want := lockedNow(), fmt.Sprintf("%d %d", running, young); got != want {
		t.Errorf("locked are %s, want %s; %d and %d are not", got, want, ofDead, old)
	}
	r.run("delete from graphile_worker._private_jobs where id = $1", young) // its queue stays locked
	if outcome, err := r.admin.UnlockQueue(t.Context(), "young", false, admin.ChangeOptions{}); err != nil || outcome.Skip != admin.SkipForeign {
		t.Errorf("the queue of a Node worker: %+v, %v", outcome, err)
	}
	for _, want := range []admin.Skip{"", admin.SkipUnlocked} {
		if outcome, err := r.admin.UnlockQueue(as(t, "ada"), "young", true, admin.ChangeOptions{Reason: "its pod is gone"}); err != nil || outcome.Skip != want {
			t.Errorf("forced: %+v, %v, want %q", outcome, err, want)
		}
	}
	unlocked, err := r.admin.UnlockWorker(as(t, "ada"), liveWorker, true, admin.ChangeOptions{Reason: "frozen"})
	if err != nil || unlocked.Skip != "" {
		t.Errorf("forced: %+v, %v", unlocked, err)
	}
	dbtest.Until(t, func() bool { // the worker itself may have been faster than who declared it dead
		return dbtest.Get[bool](t, r.db.Pool(), "select not exists (select from graphile_worker._private_jobs where starts_with(locked_by, $1))", liveWorker)
	})
	want := []string{
		"ada unlock database graphile_worker : weekly", "ada unlock queue young : its pod is gone", "ada unlock worker " + liveWorker + " : frozen",
	}
	if diff := cmp.Diff(want, r.records()); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}
