package apitest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
)

const wholeState = `select json_build_object(
	'jobs', (select json_agg(j order by id) from graphile_worker._private_jobs as j), 'queues', (select json_agg(q order by id) from graphile_worker._private_job_queues as q),
	'letters', (select json_agg(l order by id) from graphile_worker.backfill_dlq as l), 'tasks', (select json_agg(p order by task) from graphile_worker.backfill_pauses as p),
	'pauses', (select json_agg(p order by queue_name) from graphile_worker.backfill_queue_pauses as p),
	'operations', (select json_agg(json_build_array(id, state, principal, reason) order by id) from graphile_worker.backfill_operations))::text`

// A change is not made if its record cannot be; and it says so.
func TestNoChangeWithoutItsRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	document, _ := r.document()
	tested := 0
	for name, operation := range operations(document) {
		method, _, _ := strings.Cut(operation, " ")
		if method == "GET" || name == "previewOperation" || name == "previewFixes" || name == "requeueDeadLetters" || name == "deleteDeadLetters" || name == "cleanUpDeadLetters" {
			continue // previews change nothing, and the others are started as operations
		}
		s := samples[name](r, adminToken)
		r.settled()
		r.run("alter table graphile_worker.backfill_audit rename to backfill_audit_away")
		before := dbtest.Get[string](t, r.db.Pool(), wholeState)
		r.fails(r.request(method, s.path, adminToken, s.body), http.StatusServiceUnavailable, "MIGRATE_REQUIRED", "backfill migrate")
		if diff := cmp.Diff(before, dbtest.Get[string](t, r.db.Pool(), wholeState)); diff != "" {
			t.Errorf("%s has changed something:\n%s", name, diff)
		}
		r.run("alter table graphile_worker.backfill_audit_away rename to backfill_audit")
		records := dbtest.Get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker.backfill_audit where principal = 'anna'")
		if a := r.ask(method, s.path, adminToken, s.body); a.StatusCode >= 300 {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
		}
		if now := dbtest.Get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker.backfill_audit where principal = 'anna'"); now != records+1 {
			t.Errorf("%s has written %d records", name, now-records)
		}
		tested++
	}
	if tested < 17 {
		t.Errorf("%d changes were tested", tested)
	}
}

// What has changed since it was seen is left as it is, with 409, and what is not there is 404.
func TestConflicts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	job, letter := r.failed(), r.letter("send", "{}")
	running := r.job(`'send', job_key := 'busy'`)
	r.run("update graphile_worker._private_jobs set locked_by = 'worker-node', locked_at = now(), attempts = 1 where id = $1::bigint", running)
	r.fails(r.request("POST", "/jobs/"+job+"/retry", operatorToken, `{"seen": {"attempts": 3}}`), http.StatusConflict, "SKIPPED_CHANGED", "look at it again")
	r.fails(r.request("DELETE", "/jobs/"+job+"?seen_revision=7", adminToken, ""), http.StatusConflict, "SKIPPED_CHANGED")
	r.fails(r.request("DELETE", "/jobs/"+job+"/cancel?seen_updated_at=2020-01-01T00:00:00Z", operatorToken, ""), http.StatusConflict, "SKIPPED_CHANGED")
	r.fails(r.request("DELETE", "/jobs/"+running, adminToken, ""), http.StatusConflict, "JOB_ALREADY_IN_PROGRESS", "worker-node")
	r.fails(r.request("POST", "/jobs", operatorToken, `{"task": "send", "key": "busy", "key_mode": "unsafe_dedupe"}`), http.StatusConflict, "JOB_ALREADY_IN_PROGRESS", running)
	r.fails(r.request("DELETE", "/dlq/"+letter+"?seen_failed_at=2020-01-01T00:00:00Z", adminToken, ""), http.StatusConflict, "SKIPPED_CHANGED")
	r.succeeds("POST", "/dlq/"+letter+"/requeue", operatorToken, "{}", nil)
	r.fails(r.request("POST", "/dlq/"+letter+"/requeue", operatorToken, "{}"), http.StatusConflict, "SKIPPED_REQUEUED")
	r.fails(r.request("DELETE", "/pauses?queue=q", operatorToken, ""), http.StatusConflict, "SKIPPED_NOT_PAUSED")
	fix := samples["fix"](r, adminToken)
	r.succeeds("POST", fix.path, adminToken, fix.body, nil)
	r.fails(r.request("POST", fix.path, adminToken, fix.body), http.StatusConflict, "PREVIEW_EXPIRED")
	r.fails(r.request("POST", "/operations/start", operatorToken, `{"token": "none"}`), http.StatusConflict, "PREVIEW_EXPIRED", "make a new one")
	for path, code := range map[string]string{
		"/jobs/4711": "JOB_NOT_FOUND", "/dlq/4711": "DLQ_JOB_NOT_FOUND", "/queues/nowhere/stats": "QUEUE_NOT_FOUND", "/operations/4711": "OPERATION_NOT_FOUND", "/nowhere": "NOT_FOUND",
	} {
		r.fails(r.request("GET", path, readerToken, ""), http.StatusNotFound, code)
	}
	// A request that is sent again does nothing again.
	var first, second admin.Outcome
	for _, outcome := range []*admin.Outcome{&first, &second} {
		request := r.request("POST", "/jobs", operatorToken, `{"task": "once"}`)
		request.Header.Set("Idempotency-Key", "a-key")
		r.send(request).decode(t, outcome)
	}
	if first.JobID == 0 || first.JobID != second.JobID || first.Repeated || !second.Repeated {
		t.Errorf("the second request: %+v, the first: %+v", second, first)
	}
	if n := dbtest.Get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker.jobs where task_identifier = 'once'"); n != 1 {
		t.Errorf("%d jobs", n)
	}
}

