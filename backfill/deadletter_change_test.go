package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// The new job has the stored bytes, no attempts, no error and no lock, is due, and keeps all the
// rest. The dead letter says which job it is, and workers are notified.
func TestRequeueStartsAnew(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	const payload = `{ "a":1.00,  "a" : "\u00e9\u0000",
		"b": 12345678901234567890 }`
	id := addLetter(t, db, map[string]string{
		"task_identifier": "'new task'", "payload": quoteSQL(payload), "queue_name": "'new queue'", "priority": "-7", "job_key": "'k'",
		"max_attempts": "3", "attempts": "3", "flags": `'{"f": true}'`, "notes": "'before'",
	})
	notified := listenForJobs(t, db)
	result, err := client.RequeueDeadLetters(t.Context(), only(id), backfill.DeadLetterOptions{Notes: "fixed in 1.2"})
	if err != nil || result.Acted != 1 || result.Skipped != 0 || result.UpTo.ID != id {
		t.Fatalf("%+v, %v", result, err)
	}
	if count := notified(); count != "1" {
		t.Errorf("workers were notified of %s jobs", count)
	}
	want := jobRow{Task: "new task", Queue: "new queue", Payload: payload, Key: "k", Flags: `{"f": true}`, Priority: -7, MaxAttempts: 3}
	if diff := cmp.Diff(want, onlyRow(t, db)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !get[bool](t, db.Pool(), `select run_at <= now() and run_at = created_at and updated_at = created_at and locked_at is null and is_available
		from graphile_worker._private_jobs`) {
		t.Error("it is not due, or not new")
	}
	letter, err := client.DeadLetter(t.Context(), id)
	if err != nil || letter.RequeuedJobID != result.Outcomes[0].JobID || letter.RequeuedJobID == 0 || letter.Requeues != 1 ||
		letter.RequeuedAt.IsZero() || letter.Notes != "fixed in 1.2" || letter.Failures != 1 || string(letter.Args) != payload {
		t.Errorf("%+v, %v", letter, err)
	}
	if _, err := client.Job(t.Context(), letter.RequeuedJobID); err != nil {
		t.Error(err)
	}
}

// The first failure after a requeue is attempt 1 of as many as the job had.
func TestFirstFailureAfterRequeueIsAttempt1(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	addLetter(t, db, map[string]string{"payload": "'4'", "max_attempts": "2", "attempts": "2"})
	requeue(t, client, backfill.DeadLetterFilter{All: true})
	var attempts []int
	_, registry := taskOf("t", func(ctx context.Context, _ int) error {
		attempts = append(attempts, backfill.JobInfo(ctx).Attempt)
		return errors.New("again")
	})
	runOnce(t, client, registry)
	if diff := cmp.Diff([]int{1}, attempts); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	if row := onlyRow(t, db); row.Attempts != 1 || row.MaxAttempts != 2 || row.LastError != "again" {
		t.Errorf("%+v", row)
	}
}

// A thousand dead letters, no two of which have anything in common, come back with their own.
func TestBulkRequeueGivesEachItsOwn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	const n = 1000
	exec(t, db.Pool(), `insert into graphile_worker.backfill_dlq (original_job_id, task_identifier, payload, queue_name, priority, job_key, max_attempts,
		attempts, failure_reason, flags, original_created_at, original_run_at, failed_at)
		select i, 'task' || i % 10, format('{"n":  %s, "of": "%s"}', i, md5(i::text))::json, 'queue' || i, i - 500, 'key' || i, i, i, 'exhausted',
			case when i % 2 = 0 then jsonb_build_object('flag' || i, true) end, now(), now(), now() - i * interval '1 second'
		from generate_series(1, $1::int) as i`, n)
	result := requeue(t, client, backfill.DeadLetterFilter{All: true})
	if result.Acted != n || result.Skipped != 0 || len(result.Outcomes) != n {
		t.Fatalf("%d requeued, %d skipped, %d outcomes", result.Acted, result.Skipped, len(result.Outcomes))
	}
	rows, err := db.Pool().Query(t.Context(), `select format('%s: task %s, payload %s, queue %s, priority %s, key %s, max_attempts %s, flags %s',
			d.id, t.identifier = d.task_identifier, j.payload::text = d.payload::text, q.queue_name = d.queue_name, j.priority = d.priority,
			j.key = d.job_key, j.max_attempts = d.max_attempts, j.flags is not distinct from d.flags)
		from graphile_worker.backfill_dlq d left join graphile_worker._private_jobs j on j.id = d.requeued_job_id
		left join graphile_worker._private_tasks t on t.id = j.task_id left join graphile_worker._private_job_queues q on q.id = j.job_queue_id order by d.id`)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(lines) != n {
		t.Fatal(len(lines), err)
	}
	for i, line := range lines {
		id := result.Outcomes[n-1-i].ID // the last of the rows failed first
		if want := fmt.Sprintf("%d: task t, payload t, queue t, priority t, key t, max_attempts t, flags t", id); line != want {
			t.Fatalf("%s", line)
		}
	}
	// The order of failures is that of the jobs, also over batches.
	if !get[bool](t, db.Pool(), `select array_agg(requeued_job_id order by failed_at) = array_agg(requeued_job_id order by requeued_job_id) from graphile_worker.backfill_dlq`) {
		t.Error("jobs are not in the order of failures")
	}
	wantJobs(t, db, n)
}

