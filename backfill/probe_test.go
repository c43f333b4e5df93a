package backfill_test

import (
	"context"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// ask returns what a platform gets to hear.
func ask(t *testing.T, handler http.Handler) (code int, text string) {
	t.Helper()
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	if got := answer.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("the answer may be cached: %q", got)
	}
	return answer.Code, answer.Body.String()
}

func wantProbes(t *testing.T, probes *backfill.Probes, live, ready int, reason string) {
	t.Helper()
	if code, text := ask(t, probes.Live()); code != live {
		t.Errorf("live: %d %s, want %d", code, text, live)
	}
	if code, text := ask(t, probes.Ready()); code != ready || !strings.Contains(text, reason) {
		t.Errorf("ready: %d %s, want %d with %q", code, text, ready, reason)
	}
}

// The probes of a worker that the short form makes, through its whole life.
func TestProbes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	var probes backfill.Probes
	wantProbes(t, &probes, 200, 503, "there is no worker yet")
	entered, release := make(chan bool), make(chan bool)
	task, registry := taskOf("send_email", func(context.Context, mailArgs) error {
		entered <- true
		<-release
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	claimed, failed := make(chan bool, 1000), make(chan bool, 1000)
	to := map[backfill.EventKind]chan bool{
		backfill.EventClaimed: claimed, backfill.EventClaimError: failed,
	}
	begun := make(chan bool)
	observe := func(e backfill.Event) {
		if e.Kind == backfill.EventStarted {
			code, text := ask(t, probes.Ready())
			if code != 200 {
				t.Errorf("before the first claim: %d %s", code, text)
			}
			close(begun)
		}
		if c := to[e.Kind]; c != nil {
			c <- true
		}
	}
	ended := make(chan error)
	go func() {
		ended <- backfill.Run(ctx, registry, backfill.WithClient(client), backfill.WithConcurrency(1), backfill.WithLogger(quiet),
			backfill.WithProbes(&probes), backfill.WithObserver(func(backfill.Event) {}), backfill.WithObserver(observe))
	}()
	receive(t, "the start", begun)
	receive(t, "a claim", claimed)
	wantProbes(t, &probes, 200, 200, "ok")

	if _, err := db.Pool().Exec(t.Context(), "alter table graphile_worker._private_jobs rename to elsewhere"); err != nil {
		t.Fatal(err)
	}
	receive(t, "a failed claim", failed)
	until(t, "unready probes", func() bool { code, _ := ask(t, probes.Ready()); return code == 503 })
	wantProbes(t, &probes, 200, 503, "claims have failed")
	if _, err := db.Pool().Exec(t.Context(), "alter table graphile_worker.elsewhere rename to _private_jobs"); err != nil {
		t.Fatal(err)
	}
	until(t, "ready probes", func() bool { code, _ := ask(t, probes.Ready()); return code == 200 })

	enqueue(t, client, task, mailArgs{})
	receive(t, "the handler", entered)
	wantProbes(t, &probes, 200, 200, "ok") // full, and ready
	cancel()
	until(t, "the drain", func() bool { code, _ := ask(t, probes.Ready()); return code == 503 })
	wantProbes(t, &probes, 200, 503, "draining")
	close(release)
	if err := receive(t, "the end of Run", ended); err != nil {
		t.Error(err)
	}
	wantProbes(t, &probes, 503, 503, "the worker has stopped")

	newWorker(t, client, registry, backfill.WithProbes(&probes)) // in place of the one that has stopped
	wantProbes(t, &probes, 200, 503, "the worker has not started")
	_, err := client.NewWorker(registry, backfill.WithProbes(nil))
	wantError(t, err, "WithProbes: the probes are nil")
}

// Probes that several workers share answer for all of them, and so do those that a worker has beside
// others.
func TestProbesOfSeveralWorkers(t *testing.T) {
	t.Parallel()
	client := newClient(t, pgtest.New(t))
	_, registry := taskOf("send_email", ignore)
	var shared, own backfill.Probes
	first := start(t, client, registry, backfill.WithProbes(&shared), backfill.WithProbes(&own))
	wantProbes(t, &own, 200, 200, "ok")
	wantProbes(t, &shared, 200, 200, "ok")
	newWorker(t, client, registry, backfill.WithProbes(&shared))
	wantProbes(t, &shared, 200, 503, "the worker has not started")

	var pair backfill.Probes
	start(t, client, registry, backfill.WithProbes(&pair))
	second := start(t, client, registry, backfill.WithProbes(&pair))
	wantProbes(t, &pair, 200, 200, "ok")
	for _, worker := range []*running{second, first} {
		if err := worker.stop(); err != nil {
			t.Error(err)
		}
	}
	wantProbes(t, &pair, 503, 503, "the worker has stopped")
	wantProbes(t, &own, 503, 503, "the worker has stopped")
}

// Every event goes to every observer, also if another one panics.
func TestSeveralObservers(t *testing.T) {
	t.Parallel()
	client := newClient(t, pgtest.New(t))
	task, registry := taskOf("send_email", ignore)
	enqueue(t, client, task, mailArgs{})
	var first, last logOfEvents
	runOnce(t, client, registry, backfill.WithObserver(first.observe), backfill.WithObserver(func(backfill.Event) { panic("no") }),
		backfill.WithObserver(last.observe))
	for name, events := range map[string]*logOfEvents{"first": &first, "last": &last} {
		if n := events.count(backfill.EventFinished); n != 1 {
			t.Errorf("the %s observer saw %d jobs end", name, n)
		}
	}
}

// A process with probes, and the short form of a worker.
func ExampleProbes() {
	var probes backfill.Probes
	mux := http.NewServeMux()
	mux.Handle("/livez", probes.Live())
	mux.Handle("/readyz", probes.Ready())
	go func() { log.Print(http.ListenAndServe(":8080", mux)) }() //nolint:gosec // behind the platform

	registry := backfill.NewRegistry(backfill.Handle(TaskWelcome, Welcome))
	if err := backfill.Run(context.Background(), registry, backfill.WithProbes(&probes)); err != nil {
		log.Print(err)
	}
}