// Everything that is wrong is said at once.
func TestBadInput(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, test := range []struct {
		method, path, body string
		says               []string
	}{
		{"GET", "/jobs?limit=x&states=sleeping&foo=1&oldest=maybe&run_at_from=soon&offset=3", "", []string{`"x" is no number`, `"foo"`, "maybe", "soon", "pass after"}},
		{"GET", "/jobs?states=sleeping&ids=-1&min_priority=99999&no_queue=true&queues=q", "", []string{"sleeping", "-1", "99999", "no_queue"}},
		{"GET", "/jobs?limit=0&limit=1", "", []string{"twice"}},
		{"GET", "/jobs?tasks=", "", []string{"empty"}},
		{"GET", "/jobs?limit=1001&after=x", "", []string{"1001", "none of this list"}},
		{"GET", "/jobs?payload_contains=%7B", "", []string{"payload_contains", "no JSON"}},
		{"GET", "/jobs?limit=%zz", "", []string{"query"}},
		{"GET", "/jobs/abc", "", []string{`"abc" is no number`}},
		{"GET", "/jobs/1", "{}", []string{"has a body"}},
		{"DELETE", "/jobs/1", `{"reason": "x"}`, []string{"belongs into the query"}},
		{"POST", "/jobs", `{"task": "", "priority": 99999, "max_attempts": 0, "key_mode": "x"}`, []string{"task", "priority", "max_attempts", "key mode"}},
		{"POST", "/jobs", `{"task": "send", "Payload": {}}`, []string{"Payload", "not known"}},
		{"POST", "/jobs", `{"task": "send", "task": "sell"}`, []string{"twice"}},
		{"POST", "/jobs", `{"task": "send", "args": {}}`, []string{"args"}},
		{"POST", "/jobs", `{"task": "send"} {}`, []string{"more than one"}},
		{"POST", "/jobs", `[]`, []string{"object"}},
		{"POST", "/jobs", `{"task": 7}`, []string{"task"}},
		{"POST", "/jobs", `{"task": "send", "run_at": "soon"}`, []string{"time"}},
		{"POST", "/jobs", `{"task": "send", "payload": {"x": "\u0000"`, []string{"body"}},
		{"POST", "/jobs/1/reschedule", `{}`, []string{"run_at, priority or max_attempts"}},
		{"PUT", "/jobs/1/payload", `{}`, []string{"payload"}},
		{"POST", "/dlq/cleanup", `{"older_than_days": 0, "max_jobs": 10001}`, []string{"older_than_days", "max_jobs"}},
		{"POST", "/dlq/batch-requeue", `{"max_jobs": 1001, "throttle_ms": 6000}`, []string{"max_jobs", "throttle_ms", "filter is empty"}},
		{"POST", "/dlq/batch-delete", `{"filter": {"Tasks": ["a"]}}`, []string{"Tasks"}},
		{"POST", "/dlq/batch-delete", `{"filter": {"tasks": []}}`, []string{"empty list"}},
		{"POST", "/locks/cleanup", `{"stale_queue_lock_minutes": 5}`, []string{"stale_queue_lock_minutes"}},
		{"POST", "/operations", `{"action": "retry", "jobs": {}}`, []string{"filter is empty"}},
		{"POST", "/operations", `{"action": "edit", "jobs": {"state": ["failed"]}}`, []string{"state"}},
		{"POST", "/pauses", `{}`, []string{"a task or a queue"}},
		{"DELETE", "/pauses", "", []string{"a task or a queue"}},
	} {
		r.fails(r.request(test.method, test.path, adminToken, test.body), http.StatusUnprocessableEntity, "INVALID_REQUEST", test.says...)
	}
}

