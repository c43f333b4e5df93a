package admin

import (
	"fmt"
	"html"
	"net/http"
	"strings"
)

// allRoutes is what there is to ask for: the name that clients know it by, the action that it takes,
// what it does, and who does it.
func allRoutes() []*route {
	const noJob, noLetter, noQueue, noTask, noOperation = "JOB_NOT_FOUND", "DLQ_JOB_NOT_FOUND", "QUEUE_NOT_FOUND", "TASK_NOT_FOUND", "OPERATION_NOT_FOUND"
	return []*route{
		page("GET /", "index", "List what there is to ask for, for people", (*handler).index),
		page("GET /openapi.json", "describe", "Describe what there is to ask for, for programs: this document", (*handler).describe),

		healthRoute(),
		to("GET /status", "status", ActionRead, "Count jobs, dead letters, workers and pauses", apiStatus),
		to("GET /tasks", "listTasks", ActionRead, "Count the jobs of each task", apiListTasks),
		to("GET /rates", "listRates", ActionRead, "Say how many jobs of each task have ended lately, and how long they took", apiListRates),
		to("GET /workers", "listWorkers", ActionRead, "List workers", apiListWorkers),
		to("GET /doctor", "examine", ActionRead, "Look for what is wrong with the database", apiExamine),
		to("POST /doctor/preview", "previewFixes", ActionFix, "Say what can be put right by itself, and by which SQL", apiPreviewFixes),
		to("POST /doctor/fix", "fix", ActionFix, "Put right what was previewed, in one transaction", apiFix),
		to("GET /audit", "listRecords", ActionRead, "List the records of changes, the newest first", apiListRecords),

		to("GET /jobs", "listJobs", ActionRead, "List jobs, those with the greatest ids first", apiListJobs),
		to("POST /jobs", "enqueue", ActionEnqueue, "Enqueue a job", apiEnqueue).as(http.StatusCreated).fails("", "ENQUEUE_FAILED"),
		to("GET /jobs/{id}", "showJob", ActionRead, "Show a job", apiShowJob).fails(noJob, ""),
		to("GET /jobs/{id}/why", "explainJob", ActionRead, "Say why a job does not run, or what it is doing", apiExplainJob).fails(noJob, ""),
		to("GET /jobs/{id}/history", "listAttempts", ActionRead, "List the attempts of a job, as far as they were kept", apiListAttempts),
		to("GET /jobs/{id}/progress", "showProgress", ActionRead, "Say how far a job is, as its handler says", apiShowProgress).fails(noJob, ""),
		to("POST /jobs/{id}/retry", "retryJob", ActionRetry, "Make a job due now, also one that has failed for good", apiRetryJob).fails(noJob, ""),
		to("DELETE /jobs/{id}/cancel", "cancelJob", ActionCancel, "Delete a job that nobody runs, or ask for the end of one that a Go worker runs", apiCancelJob).fails(noJob, ""),
		to("DELETE /jobs/{id}", "deleteJob", ActionDelete, "Delete a job that nobody runs", apiDeleteJob).fails(noJob, ""),
		to("POST /jobs/{id}/reschedule", "rescheduleJob", ActionReschedule, "Change when, and how often, a job that waits runs", apiRescheduleJob).fails(noJob, ""),
		to("PUT /jobs/{id}/payload", "editJob", ActionEdit, "Replace the payload of a job that nobody runs", apiEditJob).fails(noJob, ""),

		to("GET /dlq", "listDeadLetters", ActionRead, "List dead letters, those that failed last first", apiListDeadLetters).fails("", "DLQ_LIST_FAILED"),
		to("GET /dlq/stats", "countDeadLetters", ActionRead, "Count dead letters, by task and reason", apiCountDeadLetters).fails("", "DLQ_STATS_FAILED"),
		to("GET /dlq/{id}", "showDeadLetter", ActionRead, "Show a dead letter", apiShowDeadLetter).fails(noLetter, ""),
		to("DELETE /dlq/{id}", "deleteDeadLetter", ActionDelete, "Delete a dead letter", apiDeleteDeadLetter).fails(noLetter, ""),
		to("PATCH /dlq/{id}", "editDeadLetter", ActionEdit, "Change a dead letter before it is requeued", apiEditDeadLetter).fails(noLetter, ""),
		to("POST /dlq/{id}/requeue", "requeueDeadLetter", ActionRequeue, "Enqueue the job of a dead letter anew", apiRequeueDeadLetter).fails(noLetter, ""),
		to("POST /dlq/cleanup", "cleanUpDeadLetters", ActionDelete, "Delete old dead letters", apiCleanUpDeadLetters).fails(noLetter, "CLEANUP_FAILED"),
		to("POST /dlq/batch-requeue", "requeueDeadLetters", ActionRequeue, "Enqueue the jobs of dead letters anew", apiRequeueDeadLetters).fails(noLetter, "BATCH_REQUEUE_FAILED"),
		to("POST /dlq/batch-delete", "deleteDeadLetters", ActionDelete, "Delete dead letters", apiDeleteDeadLetters).fails(noLetter, "BATCH_DELETE_FAILED"),

		to("GET /locks/status", "listLocks", ActionRead, "List who has locked what", apiListLocks),
		to("POST /locks/cleanup", "cleanUpLocks", ActionUnlock, "Release what dead workers have locked, and locks older than 4 hours", apiCleanUpLocks).fails("", "CLEANUP_FAILED"),
		to("POST /workers/{id}/unlock", "unlockWorker", ActionUnlock, "Declare a worker dead, and release what it has locked", apiUnlockWorker).fails("WORKER_NOT_FOUND", ""),
		to("GET /queues", "listQueues", ActionRead, "List queues, by name", apiListQueues),
		to("GET /queues/{name}/stats", "showQueue", ActionRead, "Show a queue", apiShowQueue).fails(noQueue, ""),
		to("POST /queues/{name}/unlock", "unlockQueue", ActionUnlock, "Release a queue that a dead worker has locked", apiUnlockQueue).fails(noQueue, ""),

		to("GET /pauses", "listPauses", ActionRead, "List what is paused", apiListPauses),
		to("POST /pauses", "pause", ActionPause, "Keep the jobs of a task or a queue from starting", apiPause).fails(noTask, ""),
		to("DELETE /pauses", "resume", ActionPause, "Let the jobs of a task or a queue start again", apiResume).fails(noTask, ""),
		to("GET /cron", "listCrontabs", ActionRead, "List the entries of schedules, by identifier", apiListCrontabs),
		to("GET /cron/{id}/why", "explainCrontab", ActionRead, "Say why an entry of a schedule enqueues no job, or when it does", apiExplainCrontab).fails("CRON_NOT_FOUND", ""),
		to("POST /cron/{id}/trigger", "triggerCrontab", ActionTrigger, "Enqueue the job of an entry of a schedule out of its turn", apiTriggerCrontab).
			as(http.StatusCreated).fails("CRON_NOT_FOUND", "ENQUEUE_FAILED"),

		to("GET /operations", "listOperations", ActionRead, "List operations that were started, the newest first", apiListOperations),
		to("POST /operations", "previewOperation", ActionStop, "Fix what a change of many jobs or dead letters means, and say what it would do", apiPreviewOperation).as(http.StatusCreated),
		to("POST /operations/start", "startOperation", ActionStop, "Start what was previewed", apiStartOperation).as(http.StatusAccepted),
		to("GET /operations/{id}", "showOperation", ActionRead, "Show an operation", apiShowOperation).fails(noOperation, ""),
		to("GET /operations/{id}/items", "listItems", ActionRead, "List what became of the items of an operation", apiListItems).fails(noOperation, ""),
		to("POST /operations/{id}/stop", "stopOperation", ActionStop, "Stop an operation", apiStopOperation).fails(noOperation, ""),
		to("POST /operations/{id}/resume", "resumeOperation", ActionStop, "Let an operation go on that was stopped, in one's own name", apiResumeOperation).
			as(http.StatusAccepted).fails(noOperation, ""),
	}
}

