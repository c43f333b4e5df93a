package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

func TestWhy(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := dbtest.Get[int64](t, db.Pool(), "select id from graphile_worker.add_job('sync', run_at := now() + interval '3 hours')")
	out, _ := command(t, 0, "why", "--database-url", db.URL, fmt.Sprint(id))
	says(t, out, fmt.Sprintf("Job %d (sync) is not due until", id), "To have it run now:\n  select id from", "\nThen:\n", "waits for a worker")

	out, _ = command(t, 0, "why", "--json", "--database-url", db.URL, fmt.Sprint(id))
	var x admin.Explanation
	if err := json.Unmarshal([]byte(out), &x); err != nil || x.Blocker.Code != admin.NotDue || x.Job == nil || x.Job.Task != "sync" || len(x.Then) != 1 {
		t.Errorf("%v: %s", err, out)
	}

	out, errs := command(t, exitProblem, "why", "--database-url", db.URL, fmt.Sprint(id+1000))
	says(t, out, "never was")
	says(t, errs, fmt.Sprintf("job %d is not there: not_given_out", id+1000))
	letter := dbtest.Get[int64](t, db.Pool(), `insert into graphile_worker.backfill_dlq (original_job_id, task_identifier, payload, priority, max_attempts, failure_reason,
		original_created_at, original_run_at, attempts) values (nextval('graphile_worker.jobs_id_seq1'), 'sync', '{}', 0, 3, 'exhausted', now(), now(), 3) returning original_job_id`)
	out, _ = command(t, 0, "why", "--database-url", db.URL, fmt.Sprint(letter))
	says(t, out, "dead letter")
	for _, arguments := range [][]string{{}, {"x"}, {"1", "2"}, {"-1"}, {"1", "--schema", "pg_temp"}, {"1", "--no-such-flag"}} {
		command(t, exitUsage, append([]string{"why", "--database-url", db.URL}, arguments...)...)
	}
}

// What others have written controls no terminal.
func TestWhyIsPlain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, text := range dbtest.Hostile() {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) || text == "" || len(text) > 100 {
			continue
		}
		id := dbtest.Get[int64](t, db.Pool(), "select id from graphile_worker.add_job($1, queue_name := $1, job_key := $1, flags := array[$1])", text)
		dbtest.Run(t, db.Pool(), "update graphile_worker._private_jobs set last_error = $2, attempts = max_attempts where id = $1", id, text)
		out, _ := command(t, 0, "why", "--database-url", db.URL, fmt.Sprint(id))
		if at := strings.IndexFunc(strings.ReplaceAll(out, "\n", ""), func(r rune) bool { return printable(r) != r }); at >= 0 {
			t.Errorf("%q: %q", text, out)
		}
	}
}
