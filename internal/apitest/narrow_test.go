package apitest_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
)

// onlyMine lets tina do everything with the task mine and the queue ours.
func onlyMine(_ context.Context, who admin.Principal, action admin.Action, target admin.Target) bool {
	if who.Name == "anna" {
		return true
	}
	switch target.Kind {
	case admin.KindQueue:
		return target.Queue == "ours"
	case admin.KindOperation:
		return action != admin.ActionDelete
	case admin.KindWorker:
		return true
	case admin.KindDatabase, admin.KindCron:
		return false
	default:
	}
	return target.Task == "mine" && action != admin.ActionDelete
}

// Who may see some tasks sees nothing of others, not even that they are there, and counts leave them
// out.
func TestNarrowRole(t *testing.T) {
	t.Parallel()
	r := newRig(t, admin.WithAuthorize(onlyMine))
	const tina = "tina-0123456789abcdef"
	r.url = r.serve(admin.WithCredentials(append(credentials(), admin.Credential{Name: "tina", Secret: tina})...))
	mine, theirs := r.job(`'mine', '{"x": "of mine"}', queue_name := 'ours'`), r.job(`'other', '{"x": "hidden"}', queue_name := 'hidden-queue', job_key := 'hidden-key'`)
	myLetter, theirLetter := r.letter("mine", "{}"), r.letter("other", `{"x": "hidden"}`)
	r.run(`insert into graphile_worker._private_known_crontabs (identifier, known_since) values ('hidden-cron', now())`)
	r.succeeds("POST", "/pauses", adminToken, `{"queue": "hidden-queue", "reason": "hidden"}`, nil)
	r.succeeds("POST", "/jobs/"+theirs+"/reschedule", adminToken, `{"priority": 1, "reason": "hidden"}`, nil)
	r.succeeds("POST", "/jobs/"+mine+"/reschedule", adminToken, `{"priority": 1, "reason": "of mine"}`, nil)
	for _, change := range []struct{ method, path, body, code string }{
		{"GET", "/jobs/{job}", "", "JOB_NOT_FOUND"},
		{"GET", "/jobs/{job}/why", "", "JOB_NOT_FOUND"},
		{"GET", "/jobs/{job}/progress", "", "JOB_NOT_FOUND"},
		{"GET", "/cron/hidden-cron/why", "", "CRON_NOT_FOUND"},
		{"POST", "/cron/hidden-cron/trigger", "{}", "CRON_NOT_FOUND"},
		{"POST", "/doctor/preview", "{}", "NOT_FOUND"},
		{"POST", "/doctor/fix", `{"token": "x"}`, "NOT_FOUND"},
		{"POST", "/jobs/{job}/retry", "{}", "JOB_NOT_FOUND"},
		{"DELETE", "/jobs/{job}/cancel", "", "JOB_NOT_FOUND"},
		{"DELETE", "/jobs/{job}", "", "JOB_NOT_FOUND"},
		{"POST", "/jobs/{job}/reschedule", `{"priority": 1}`, "JOB_NOT_FOUND"},
		{"PUT", "/jobs/{job}/payload", `{"payload": {}}`, "JOB_NOT_FOUND"},
		{"GET", "/dlq/{letter}", "", "DLQ_JOB_NOT_FOUND"},
		{"DELETE", "/dlq/{letter}", "", "DLQ_JOB_NOT_FOUND"},
		{"PATCH", "/dlq/{letter}", `{"priority": 1}`, "DLQ_JOB_NOT_FOUND"},
		{"POST", "/dlq/{letter}/requeue", "{}", "DLQ_JOB_NOT_FOUND"},
		{"GET", "/queues/hidden-queue/stats", "", "QUEUE_NOT_FOUND"},
		{"POST", "/queues/hidden-queue/unlock", "{}", "QUEUE_NOT_FOUND"},
		{"POST", "/pauses", `{"task": "other"}`, "TASK_NOT_FOUND"},
		{"POST", "/pauses", `{"queue": "hidden-queue"}`, "TASK_NOT_FOUND"},
		{"DELETE", "/pauses?queue=hidden-queue", "", "TASK_NOT_FOUND"},
		{"POST", "/jobs", `{"task": "other"}`, "NOT_FOUND"},
		{"GET", "/doctor", "", "NOT_FOUND"},
		{"POST", "/locks/cleanup", "{}", "NOT_FOUND"},
	} {
		path := strings.NewReplacer("{job}", theirs, "{letter}", theirLetter).Replace(change.path)
		there := r.fails(r.request(change.method, path, tina, change.body), http.StatusNotFound, change.code)
		// What is not there at all looks the same.
		absent := strings.NewReplacer("{job}", "99999", "{letter}", "99999", "hidden-queue", "absent-queue").Replace(change.path)
		if strings.HasPrefix(change.path, "/jobs/") && !strings.HasSuffix(change.path, "/why") || strings.HasPrefix(change.path, "/dlq/") {
			other := r.fails(r.request(change.method, absent, tina, change.body), http.StatusNotFound, change.code)
			if normal(there.body, theirs, theirLetter) != normal(other.body, "99999", "99999") {
				t.Errorf("%s %s tells them apart: %s and %s", change.method, change.path, there.body, other.body)
			}
		}
	}
	r.fails(r.request("DELETE", "/dlq/"+myLetter, tina, ""), http.StatusForbidden, "FORBIDDEN") // seen, and not deleted
	for _, path := range []string{"/jobs", "/tasks", "/queues", "/dlq", "/dlq/stats", "/locks/status", "/pauses", "/cron", "/audit", "/workers", "/status", "/jobs?keys=hidden-key"} {
		a := r.succeeds("GET", path, tina, "", nil)
		for _, text := range []string{"hidden", `"other"`, `"id":` + theirs + `,`} {
			if strings.Contains(string(a.body), text) {
				t.Errorf("%s shows %s: %s", path, text, a.body)
			}
		}
	}
	r.run(`insert into graphile_worker.backfill_history (job_id, task_identifier, attempt, outcome, error) values ($1::bigint, 'other', 1, 'failed', 'hidden')`, theirs)
	var history admin.History
	r.succeeds("GET", "/jobs/"+theirs+"/history", tina, "", &history)
	if len(history.Attempts) != 0 {
		t.Errorf("the history of others is %+v", history)
	}
	r.succeeds("GET", "/jobs/"+theirs+"/history", adminToken, "", &history)
	if len(history.Attempts) != 1 {
		t.Errorf("the history is %+v", history)
	}
	var status admin.Status
	r.succeeds("GET", "/status", tina, "", &status)
	if status.Jobs.Total.N != 1 || status.DeadLetters.N != 1 || status.Pauses != 0 {
		t.Errorf("the counts are %+v", status)
	}
	r.succeeds("GET", "/status", adminToken, "", &status)
	if status.Jobs.Total.N != 2 || status.DeadLetters.N != 2 || status.Pauses != 1 {
		t.Errorf("the counts of all are %+v", status)
	}
	var records admin.RecordList
	r.succeeds("GET", "/audit", tina, "", &records)
	if len(records.Records) != 1 || records.Records[0].Reason != "of mine" {
		t.Errorf("the records are %s", fmt.Sprint(records.Records))
	}
	// In bulk, others are neither matched nor changed.
	var preview admin.Preview
	r.succeeds("POST", "/operations", tina, fmt.Sprintf(`{"action": "cancel", "jobs": {"ids": [%s, %s]}}`, mine, theirs), &preview)
	if preview.Operation.Matched != 1 || len(preview.Items) != 1 || preview.Items[0].Task != "mine" {
		t.Errorf("the preview has %+v", preview)
	}
	r.succeeds("POST", "/operations/start", tina, fmt.Sprintf(`{"token": %q}`, preview.Token), nil)
	dbtest.Until(t, func() bool {
		return dbtest.Get[string](t, r.db.Pool(), "select state from graphile_worker.backfill_operations") == "done"
	})
	if left := dbtest.Get[[]string](t, r.db.Pool(), "select array_agg(task_identifier) from graphile_worker.jobs"); !slices.Equal(left, []string{"other"}) {
		t.Errorf("left are %v", left)
	}
	var items admin.ItemList
	r.succeeds("GET", fmt.Sprintf("/operations/%d/items", preview.Operation.ID), tina, "", &items)
	for _, item := range items.Items {
		if item.Task == "other" {
			t.Errorf("items have %+v", item)
		}
	}
}

