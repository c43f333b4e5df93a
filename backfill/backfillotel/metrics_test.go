package backfillotel_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Each outcome of a run is counted once, under its own name.
func TestOutcomesAreCounted(t *testing.T) {
	t.Parallel()
	r, db := newRig(t), pgtest.New(t)
	client := newClient(t, db, r.Client())
	end := func(name string, err error) backfill.Binding {
		return backfill.Handle(&backfill.Task[struct{}]{Name: name}, func(context.Context, struct{}) error { return err })
	}
	registry := backfill.NewRegistry(
		end("fine", nil), end("fails", errors.New("postgres://u:hunter2@h/d")), end("hopeless", backfill.Permanent(errors.New("no"))),
		end("waits", backfill.Snooze(time.Hour)),
		backfill.Handle(&backfill.Task[struct{}]{Name: "panics"}, func(context.Context, struct{}) error { panic("oh") }),
	)
	enqueue(t, client,
		backfill.Request{Task: "fine"}, backfill.Request{Task: "fine", Queue: "q", Priority: -20}, backfill.Request{Task: "fails"},
		backfill.Request{Task: "fails", MaxAttempts: 1}, backfill.Request{Task: "hopeless"}, backfill.Request{Task: "waits"}, backfill.Request{Task: "panics"},
		backfill.Request{Task: "fine", Key: "k"}, backfill.Request{Task: "fine", Key: "k"})
	runOnce(t, client, registry, r.Worker())
	if _, err := client.Enqueue(t.Context(), backfill.Request{Task: ""}); err == nil {
		t.Fatal("a request without a task was taken")
	}

	got := r.numbers()
	if n, there := got["backfill.database.errors source=claim"]; n != 0 || !there {
		t.Errorf("errors of claims: %v, %v; want 0 before there is one, for rates", n, there)
	}
	want := map[string]float64{
		"backfill.job.finished name=fine outcome=completed":                                     3,
		"backfill.job.finished name=fails outcome=retried type=_OTHER":                          1,
		"backfill.job.finished name=fails outcome=failed type=_OTHER":                           1,
		"backfill.job.finished name=hopeless outcome=failed type=_OTHER":                        1,
		"backfill.job.finished name=waits outcome=snoozed":                                      1,
		"backfill.job.finished name=panics outcome=retried type=panic":                          1,
		"backfill.job.retries name=fails":                                                       1,
		"backfill.job.retries name=panics":                                                      1,
		"backfill.job.exhausted name=fails reason=exhausted":                                    1,
		"backfill.job.exhausted name=hopeless reason=permanent":                                 1,
		"backfill.dead_letter.added name=fails reason=exhausted":                                1,
		"backfill.dead_letter.added name=hopeless reason=permanent":                             1,
		"backfill.job.merged name=fine":                                                         1,
		"messaging.client.consumed.messages name=fine name=run":                                 3,
		"messaging.process.duration name=fine name=run outcome=completed":                       3,
		"backfill.job.wait name=fine":                                                           3,
		"messaging.client.sent.messages name=fine name=enqueue kind=serial band=emergency":      1,
		"messaging.client.sent.messages name=fine name=enqueue kind=parallel band=bulk_default": 3,
		"messaging.client.operation.duration name=enqueue type=send":                            1,
	}
	for name, n := range want {
		if !has(got, name, n) {
			t.Errorf("%s: want %v", name, n)
		}
	}
	if t.Failed() {
		t.Log(cmp.Diff(nil, got))
	}
}

// has reports whether a series of this name, with these attributes in whatever order and perhaps
// others, has a value.
func has(got map[string]float64, name string, want float64) bool {
	words := strings.Fields(name)
	for series, n := range got {
		have := strings.Fields(series)
		if have[0] == words[0] && n == want && !slices.ContainsFunc(words[1:], func(w string) bool { return !slices.Contains(have, w) }) {
			return true
		}
	}
	return false
}