// Whoever has the key keeps it, whether it waits or runs, and is named; the dead letter stays as it
// was. A job that has failed for good gives the key up, as in an enqueue, and stays.
func TestRequeueWithAKeyThatIsTaken(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	for change, free := range map[string]bool{
		"run_at = now() + interval '1 day'":                                                    false,
		"attempts = 1, locked_at = now(), locked_by = 'pool-node'":                             false,
		"attempts = max_attempts, locked_at = now(), locked_by = 'pool-node'":                  false,
		"attempts = 1, locked_at = now() - interval '5 hours', locked_by = 'x'":                false,
		"attempts = max_attempts, last_error = 'it failed'":                                    true,
		"attempts = max_attempts, run_at = now() + interval '1 day', last_error = 'it failed'": true,
	} {
		exec(t, db.Pool(), "delete from graphile_worker._private_jobs")
		jobs, err := client.Enqueue(t.Context(), backfill.Request{Task: "t", Key: "k", Args: raw(`"live"`)})
		if err != nil {
			t.Fatal(err)
		}
		live := jobs[0].ID
		exec(t, db.Pool(), "update graphile_worker._private_jobs set "+change)
		id := addLetter(t, db, map[string]string{"job_key": "'k'", "payload": `'"dead"'`})
		before, err := client.DeadLetter(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		dry, err := client.RequeueDeadLetters(t.Context(), only(id), backfill.DeadLetterOptions{DryRun: true})
		if err != nil {
			t.Fatal(err)
		}
		o := oneOutcome(t, client, id)
		after, err := client.DeadLetter(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if free {
			rows := jobRows(t, db)
			if o.Skip != "" || dry.Acted != 1 || len(rows) != 2 || rows[0].Key != "" || rows[0].LastError != "it failed" || rows[0].Attempts != 25 ||
				rows[0].Payload != `"live"` || rows[1].Key != "k" || rows[1].Payload != `"dead"` {
				t.Errorf("%s: %+v, dry run %+v: %+v", change, o, dry, rows)
			}
			continue
		}
		if o.Skip != backfill.SkipKeyHeld || o.JobID != live || dry.SkippedBy[backfill.SkipKeyHeld] != 1 || dry.Outcomes[0].JobID != live {
			t.Errorf("%s: %+v, dry run %+v", change, o, dry)
		}
		if diff := cmp.Diff(before, after); diff != "" || onlyRow(t, db).Key != "k" || onlyRow(t, db).Payload != `"live"` {
			t.Errorf("%s: %+v, and the dead letter has changed:\n%s", change, jobRows(t, db), diff)
		}
		exec(t, db.Pool(), "delete from graphile_worker.backfill_dlq")
	}
	// Of several dead letters with one key, the first takes it.
	exec(t, db.Pool(), "delete from graphile_worker._private_jobs")
	first, second := addLetter(t, db, map[string]string{"job_key": "'k'"}), addLetter(t, db, map[string]string{"job_key": "'k'"})
	result := requeue(t, client, only(first, second))
	if result.Acted != 1 || result.SkippedBy[backfill.SkipKeyHeld] != 1 || result.Outcomes[1].JobID != result.Outcomes[0].JobID {
		t.Errorf("two with one key: %+v", result)
	}
	wantJobs(t, db, 1)
}

// Operators who requeue the same at once get one job for each dead letter. Everybody is told which.
func TestOperatorsWhoRequeueAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	const n, operators = 150, 3
	addLetters(t, db, n)
	results := make([]*backfill.DeadLetterResult, operators)
	var all sync.WaitGroup
	for i := range operators {
		client := newClient(t, db)
		all.Go(func() {
			var err error
			if results[i], err = client.RequeueDeadLetters(t.Context(), backfill.DeadLetterFilter{Tasks: []string{"t"}}, backfill.DeadLetterOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	acted, jobs := 0, map[int64]int64{}
	for _, result := range results {
		acted += result.Acted
		for _, o := range result.Outcomes {
			if o.Skip != "" && o.Skip != backfill.SkipRequeued {
				t.Errorf("%+v", o)
			}
			if known := jobs[o.ID]; known != 0 && known != o.JobID {
				t.Errorf("dead letter %d is jobs %d and %d", o.ID, known, o.JobID)
			}
			jobs[o.ID] = o.JobID
		}
	}
	if acted != n || len(jobs) != n {
		t.Errorf("%d were requeued, %d have outcomes, want %d", acted, len(jobs), n)
	}
	wantJobs(t, db, n)
}

// A dead letter without a key that is requeued twice is one job, and out of the list; after three
// rounds it is still one dead letter, and runs once.
func TestRequeueTwiceIsOneRun(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	id := addLetter(t, db, map[string]string{"payload": "'4'"})
	for round := 1; round <= 3; round++ {
		first, second := oneOutcome(t, client, id), oneOutcome(t, client, id)
		if first.Skip != "" || second.Skip != backfill.SkipRequeued || second.JobID != first.JobID || first.JobID == 0 {
			t.Fatalf("round %d: %+v, %+v", round, first, second)
		}
		wantJobs(t, db, 1)
		if list, err := client.DeadLetters(t.Context(), backfill.DeadLetterFilter{}, backfill.DeadLetterPage{}); err != nil || len(list.Letters) != 0 {
			t.Fatalf("round %d: listed are %+v, %v", round, list, err)
		}
		if result := requeue(t, client, backfill.DeadLetterFilter{All: true}); result.Acted+result.Skipped != 0 {
			t.Fatalf("round %d: %+v", round, result)
		}
		if round < 3 { // it fails for good again
			exec(t, db.Pool(), "delete from graphile_worker._private_jobs")
			exec(t, db.Pool(), `update graphile_worker.backfill_dlq set requeued_job_id = null, original_job_id = requeued_job_id,
				failure_count = failure_count + 1, failed_at = clock_timestamp()`)
		}
	}
	runs := 0
	_, registry := taskOf("t", func(context.Context, int) error {
		runs++
		return nil
	})
	runOnce(t, client, registry)
	if letter, err := client.DeadLetter(t.Context(), id); err != nil || runs != 1 || letter.Requeues != 3 || letter.Failures != 3 {
		t.Errorf("%d runs: %+v, %v", runs, letter, err)
	}
}

// What fails between the dry run and the action, or while it is under way, was not meant.
func TestWhatArrivesMeanwhileIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client := newClient(t, db)
			addLetters(t, db, 250)
			filter := backfill.DeadLetterFilter{Tasks: []string{"t"}}
			preview, err := change(client, t.Context(), filter, backfill.DeadLetterOptions{DryRun: true})
			if err != nil || preview.Acted != 250 || preview.More {
				t.Fatalf("%+v, %v", preview, err)
			}
			addLetters(t, db, 500)
			again := preview.Outcomes[7].ID
			exec(t, db.Pool(), "update graphile_worker.backfill_dlq set failed_at = now() + interval '1 second', failure_count = 2 where id = $1", again)
			filter.UpTo = preview.UpTo
			result, err := change(client, t.Context(), filter, backfill.DeadLetterOptions{})
			if err != nil || result.Acted != 249 || result.Skipped != 0 || result.UpTo.ID != preview.UpTo.ID {
				t.Fatalf("%+v, %v", result, err)
			}
			// The same without a dry run: while it is under way.
			filter.UpTo = backfill.DeadLetterBound{}
			first := true
			result, err = change(client, t.Context(), filter, backfill.DeadLetterOptions{Each: func(backfill.DeadLetterOutcome) {
				if first {
					addLetters(t, db, 500)
				}
				first = false
			}})
			if err != nil || result.Acted != 501 {
				t.Fatalf("%+v, %v", result, err)
			}
			if n := get[int](t, db.Pool(), "select count(*) from graphile_worker.backfill_dlq where requeued_job_id is null"); n != 500 {
				t.Errorf("%d dead letters are left, want the 500 that came last", n)
			}
		})
	}
}

// changes are the verbs that change dead letters.
var changes = map[string]func(*backfill.Client, context.Context, backfill.DeadLetterFilter, backfill.DeadLetterOptions) (*backfill.DeadLetterResult, error){
	"requeue": (*backfill.Client).RequeueDeadLetters,
	"delete":  (*backfill.Client).DeleteDeadLetters,
}

// Each verb changes the dead letters, and no job beside those that it makes.
func TestDeleteDeadLettersLeavesJobsAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	jobs, err := client.Enqueue(t.Context(), backfill.Request{Task: "t", Key: "k", Queue: "q"}, backfill.Request{Task: "t"})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, db.Pool(), "update graphile_worker._private_jobs set attempts = max_attempts, last_error = 'x' where id = $1", jobs[1].ID)
	before := jobRows(t, db)
	addLetter(t, db, map[string]string{"original_job_id": number(jobs[0].ID), "job_key": "'k'", "queue_name": "'q'"})
	result, err := client.DeleteDeadLetters(t.Context(), backfill.DeadLetterFilter{Tasks: []string{"t"}}, backfill.DeadLetterOptions{})
	if err != nil || result.Acted != 1 || result.Outcomes[0].JobID != 0 {
		t.Fatalf("%+v, %v", result, err)
	}
	if diff := cmp.Diff(before, jobRows(t, db)); diff != "" {
		t.Errorf("jobs (-before +after):\n%s", diff)
	}
}
