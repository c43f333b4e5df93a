package backfill_test

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
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Each column is a field.
func TestDeadLetterHasAllColumns(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	id := addLetter(t, db, map[string]string{
		"original_job_id": "17", "task_identifier": "'mail'", "payload": `'{ "a" : 1, "a":2}'`, "queue_name": "'q'", "priority": "-3",
		"job_key": "'k'", "max_attempts": "7", "failure_reason": "'permanent'", "failure_count": "2", "last_error": "'last'",
		"original_created_at": "'2026-01-01T00:00:01Z'", "original_run_at": "'2026-01-01T00:00:02Z'", "failed_at": "'2026-01-01T00:00:03.123456Z'",
		"requeued_count": "1", "last_requeued_at": "'2026-01-01T00:00:04Z'", "notes": "'see 12'", "attempts": "3",
		"flags": `'{"b": true, "a": true}'`, "first_error": "'first'", "first_failed_at": "'2026-01-01T00:00:05Z'", "requeued_job_id": "99",
	})
	at := func(second int) time.Time { return time.Date(2026, 1, 1, 0, 0, second, 0, time.UTC) }
	want := &backfill.DeadLetter{
		ID: id, JobID: 17, Task: "mail", Args: json.RawMessage(`{ "a" : 1, "a":2}`), Queue: "q", Key: "k", Priority: -3, Flags: []string{"a", "b"},
		Attempts: 3, MaxAttempts: 7, Reason: backfill.ReasonPermanent, LastError: "last", FailedAt: at(3).Add(123456 * time.Microsecond), Failures: 2,
		FirstError: "first", FirstFailedAt: at(5), CreatedAt: at(1), RunAt: at(2), Requeues: 1, RequeuedAt: at(4), RequeuedJobID: 99, Notes: "see 12",
	}
	got, err := client.DeadLetter(t.Context(), id)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	bare := addLetter(t, db, map[string]string{"last_error": "null", "first_error": "null"})
	got, err = client.DeadLetter(t.Context(), bare)
	if err != nil || got.Queue != "" || got.Key != "" || got.LastError != "" || got.Flags != nil || !got.RequeuedAt.IsZero() || got.RequeuedJobID != 0 || got.Notes != "" {
		t.Errorf("with nulls: %+v, %v", got, err)
	}
	for _, id := range []int64{bare + 1, 0, -1} {
		if got, err := client.DeadLetter(t.Context(), id); !errors.Is(err, backfill.ErrDeadLetterNotFound) || got != nil {
			t.Errorf("dead letter %d: %v, %v", id, got, err)
		}
	}
}

