package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/backfillhq/go/example/tasks"
	"github.com/backfillhq/go/testutil/pgtest"
)

// The page's port answers Prometheus, with what the queues in the database have.
func TestMetrics(t *testing.T) {
	t.Parallel()
	db, err := openDatabase(t.Context(), pgtest.New(t, pgtest.WithSchema(schema)).URL, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.close(); err != nil {
			t.Error(err)
		}
	}()
	jobs := tasks.NewClient(db.client)
	if _, err := jobs.EnqueuePurgeOutbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	site := newSite(db.pool, jobs, "")
	site.metrics = db.metrics
	answer := httptest.NewRecorder()
	site.handler(t.Context()).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{"backfill_queue_depth{", "backfill_observer_up{", "messaging_client_sent_messages_total{", `"purge_outbox"`} {
		if text := answer.Body.String(); answer.Code != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("%d without %s: %s", answer.Code, want, text)
		}
	}
}