// Who may not do what an operation does can neither preview it, nor let it go on in its own name.
func TestOperationsOfOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t, admin.WithAuthorize(onlyMine))
	const tina = "tina-0123456789abcdef"
	r.url = r.serve(admin.WithCredentials(append(credentials(), admin.Credential{Name: "tina", Secret: tina})...))
	body := fmt.Sprintf(`{"action": "delete", "per_second": 0.01, "jobs": {"ids": [%s, %s]}}`, r.job("'mine'"), r.job("'mine'"))
	r.fails(r.request("POST", "/operations", tina, body), http.StatusForbidden, "FORBIDDEN", "delete operation")
	var preview admin.Preview
	r.succeeds("POST", "/operations", adminToken, body, &preview)
	start := fmt.Sprintf(`{"token": %q}`, preview.Token)
	r.fails(r.request("POST", "/operations/start", tina, start), http.StatusForbidden, "FORBIDDEN")
	r.succeeds("POST", "/operations/start", adminToken, start, nil)
	path := fmt.Sprintf("/operations/%d", preview.Operation.ID)
	r.succeeds("POST", path+"/stop", tina, "{}", nil)
	r.fails(r.request("POST", path+"/resume", tina, "{}"), http.StatusForbidden, "FORBIDDEN")
	var operation admin.Operation
	r.succeeds("GET", path, tina, "", &operation)
	if operation.State != admin.OperationStopped || operation.Principal != "anna" {
		t.Errorf("the operation is %+v", operation)
	}
}

// A server carries on what others have started, as they may: also those who need not ask.
func TestServerCarriesOperations(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.job("'send'")
	r.job("'send'")
	ctx := admin.As(t.Context(), admin.Principal{Name: "somebody@a-terminal"})
	preview, err := r.admin.Preview(ctx, admin.Bulk{Action: admin.ActionDelete, Jobs: &admin.JobFilter{Tasks: []string{"send"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.admin.Start(ctx, preview.Token, admin.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	r.url = r.listen("127.0.0.1:0", admin.WithCredentials(credentials()...))
	var operation admin.Operation
	dbtest.Until(t, func() bool {
		r.succeeds("GET", fmt.Sprintf("/operations/%d", preview.Operation.ID), readerToken, "", &operation)
		return operation.State == admin.OperationDone
	})
	if operation.Acted != 2 || operation.Skipped != 0 {
		t.Errorf("the operation is %+v", operation)
	}
}

// normal is an answer without what it was asked for and when.
func normal(body []byte, ids ...string) string {
	text, _, _ := strings.Cut(string(body), `,"timestamp"`)
	for _, id := range ids {
		text = strings.ReplaceAll(text, id, "ID")
	}
	return text
}