// Pages have each dead letter once, the newest first, also where many failed in one instant, and
// whatever fails meanwhile.
func TestDeadLettersPages(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	var want []int64
	for i := range 7 { // three instants, one of them infinite
		at := []string{"'2026-01-02T00:00:00.000001Z'", "'2026-01-02T00:00:00.000002Z'", "'infinity'"}[i/3]
		want = append([]int64{addLetter(t, db, map[string]string{"failed_at": at})}, want...)
	}
	requeued := addLetter(t, db, map[string]string{"requeued_job_id": "5", "failed_at": "'2026-01-01T00:00:00Z'"})
	var got []int64
	page := backfill.DeadLetterPage{Size: 2}
	for pages := 0; ; pages++ {
		list, err := client.DeadLetters(t.Context(), backfill.DeadLetterFilter{}, page)
		if err != nil || pages > 4 {
			t.Fatal(pages, err)
		}
		for _, letter := range list.Letters {
			got = append(got, letter.ID)
		}
		if list.Next == "" {
			break
		}
		page.After = list.Next
		addLetter(t, db, map[string]string{"failed_at": "'2026-01-03T00:00:00Z'"})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	list, err := client.DeadLetters(t.Context(), backfill.DeadLetterFilter{IDs: []int64{requeued}, Requeued: true}, backfill.DeadLetterPage{})
	if err != nil || len(list.Letters) != 1 || list.Letters[0].RequeuedJobID != 5 {
		t.Errorf("with those that are requeued: %+v, %v", list, err)
	}
	for _, page := range []backfill.DeadLetterPage{{Size: 1001}, {Size: -1}, {After: "next"}, {After: "1.2x"}, {After: "1"}} {
		if _, err := client.DeadLetters(t.Context(), backfill.DeadLetterFilter{}, page); err == nil {
			t.Errorf("page %+v is taken", page)
		}
	}
}

// An edit changes what it names, with the bytes that it was given, and the requeue takes them.
func TestEditDeadLetter(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	id := addLetter(t, db, map[string]string{"queue_name": "'q'", "job_key": "'k'", "notes": "'n'", "payload": `'{"old": true}'`})
	letter, err := client.DeadLetter(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	const args = `{ "new" : [1.10, "\u00e9\u0000"], "new":2 }`
	edited, err := client.EditDeadLetter(t.Context(), id, backfill.DeadLetterEdit{FailedAt: letter.FailedAt, Args: raw(args), Priority: new(backfill.Priority(4))})
	if err != nil || string(edited.Args) != args || edited.Priority != 4 || edited.Queue != "q" || edited.Key != "k" || edited.Notes != "n" || edited.MaxAttempts != 25 {
		t.Fatalf("%+v, %v", edited, err)
	}
	edited, err = client.EditDeadLetter(t.Context(), id, backfill.DeadLetterEdit{
		FailedAt: letter.FailedAt, Queue: new(""), Key: new("k2"), Notes: new(""), MaxAttempts: new(3),
	})
	if err != nil || string(edited.Args) != args || edited.Queue != "" || edited.Key != "k2" || edited.Notes != "" || edited.MaxAttempts != 3 {
		t.Fatalf("%+v, %v", edited, err)
	}
	if o := oneOutcome(t, client, id); o.Skip != "" {
		t.Fatalf("%+v", o)
	}
	if diff := cmp.Diff(jobRow{Task: "t", Payload: args, Key: "k2", Priority: 4, MaxAttempts: 3}, onlyRow(t, db)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What was cut off or redacted for showing is no JSON, and refused, as is all that could not be
// run.
func TestEditOfWrongValues(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	id := addLetter(t, db, map[string]string{"payload": `'{"old": true}'`})
	letter, err := client.DeadLetter(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for want, edit := range map[string]backfill.DeadLetterEdit{
		"not valid JSON":    {FailedAt: letter.FailedAt, Args: raw(`{"a": "long te…`)},
		"args are empty":    {FailedAt: letter.FailedAt, Args: raw(``)},
		"nothing to change": {FailedAt: letter.FailedAt},
		"FailedAt":          {Notes: new("n")},
		"max_attempts is 0": {FailedAt: letter.FailedAt, MaxAttempts: new(0)},
		"NUL":               {FailedAt: letter.FailedAt, Queue: new("a\x00")},
		"at most 512":       {FailedAt: letter.FailedAt, Key: new(strings.Repeat("k", 513))},
	} {
		if _, err := client.EditDeadLetter(t.Context(), id, edit); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if after, err := client.DeadLetter(t.Context(), id); err != nil || cmp.Diff(letter, after) != "" {
		t.Errorf("it has changed: %+v, %v", after, err)
	}
}

// An edit is of the dead letter that its author saw.
func TestEditOfADeadLetterThatHasChanged(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	again := addLetter(t, db, nil)
	requeued := addLetter(t, db, nil)
	gone := addLetter(t, db, nil)
	seen := map[int64]time.Time{}
	for _, id := range []int64{again, requeued, gone} {
		letter, err := client.DeadLetter(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		seen[id] = letter.FailedAt
	}
	exec(t, db.Pool(), "update graphile_worker.backfill_dlq set failed_at = failed_at + interval '1 microsecond', failure_count = 2 where id = $1", again)
	job := oneOutcome(t, client, requeued).JobID
	exec(t, db.Pool(), "delete from graphile_worker.backfill_dlq where id = $1", gone)
	edit := func(id int64) error {
		_, err := client.EditDeadLetter(t.Context(), id, backfill.DeadLetterEdit{FailedAt: seen[id], Args: raw(`1`)})
		return err
	}
	conflict, ok := errors.AsType[*backfill.DeadLetterConflictError](edit(again))
	if !ok || conflict.ID != again || conflict.RequeuedJobID != 0 || !conflict.FailedAt.Equal(seen[again].Add(time.Microsecond)) {
		t.Errorf("failed again: %+v", conflict)
	}
	conflict, ok = errors.AsType[*backfill.DeadLetterConflictError](edit(requeued))
	if !ok || conflict.RequeuedJobID != job || !strings.Contains(conflict.Error(), fmt.Sprint(job)) {
		t.Errorf("requeued: %+v", conflict)
	}
	if err := edit(gone); !errors.Is(err, backfill.ErrDeadLetterNotFound) {
		t.Errorf("gone: %v", err)
	}
	if n := get[int](t, db.Pool(), "select count(*) from graphile_worker.backfill_dlq where payload::text = '1'"); n != 0 {
		t.Errorf("%d dead letters were edited", n)
	}
}

// A job that has become a dead letter is a failed job, until it is requeued.
func TestJobThatIsADeadLetter(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	job := enqueue(t, client, &backfill.Task[int]{Name: "t"}, 1)
	exec(t, db.Pool(), "delete from graphile_worker._private_jobs where id = $1", job.ID)
	letter := addLetter(t, db, map[string]string{
		"original_job_id": number(job.ID), "payload": "'[1, 2]'", "queue_name": "'q'", "attempts": "3", "max_attempts": "4", "last_error": "'no such user'",
	})
	got, err := client.Job(t.Context(), job.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got.State != backfill.JobFailed || got.DeadLetterID != letter || got.ID != job.ID || got.LastError != "no such user" ||
		string(got.Args) != "[1, 2]" || got.Queue != "q" || got.Attempt != 3 || got.MaxAttempts != 4 || got.LockedBy != "" || got.UpdatedAt.IsZero() {
		t.Errorf("%+v", got)
	}
	requeued := oneOutcome(t, client, letter).JobID
	if _, err := client.Job(t.Context(), job.ID); !errors.Is(err, backfill.ErrJobNotFound) {
		t.Errorf("after the requeue: %v", err)
	}
	if got, err := client.Job(t.Context(), requeued); err != nil || got.State != backfill.JobDue || got.DeadLetterID != 0 {
		t.Errorf("the new job: %+v, %v", got, err)
	}
}

// The ids of dead letters and of jobs are two kinds of number. A live job, the dead letter with its
// number, and the dead letter of an older job with that number are three things.
func TestDeadLettersAndJobsWithTheSameNumber(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	letter := addLetter(t, db, map[string]string{"original_job_id": "555", "task_identifier": "'letter'"})
	exec(t, db.Pool(), `insert into graphile_worker._private_tasks (identifier) values ('live')`)
	exec(t, db.Pool(), `insert into graphile_worker._private_jobs (id, task_id, run_at) overriding system value
		select $1::bigint, id, now() + interval '1 day' from graphile_worker._private_tasks`, letter)
	old := addLetter(t, db, map[string]string{"original_job_id": number(letter), "task_identifier": "'old'"})

	if job, err := client.Job(t.Context(), letter); err != nil || job.Task != "live" || job.DeadLetterID != 0 {
		t.Errorf("job %d: %+v, %v", letter, job, err)
	}
	if found, err := client.DeadLetter(t.Context(), letter); err != nil || found.Task != "letter" {
		t.Errorf("dead letter %d: %+v, %v", letter, found, err)
	}
	for want, filter := range map[int64]backfill.DeadLetterFilter{letter: {IDs: []int64{letter}}, old: {JobIDs: []int64{letter}}} {
		result, err := client.RequeueDeadLetters(t.Context(), filter, backfill.DeadLetterOptions{DryRun: true})
		if diff := cmp.Diff(map[int64]backfill.DeadLetterSkip{want: ""}, outcomes(result)); err != nil || diff != "" {
			t.Errorf("%+v: %v\n%s", filter, err, diff)
		}
	}
	result, err := client.DeleteDeadLetters(t.Context(), only(letter), backfill.DeadLetterOptions{})
	if err != nil || result.Acted != 1 {
		t.Fatalf("%+v, %v", result, err)
	}
	if rows := jobRows(t, db); len(rows) != 1 || rows[0].Task != "live" {
		t.Errorf("the jobs are %+v", rows)
	}
	if found, err := client.DeadLetter(t.Context(), old); err != nil || found.Task != "old" {
		t.Errorf("the other dead letter: %+v, %v", found, err)
	}
	if jobs, err := client.CompleteJobs(t.Context(), letter); err != nil || len(jobs) != 1 {
		t.Errorf("complete the job: %v, %v", jobs, err)
	}
	if n := get[int](t, db.Pool(), "select count(*) from graphile_worker.backfill_dlq"); n != 1 {
		t.Errorf("%d dead letters, want the one of job %d", n, letter)
	}
}

func TestDeadLetterStats(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	stats, err := client.DeadLetterStats(t.Context())
	if diff := cmp.Diff(&backfill.DeadLetterStats{Kinds: []backfill.DeadLetterKind{}}, stats); err != nil || diff != "" {
		t.Errorf("of none: %v\n%s", err, diff)
	}
	for i, reason := range []string{"exhausted", "permanent", "permanent", "crashed"} {
		addLetter(t, db, map[string]string{"failure_reason": quoteSQL(reason), "failed_at": fmt.Sprintf("'2026-01-01T00:00:0%dZ'", i)})
	}
	addLetter(t, db, map[string]string{"task_identifier": "''", "failed_at": "'2026-01-01T00:00:02Z'"}) // as Node takes it
	addLetter(t, db, map[string]string{"failed_at": "'2025-01-01T00:00:00Z'", "requeued_job_id": "1"})
	addLetter(t, db, map[string]string{"failed_at": "'2027-01-01T00:00:00Z'", "requeued_job_id": "2"})
	stats, err = client.DeadLetterStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := func(second int) time.Time { return time.Date(2026, 1, 1, 0, 0, second, 0, time.UTC) }
	want := &backfill.DeadLetterStats{Total: 5, Requeued: 2, Oldest: at(0), Newest: at(3), Kinds: []backfill.DeadLetterKind{
		{Task: "t", Reason: "permanent", Count: 2}, {Task: "", Reason: "exhausted", Count: 1}, {Task: "t", Reason: "crashed", Count: 1}, {Task: "t", Reason: "exhausted", Count: 1},
	}}
	if diff := cmp.Diff(want, stats); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The reason is what the handler said by Permanent, and never what the words of an error look like
// (the first backfill looked for words).
func TestWordsOfAnErrorDecideNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	texts := []string{"user not found in cache, retry", "retry: not found", "permanent failure: invalid input", "fatal: unauthorized, schema validation"}
	task, registry := taskOf("t", func(_ context.Context, n int) error { return errors.New(texts[n]) })
	for n := range texts {
		enqueue(t, client, task, n)
	}
	runOnce(t, client, registry)
	for i, row := range jobRows(t, db) {
		if row.Attempts != 1 || row.MaxAttempts != 25 || row.LastError != texts[i] {
			t.Errorf("%q: %+v", texts[i], row)
		}
	}
	wantJobs(t, db, len(texts))
	id := addLetter(t, db, map[string]string{"last_error": "'permanent: crashed'"})
	for _, reason := range []backfill.DeadLetterReason{backfill.ReasonPermanent, backfill.ReasonCrashed} {
		list, err := client.DeadLetters(t.Context(), backfill.DeadLetterFilter{IDs: []int64{id}, Reasons: []backfill.DeadLetterReason{reason}}, backfill.DeadLetterPage{})
		if err != nil || len(list.Letters) != 0 {
			t.Errorf("%s matches %+v, %v", reason, list, err)
		}
	}
}

// Another schema, a pooler's modes and hostile settings of the session change nothing.
func TestDeadLettersInAnySession(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := connect(t, db)
	dbtest.NeedSuperuser(t, conn)
	for _, setting := range []string{"datestyle to 'SQL, DMY'", "array_nulls to off", "search_path to nowhere", "timezone to 'Asia/Kathmandu'", "intervalstyle to 'sql_standard'"} {
		dbtest.Run(t, conn, "alter database "+get[string](t, conn, "select quote_ident(current_database())")+" set "+setting)
	}
	client := newClient(t, db)
	db.Pool().Reset()
	id := addLetter(t, db, map[string]string{"failed_at": "'2026-02-01T00:00:00.000001Z'", "queue_name": "'q'", "payload": "'[1]'"})
	letter, err := client.DeadLetter(t.Context(), id)
	if err != nil || !letter.FailedAt.Equal(time.Date(2026, 2, 1, 0, 0, 0, 1000, time.UTC)) {
		t.Fatalf("%+v, %v", letter, err)
	}
	filter := backfill.DeadLetterFilter{IDs: []int64{id}, Tasks: []string{"t"}, FailedAfter: letter.FailedAt, FailedBefore: letter.FailedAt.Add(time.Microsecond)}
	if result := requeue(t, client, filter); result.Acted != 1 {
		t.Errorf("%+v", result)
	}
	if row := get[string](t, db.Pool(), "select payload::text from graphile_worker._private_jobs"); row != "[1]" {
		t.Errorf("the job's args are %s", row)
	}
}