// Many dead letters at once, as the original has it.
func TestLetterBatches(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range 5 {
		r.letter("send", "{}")
	}
	r.letter("other", "{}")
	left := func() int {
		return dbtest.Get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker.backfill_dlq where requeued_job_id is null")
	}
	var batch admin.LetterBatch
	r.succeeds("POST", "/dlq/batch-requeue", operatorToken, `{"task_identifier": "send", "max_jobs": 2, "dry_run": true}`, &batch)
	if !batch.DryRun || batch.Matched != 2 || batch.Operation != nil || left() != 6 {
		t.Errorf("dry run: %+v, and %d are left", batch, left())
	}
	r.succeeds("POST", "/dlq/batch-requeue", operatorToken, `{"task_identifier": "send", "max_jobs": 2, "throttle_ms": 1, "notes": "again", "reason": "mended"}`, &batch)
	if batch.Operation == nil || batch.Operation.State != admin.OperationDone || batch.Operation.Acted != 2 || left() != 4 {
		t.Errorf("requeue: %+v, and %d are left", batch, left())
	}
	r.succeeds("POST", "/dlq/batch-delete", adminToken, `{"filter": {"tasks": ["other"]}}`, &batch)
	if batch.Operation.Acted != 1 || left() != 3 {
		t.Errorf("delete: %+v, and %d are left", batch, left())
	}
	r.run("update graphile_worker.backfill_dlq set failed_at = now() where id = (select max(id) from graphile_worker.backfill_dlq where requeued_job_id is null)")
	r.succeeds("POST", "/dlq/cleanup", adminToken, `{"dry_run": true}`, &batch)
	if batch.Matched != 2 || left() != 3 {
		t.Errorf("dry run of cleanup: %+v, and %d are left", batch, left())
	}
	r.succeeds("POST", "/dlq/cleanup", adminToken, `{}`, &batch)
	if batch.Operation.Acted != 2 || left() != 1 {
		t.Errorf("cleanup: %+v, and %d are left", batch, left())
	}
	a := r.succeeds("POST", "/dlq/batch-requeue", operatorToken, `{"all": true, "throttle_ms": 5000}`, nil)
	if a.StatusCode != http.StatusOK || left() != 0 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// Locks of dead workers are released, and stale ones; others are not.
func TestLockCleanup(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i, age := range []string{"5 hours", "1 hour"} {
		id := r.job("'send'")
		r.run(`update graphile_worker._private_jobs set locked_by = $2, locked_at = now() - $3::interval, attempts = 1 where id = $1::bigint`, id, fmt.Sprintf("worker-%d", i), age)
	}
	locked := func() int {
		return dbtest.Get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker.jobs where locked_at is not null")
	}
	var cleanup admin.LockCleanup
	r.succeeds("POST", "/locks/cleanup", operatorToken, `{"dry_run": true}`, &cleanup)
	if !cleanup.DryRun || cleanup.Jobs != 1 || locked() != 2 {
		t.Errorf("dry run: %+v, and %d are locked", cleanup, locked())
	}
	r.succeeds("POST", "/locks/cleanup", operatorToken, `{"reason": "stale"}`, &cleanup)
	if cleanup.DryRun || cleanup.Jobs != 1 || locked() != 1 {
		t.Errorf("cleanup: %+v, and %d are locked", cleanup, locked())
	}
}

// settled waits until operations that go on do nothing for long.
func (r *rig) settled() {
	r.Helper()
	dbtest.Until(r.T, func() bool {
		return !dbtest.Get[bool](r.T, r.db.Pool(), "select exists (select from graphile_worker.backfill_operations where state = 'running' and acted + skipped = 0)")
	})
}