// nothing is the input of a request that says nothing but its path.
type nothing struct{}

// pageInput says which part of a list is wanted.
type pageInput struct {
	After string `query:"after"` // next of the page before
	Limit int    `query:"limit"` // 1 to 1,000; 50 unless it is there
}

// repeatable is a change that can be sent again: see ChangeOptions.ID.
type repeatable struct {
	ID string `header:"Idempotency-Key"`
}

// reasoned is the part of a body that all changes have.
type reasoned struct {
	Reason string `json:"reason,omitzero"`
}

func (r *repeatable) options(reason string) ChangeOptions {
	return ChangeOptions{ID: r.ID, Reason: reason}
}

// index is a page for people who have followed a link.
func (h *handler) index(w http.ResponseWriter, _ *http.Request) {
	var page strings.Builder
	page.WriteString("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>backfill</title>\n<h1>backfill</h1>\n" +
		"<p>The HTTP API of a job queue. <a href=\"openapi.json\">openapi.json</a> describes it for programs.</p>\n<table>\n")
	for _, r := range h.routes {
		path := html.EscapeString(r.path)
		if r.method == http.MethodGet && !strings.Contains(path, "{") && path != "/" {
			path = fmt.Sprintf("<a href=\"%s\">%s</a>", strings.TrimPrefix(path, "/"), path)
		}
		fmt.Fprintf(&page, "<tr><td>%s<td>%s<td>%s\n", r.method, path, html.EscapeString(r.summary))
	}
	page.WriteString("</table>\n")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write([]byte(page.String())) // who does not listen any more is not told
}
