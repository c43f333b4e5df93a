package apitest_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill/admin"
)

var update = flag.Bool("update", false, "write testdata")

var principals = []struct{ name, token string }{
	{"none", ""},
	{"wrong", "wrong-0123456789abcdef"},
	{"expired", expiredToken},
	{"roleless", nobodyToken},
	{"reader", readerToken},
	{"operator", operatorToken},
	{"admin", adminToken},
}

var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodTrace, "PROPFIND",
}

// Who may do what, for each route, each principal and each method: a difference is looked at.
func TestAccess(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	document, _ := r.document()
	names := operations(document)
	r.fill()
	var lines []string
	for name, operation := range names {
		method, path, _ := strings.Cut(operation, " ")
		line := fmt.Sprintf("%-32s %-7s", path, method)
		for _, p := range principals {
			s := samples[name](r, p.token)
			line += fmt.Sprintf(" %s %d", p.name, r.ask(method, s.path, p.token, s.body).StatusCode)
		}
		lines = append(lines, line)
	}
	for path, item := range document.Paths.Map() {
		for _, method := range methods {
			if item.GetOperation(method) != nil || method == http.MethodHead && item.Get != nil {
				continue
			}
			line := fmt.Sprintf("%-32s %-7s", path, method)
			for _, p := range principals {
				line += fmt.Sprintf(" %s %d", p.name, r.ask(method, strings.NewReplacer("{id}", "1", "{name}", "q").Replace(path), p.token, "").StatusCode)
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	got := strings.Join(lines, "\n") + "\n"
	const file = "testdata/access.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("access (-want +got), go test ./internal/apitest -run Access -update writes it:\n%s", diff)
	}
}

// Each route asks one function, for the action that the document names.
func TestEachRouteAsks(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	asked := map[admin.Action]bool{}
	r := newRig(t, admin.WithAuthorize(func(_ context.Context, who admin.Principal, action admin.Action, _ admin.Target) bool {
		mu.Lock()
		defer mu.Unlock()
		if who.Name == "otto" { // and not those that are carried on for anna
			asked[action] = true
		}
		return true
	}))
	document, _ := r.document()
	r.fill()
	r.operation()
	r.run(`insert into graphile_worker.backfill_workers (id, heartbeat_at, running) values ('pool-0123456789abcdef01', now(), '{}')`)
	locked := r.job("'send'")
	r.run("update graphile_worker._private_jobs set locked_by = 'worker-node-2', locked_at = now(), attempts = 1 where id = $1::bigint", locked)
	r.succeeds("POST", "/pauses", adminToken, `{"queue": "q2"}`, nil)
	for path, item := range document.Paths.Map() {
		for method, operation := range item.Operations() {
			name := operation.OperationID
			if name == "index" || name == "describe" || name == "health" || name == "startOperation" || name == "resumeOperation" || name == "listRates" || name == "listAttempts" {
				continue // here there are no rates and attempts to ask about; of the two before TestOperationsOfOthers says it: what they start goes on to ask
			}
			r.letter("send", "{}")
			s := samples[name](r, operatorToken)
			if method == http.MethodGet && !strings.Contains(path, "{") {
				s.path = path // without a filter
			}
			mu.Lock()
			clear(asked)
			mu.Unlock()
			if a := r.ask(method, s.path, operatorToken, s.body); a.StatusCode >= 300 {
				t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
			}
			mu.Lock()
			want := admin.Action(fmt.Sprint(operation.Extensions["x-action"]))
			delete(asked, admin.ActionReadValues)
			change := maps.Clone(asked)
			delete(change, admin.ActionRead)
			switch {
			case want == admin.ActionRead && (!asked[want] || len(change) > 0), want != admin.ActionRead && len(change) == 0, want != admin.ActionRead && want != admin.ActionStop && !change[want]:
				t.Errorf("%s %s takes %s, and asks for %v", method, path, want, asked)
			}
			mu.Unlock()
		}
	}
}

// Without an authenticator there is health, and nothing else, not even by name.
func TestNobodySaidWho(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	document, _ := r.document()
	names := operations(document)
	r.url = r.serve()
	for _, name := range slices.Sorted(maps.Keys(names)) {
		method, _, _ := strings.Cut(names[name], " ")
		path := strings.NewReplacer("{id}", "1", "{name}", "q").Replace(strings.Split(names[name], " ")[1])
		for _, token := range []string{"", adminToken} {
			if name == "health" {
				r.succeeds(method, path, token, "", nil)
				continue
			}
			r.fails(r.request(method, path, token, ""), http.StatusForbidden, "NO_AUTHENTICATOR", "admin.WithCredentials")
		}
	}
	r.fails(r.request("GET", "/nowhere", "", ""), http.StatusForbidden, "NO_AUTHENTICATOR")
}
