package programs_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/testutil/pgtest"
)

// mail is a request to the mail API, which answers it when it is told how.
type mail struct {
	*http.Request

	answer chan<- int
}

// newMailAPI is what receipts are sent to: a server that tells of each request.
func newMailAPI(t *testing.T) (url string, requests <-chan mail) {
	t.Helper()
	arrived := make(chan mail, 100)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that r.Context() ends when the job is cancelled
		answer := make(chan int, 1)
		arrived <- mail{r, answer}
		select {
		case code := <-answer:
			w.WriteHeader(code)
		case <-r.Context().Done():
		case <-t.Context().Done():
		}
	}))
	t.Cleanup(api.Close)
	return api.URL, arrived
}

// next waits for a request.
func next(t *testing.T, requests <-chan mail) mail {
	t.Helper()
	select {
	case request := <-requests:
		return request
	case <-time.After(time.Minute):
		t.Fatal("no receipt was sent for a minute")
		return mail{}
	}
}

func startWorker(t *testing.T, db *pgtest.Database, mailURL, drain string) *process {
	t.Helper()
	return start(t, "worker", nil, "DATABASE_URL="+db.URL, "MAIL_URL="+mailURL, "DRAIN_TIMEOUT="+drain).listening(t)
}

// A job is a trace of its own, in which is what it calls, and links to the web request that enqueued
// it. Logs and spans say so.
func TestTraceGoesFromTheRequestToTheMail(t *testing.T) {
	t.Parallel()
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	db, web := newShop(t)
	api, requests := newMailAPI(t)
	web.order(t, "1", "ada@example.com", "Traceparent", "00-"+trace+"-"+parent+"-01")
	worker := startWorker(t, db, api, "1m")
	request := next(t, requests)
	own := strings.Split(request.Header.Get("Traceparent")+"---", "-")[1]
	if len(own) != len(trace) || own == trace {
		t.Errorf("the mail API gets the trace %q", own)
	}
	request.answer <- http.StatusOK
	line := worker.await(t, "job")
	if line["trace_id"] != own || line["task"] != "send_receipt" || line["verdict"] != "completed" {
		t.Errorf("the log has %v", line)
	}
	// The job is counted once its end is recorded, after the handler's line in the log.
	until(t, "the metrics count the job", func() bool {
		code, text := worker.status(t, http.MethodGet, "/debug/vars", "")
		return code == http.StatusOK && strings.Contains(text, `"finished": 1`) &&
			strings.Contains(text, `"Task":"send_receipt"`)
	})
	worker.stop(t)
	web.stop(t)
	for name, spans := range map[string]string{"web": web.spans.String(), "worker": worker.spans.String()} {
		if !strings.Contains(spans, `"TraceID":"`+trace+`"`) {
			t.Errorf("the spans of %s are %s", name, spans)
		}
	}
}

// On SIGTERM the job that runs finishes and is recorded, and those that wait are left to the next
// worker. Meanwhile the platform is told that no more jobs are taken, and that the process lives.
func TestWorkerStopsGracefully(t *testing.T) {
	t.Parallel()
	db, web := newShop(t)
	api, requests := newMailAPI(t)
	worker := startWorker(t, db, api, "1m")
	until(t, "ready", func() bool { return code(t, worker, "/readyz") == http.StatusOK })
	web.order(t, "1", "ada@example.com")
	web.order(t, "2", "ada@example.com") // in the same queue
	request := next(t, requests)
	worker.terminate(t)
	until(t, "not ready", func() bool { return code(t, worker, "/readyz") == http.StatusServiceUnavailable })
	web.order(t, "3", "bob@example.com")
	if got := code(t, worker, "/livez"); got != http.StatusOK {
		t.Errorf("a worker that stops answers its liveness probe with %d", got)
	}
	if got := rows(t, db.Pool(), jobs+" where locked_by is not null"); got != "1" {
		t.Errorf("while it stops, the jobs of the orders %q run", got)
	}
	request.answer <- http.StatusOK
	if code, log := worker.wait(t); code != 0 {
		t.Errorf("exit code %d: %s", code, log)
	}
	if got := rows(t, db.Pool(), jobs+" where attempts = 0 and locked_by is null and last_error is null"); got != "2 3" {
		t.Errorf("jobs of the orders %q wait, untried, want 2 and 3; all are %q", got, rows(t, db.Pool(), jobs))
	}
	second := startWorker(t, db, api, "1m")
	for range 2 {
		next(t, requests).answer <- http.StatusOK
	}
	until(t, "all jobs are done", func() bool { return rows(t, db.Pool(), jobs) == "" })
	second.stop(t)
}

// A job that takes longer than the drain timeout is cancelled and given back. No attempt is
// charged.
func TestWorkerStopsInTime(t *testing.T) {
	t.Parallel()
	db, web := newShop(t)
	api, requests := newMailAPI(t)
	worker := startWorker(t, db, api, "1ms")
	web.order(t, "1", "ada@example.com")
	next(t, requests)
	worker.terminate(t)
	if code, log := worker.wait(t); code != 0 || !strings.Contains(log, "verdict:interrupted") {
		t.Errorf("exit code %d: %s", code, log)
	}
	if got := rows(t, db.Pool(), jobs+" where attempts = 0 and locked_by is null and last_error is null"); got != "1" {
		t.Errorf("the jobs of the orders %q wait, untried", got)
	}
	second := startWorker(t, db, api, "1m")
	next(t, requests).answer <- http.StatusOK
	second.await(t, "job")
	second.stop(t)
	if got := rows(t, db.Pool(), jobs); got != "" {
		t.Errorf("the jobs of the orders %q are left", got)
	}
}

// A worker that cannot start says why.
func TestWorkerSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	for want, env := range map[string][]string{
		"backfill migrate": {"DATABASE_URL=" + pgtest.Empty(t).URL, "DRAIN_TIMEOUT=1s"},
		"DRAIN_TIMEOUT":    {"DATABASE_URL=" + pgtest.Empty(t).URL, "DRAIN_TIMEOUT="},
	} {
		if code, log := start(t, "worker", nil, env...).wait(t); code != 1 || !strings.Contains(log, want) {
			t.Errorf("%q: exit code %d: %s", env, code, log)
		}
	}
}

func code(t *testing.T, p *process, path string) int {
	t.Helper()
	code, _ := p.status(t, http.MethodGet, path, "")
	return code
}
