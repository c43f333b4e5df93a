package admin

import (
	"cmp"
	"fmt"
	"html"
	"net/http"
	"reflect"
	"slices"
	"strings"
)

// actions are what a principal has to be let do for a route that changes something, whatever it
// changes. The others read.
var actions = map[string]Action{
	"enqueue": ActionEnqueue, "retryJob": ActionRetry, "cancelJob": ActionCancel, "deleteJob": ActionDelete, "rescheduleJob": ActionReschedule,
	"editJob": ActionEdit, "deleteDeadLetter": ActionDelete, "editDeadLetter": ActionEdit, "requeueDeadLetter": ActionRequeue,
	"cleanUpDeadLetters": ActionDelete, "requeueDeadLetters": ActionRequeue, "deleteDeadLetters": ActionDelete, "cleanUpLocks": ActionUnlock,
	"unlockQueue": ActionUnlock, "unlockWorker": ActionUnlock, "pause": ActionPause, "resume": ActionPause, "previewOperation": ActionStop,
	"startOperation": ActionStop, "stopOperation": ActionStop, "resumeOperation": ActionStop,
}

// allRoutes is what there is to ask for.
func allRoutes() []*route {
	routes := slices.Concat([]*route{
		{
			method: http.MethodGet, path: "/", name: "index", summary: "List what there is to ask for, for people",
			status: http.StatusOK, input: newInput(reflect.TypeFor[nothing]()), raw: (*handler).index,
		},
		{
			method: http.MethodGet, path: "/openapi.json", name: "describe", summary: "Describe what there is to ask for, for programs: this document",
			status: http.StatusOK, input: newInput(reflect.TypeFor[nothing]()), raw: (*handler).describe,
		},
	}, stateRoutes(), jobRoutes(), letterRoutes(), lockRoutes(), pauseRoutes(), cronRoutes(), operationRoutes())
	for _, r := range routes {
		r.action = cmp.Or(actions[r.name], ActionRead)
	}
	return routes
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

// because is the part of a body that all changes have.
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
