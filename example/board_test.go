package main

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/example/tasks"
	"github.com/backfillhq/go/testutil/pgtest"
)

// A job is in one column at any time: a job that has a row is not done, whatever the history says.
func TestBoard(t *testing.T) {
	t.Parallel()
	db, _, _ := newTestSite(t)
	client, err := backfill.NewClient(t.Context(), db.Pool(), backfill.WithSchema(schema))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ids := stateJobs(t, db, client, "no such channel")
	history := newHistory(db.Pool())
	for _, job := range []backfill.Job{{ID: ids[6], Attempt: 3}, {ID: 1000, Attempt: 1}, {ID: 1000, Attempt: 2}} {
		job.Task = tasks.TaskAnnounceMember.Name
		history.observe(backfill.Event{Kind: backfill.EventFinished, Job: &job, Duration: time.Millisecond})
		history.observe(backfill.Event{Kind: backfill.EventStart, Job: &job})
	}
	history.close()

	got, err := readBoard(t.Context(), db.Pool())
	if err != nil {
		t.Fatal(err)
	}
	of := func(id int64, attempts, most int, took time.Duration, text string) job {
		return job{ID: id, Task: "announce_member", Attempts: attempts, MaxAttempts: most, Took: took, Error: text}
	}
	want := []column{
		{"waiting", 6, []job{of(ids[0], 0, 25, 0, ""), of(ids[1], 0, 25, 0, ""), of(ids[2], 0, 25, 0, ""), of(ids[3], 0, 25, 0, "")}},
		{"running", 1, []job{of(ids[6], 3, 25, 0, "")}},
		{"retrying", 1, []job{of(ids[7], 1, 25, 0, "no such channel")}},
		{"done", 1, []job{of(1000, 2, 0, time.Millisecond, "")}},
		{"failed", 1, []job{of(ids[8], 25, 25, 0, "no such channel")}},
	}
	if diff := cmp.Diff(want, got.Columns, cmpopts.IgnoreFields(job{}, "At")); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}
	if more := got.Columns[0].More(); more != 2 {
		t.Errorf("it says that %d more wait", more)
	}
}

// The stream begins with the whole board, goes on with what changes, and ends when the site stops.
func TestLive(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, pgtest.WithSchema(schema))
	if _, err := db.Pool().Exec(t.Context(), schemaSQL); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	server := httptest.NewServer(newSite(db.Pool(), tasks.Client{}, "").handler(ctx))
	defer server.Close()
	response, err := http.Get(server.URL + "/live") //nolint:noctx // a test's
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if kind := response.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Fatalf("it answers with %s", kind)
	}
	lines := bufio.NewScanner(response.Body)
	next := func() (name, html string) {
		for lines.Scan() && lines.Text() != "" {
			switch field, value, _ := strings.Cut(lines.Text(), ": "); field {
			case "event":
				name = value
			case "data":
				html += value + "\n"
			}
		}
		return name, html
	}
	next() // how long to wait before connecting again
	if name, html := next(); name != "jobs" || !strings.Contains(html, `id="waiting"`) {
		t.Errorf("first comes %s: %s", name, html)
	}
	if name, html := next(); name != "outbox" || !strings.Contains(html, "No mail yet.") {
		t.Errorf("then comes %s: %s", name, html)
	}
	_, err = db.Pool().Exec(t.Context(), `
		insert into backfill_example.outbox (message_id, recipient, subject, body) values ('m', 'a@example.com', 'S', E'1\r\n\r\n<b>2')`)
	if err != nil {
		t.Fatal(err)
	}
	if name, html := next(); name != "outbox" || !strings.Contains(html, "<p class=\"body\">1\n\n&lt;b&gt;2</p>") {
		t.Errorf("after a mail comes %s: %s", name, html)
	}
	stop()
	if name, html := next(); name != "" || lines.Err() != nil {
		t.Errorf("after the end comes %s: %s, %v", name, html, lines.Err())
	}
}

// stateJobs makes nine jobs: six that wait, then one that runs, one to be retried, and one that
// failed for good, and is a dead letter.
func stateJobs(t *testing.T, db *pgtest.Database, client *backfill.Client, problem string) (ids []int64) {
	t.Helper()
	enqueued, err := tasks.NewClient(client).EnqueueAnnounceMemberMany(t.Context(), make([]tasks.AnnounceArgs, 9))
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range enqueued {
		ids = append(ids, job.ID)
	}
	slices.Sort(ids)
	_, err = db.Pool().Exec(t.Context(), `
		with dead as (delete from backfill_example._private_jobs where id = $1 returning *)
		insert into backfill_example.backfill_dlq (original_job_id, task_identifier, payload, priority, attempts, max_attempts, failure_reason, last_error,
			original_created_at, original_run_at)
		select id, 'announce_member', payload, priority, 25, 25, 'exhausted', $2, created_at, run_at from dead`, ids[8], problem)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Pool().Exec(t.Context(), `
		update backfill_example._private_jobs set attempts = 1, last_error = $2, run_at = now() + interval '1 h' where id = $1`, ids[7], problem)
	if err == nil {
		_, err = db.Pool().Exec(t.Context(), `
			update backfill_example._private_jobs set attempts = 3, locked_at = now(), locked_by = 'somebody' where id = $1`, ids[6])
	}
	if err != nil {
		t.Fatal(err)
	}
	return ids
}