// What the conventions have a name for has that name and unit, and histograms have the buckets that
// were promised.
func TestNamesAreThoseOfTheConventions(t *testing.T) {
	t.Parallel()
	r, db := newRig(t), pgtest.New(t)
	client := newClient(t, db, r.Client())
	registry := backfill.NewRegistry(backfill.Handle(&backfill.Task[struct{}]{Name: "a"}, func(context.Context, struct{}) error { return nil }))
	enqueue(t, client, backfill.Request{Task: "a"})
	runOnce(t, client, registry, r.Worker())
	units := map[string]string{}
	bounds := map[string][]float64{}
	for _, scope := range r.collect().ScopeMetrics {
		for _, m := range scope.Metrics {
			units[m.Name] = m.Unit
			if data, ok := m.Data.(metricdata.Histogram[float64]); ok {
				bounds[m.Name] = data.DataPoints[0].Bounds
			}
			if m.Description == "" {
				t.Errorf("%s has no description", m.Name)
			}
		}
	}
	for name, unit := range map[string]string{
		messagingconv.ClientSentMessages{}.Name():      messagingconv.ClientSentMessages{}.Unit(),
		messagingconv.ClientConsumedMessages{}.Name():  messagingconv.ClientConsumedMessages{}.Unit(),
		messagingconv.ClientOperationDuration{}.Name(): messagingconv.ClientOperationDuration{}.Unit(),
		messagingconv.ProcessDuration{}.Name():         messagingconv.ProcessDuration{}.Unit(),
	} {
		if got, ok := units[name]; !ok || got != unit {
			t.Errorf("%s: unit %q (%v), want %q", name, got, ok, unit)
		}
	}
	if diff := cmp.Diff([]float64{.01, .05, .1, .5, 1, 2.5, 5, 10, 30, 60, 300, 600}, bounds["messaging.process.duration"]); diff != "" {
		t.Errorf("buckets of runs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]float64{.1, .5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600}, bounds["backfill.job.wait"]); diff != "" {
		t.Errorf("buckets of waits (-want +got):\n%s", diff)
	}
	for name := range units {
		if !strings.HasPrefix(name, "messaging.") && !strings.HasPrefix(name, "backfill.") {
			t.Errorf("%s is neither of the conventions nor ours", name)
		}
	}
}

// A worker tells the names of its statements, and the gauges of a process are there as long as a
// worker runs in it.
func TestWorkersAndStatements(t *testing.T) {
	t.Parallel()
	r, db := newRig(t), pgtest.New(t)
	client := newClient(t, db)
	release := make(chan struct{})
	registry := backfill.NewRegistry(backfill.Handle(&backfill.Task[struct{}]{Name: "a"}, func(context.Context, struct{}) error { <-release; return nil }))
	if got := r.numbers(); has(got, "backfill.worker.running", 1) {
		t.Error("a worker runs before there is one")
	}
	worker, err := client.NewWorker(registry, r.Worker(), backfill.WithConcurrency(3))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()
	enqueue(t, client, backfill.Request{Task: "a"}, backfill.Request{Task: "a"})
	dbtest.Until(t, func() bool {
		got := r.numbers()
		return got["backfill.worker.slots.used"] == 2 && got["backfill.worker.slots"] == 3 && got["backfill.worker.running"] == 1
	})
	close(release)
	dbtest.Until(t, func() bool {
		got := r.numbers()
		return got["backfill.worker.slots.used"] == 0 && has(got, "backfill.job.finished name=a outcome=completed", 2)
	})
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	got := r.numbers()
	for name := range got {
		if strings.HasPrefix(name, "backfill.worker.slots") || strings.HasPrefix(name, "backfill.worker.heartbeat") || name == "backfill.worker.running" {
			t.Errorf("%s is there although no worker runs", name)
		}
	}
	for _, statement := range []string{"CompleteJobs", "InsertWorker", "RetireWorker"} {
		if _, ok := got["backfill.statement.duration statement="+statement]; !ok {
			t.Errorf("no duration of %s", statement)
		}
	}
}

// attributes are the keys that metrics may have.
var attributes = []attribute.Key{
	"messaging.system", "messaging.destination.name", "messaging.operation.name", "messaging.operation.type", "error.type", "backfill.outcome",
	"backfill.reason", "backfill.statement", "backfill.priority.band", "backfill.queue.kind", "backfill.state", "backfill.source",
}

// Whatever tasks, queues, keys and errors there are: the attributes are those of the list, and the
// series are 2,000 at most (X146).
func FuzzSeries(f *testing.F) {
	f.Add("task", "queue-4711", "secret", uint8(3))
	f.Add("other", "", "backfill", uint8(1))
	f.Add("\x00\xff", "q", "{}", uint8(9))
	f.Fuzz(func(t *testing.T, task, queue, text string, many uint8) {
		r := newRig(t)
		feed(r, task, queue, text, 1+int(many)*20)
		all := r.collect()
		series := 0
		for _, scope := range all.ScopeMetrics {
			for _, m := range scope.Metrics {
				eachPoint(m, func(set attribute.Set, _ float64) {
					series++
					for _, pair := range set.ToSlice() {
						if !slices.Contains(attributes, pair.Key) {
							t.Errorf("%s has the attribute %s", m.Name, pair.Key)
						}
						if value := pair.Value.AsString(); queue != "" && strings.Contains(value, "queue:"+queue) || strings.Contains(value, "text:") ||
							strings.Contains(value, "4711") && pair.Key != "messaging.destination.name" {
							t.Errorf("%s has %s = %q", m.Name, pair.Key, value)
						}
					}
				})
			}
		}
		if series > 2000 {
			t.Errorf("there are %d series", series)
		}
	})
}

// Tasks beyond the bound are counted together, and none is lost.
func TestManyTasks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const tasks = 3000
	feed(r, "t", "q", "x", tasks)
	started, others, series := 0.0, 0.0, 0
	for name, n := range r.numbers() {
		series++
		if strings.HasPrefix(name, "messaging.client.consumed.messages") {
			started += n
			if strings.Contains(name, "name=other") {
				others += n
			}
		}
	}
	if started != tasks || others == 0 || series > 2000 {
		t.Errorf("%v runs were counted, of which %v as other, in %d series; want %d", started, others, series, tasks)
	}
}
