package backfillotel_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/backfillotel"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/testutil/pgtest"
)

// tracing is a Telemetry whose spans can be read.
type tracing struct {
	*rig

	spans    *tracetest.SpanRecorder
	provider *sdk.TracerProvider
	db       *pgtest.Database
	client   *backfill.Client
}

func newTracing(t *testing.T, options ...sdk.TracerProviderOption) *tracing {
	t.Helper()
	x := &tracing{spans: tracetest.NewSpanRecorder(), db: pgtest.New(t)}
	x.provider = sdk.NewTracerProvider(append(options, sdk.WithSpanProcessor(x.spans))...)
	x.rig = newRig(t, backfillotel.WithTracerProvider(x.provider))
	x.client = newClient(t, x.db, x.Client())
	return x
}

// named returns the spans of this name that have ended, in the order in which they did.
func (x *tracing) named(name string) (list []sdk.ReadOnlySpan) {
	for _, span := range x.spans.Ended() {
		if span.Name() == name {
			list = append(list, span)
		}
	}
	return list
}

// rows counts the trace contexts that are stored.
func (x *tracing) rows() int {
	x.Helper()
	return dbtest.Get[int](x.T, x.db.Pool(), "select count(*)::int from graphile_worker.backfill_traces")
}

// linked are the spans that a span links to, by what the link says it is.
func linked(span sdk.ReadOnlySpan) map[string]trace.SpanID {
	found := map[string]trace.SpanID{}
	for _, link := range span.Links() {
		found[link.Attributes[0].Value.AsString()] = link.SpanContext.SpanID()
	}
	return found
}

func handle(name string, f func(context.Context) error) backfill.Binding {
	return backfill.Handle(&backfill.Task[json.RawMessage]{Name: name}, func(ctx context.Context, _ json.RawMessage) error { return f(ctx) })
}

func nothing(context.Context) error { return nil }

// However a job is enqueued, its run is a root with a link to the enqueue, which is in the caller's
// trace; the args are what was sent.
func TestRunsLinkToTheirEnqueues(t *testing.T) {
	t.Parallel()
	const state = "vendor=4711"
	db := func(t *testing.T, url string) *sql.DB {
		t.Helper()
		opened, err := sql.Open("pgx", url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { opened.Close() })
		return opened
	}
	one := backfill.Request{Task: "a", Args: json.RawMessage(`{"n":1}`)}
	with := func(change func(*backfill.Request)) backfill.Request { r := one; change(&r); return r }
	many := slices.Repeat([]backfill.Request{one}, 20)
	for _, test := range []struct {
		name     string
		requests []backfill.Request
		enqueue  func(ctx context.Context, x *tracing, requests []backfill.Request) error
	}{
		{"directly", []backfill.Request{one}, nil},
		{"many", many, nil},
		{"queued", []backfill.Request{with(func(r *backfill.Request) { r.Queue = "q" }), one}, nil},
		{"keyed", []backfill.Request{with(func(r *backfill.Request) { r.Key = "k" }), with(func(r *backfill.Request) { r.Key, r.KeyMode = "l", backfill.UnsafeDedupe }), one}, nil},
		{"large", slices.Repeat([]backfill.Request{one}, 5001), nil},
		{"InTx", many, func(ctx context.Context, x *tracing, requests []backfill.Request) error {
			return backfill.InTx(ctx, x.client, func(ctx context.Context, _ pgx.Tx) error {
				_, err := backfill.FromContext(ctx).Enqueue(ctx, requests...)
				return err
			})
		}},
		{"WithTx, keyed", []backfill.Request{with(func(r *backfill.Request) { r.Key = "k" })}, func(ctx context.Context, x *tracing, requests []backfill.Request) error {
			return pgx.BeginFunc(ctx, x.db.Pool(), func(tx pgx.Tx) error {
				_, err := x.client.WithTx(tx).Enqueue(ctx, requests...)
				return err
			})
		}},
		{"WithSQLTx", many, func(ctx context.Context, x *tracing, requests []backfill.Request) error {
			tx, err := db(x.T, x.db.URL).BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			if _, err := x.client.WithSQLTx(tx).Enqueue(ctx, requests...); err != nil {
				return errors.Join(err, tx.Rollback())
			}
			return tx.Commit()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			x := newTracing(t)
			remote, err := trace.ParseTraceState(state)
			if err != nil {
				t.Fatal(err)
			}
			ctx := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
				TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: remote,
			}))
			if test.enqueue == nil {
				test.enqueue = func(ctx context.Context, x *tracing, requests []backfill.Request) error {
					_, err := x.client.Enqueue(ctx, requests...)
					return err
				}
			}
			if err := test.enqueue(ctx, x, test.requests); err != nil {
				t.Fatal(err)
			}
			enqueues := x.named("enqueue a")
			if len(enqueues) != 1 || enqueues[0].Parent().TraceID() != (trace.TraceID{1}) || enqueues[0].SpanKind() != trace.SpanKindProducer {
				t.Fatalf("the spans of the enqueue: %v", enqueues)
			}
			if n := x.rows(); n != len(test.requests) {
				t.Errorf("%d trace contexts are stored for %d jobs", n, len(test.requests))
			}
			if got := dbtest.Get[string](t, x.db.Pool(), "select string_agg(distinct payload::text, ' ') from graphile_worker._private_jobs"); got != `{"n":1}` {
				t.Errorf("the args are %s", got)
			}
			if got := dbtest.Get[string](t, x.db.Pool(), "select string_agg(distinct tracestate, ' ') from graphile_worker.backfill_traces"); got != state {
				t.Errorf("the tracestate is %q", got)
			}
			report, err := backfill.RunOnce(ctx, backfill.NewRegistry(handle("a", nothing)), backfill.WithClient(x.client), x.Worker()) // a span is in its context
			if err != nil {
				t.Fatal(err)
			}
			if int(report.Completed) != len(test.requests) {
				t.Fatalf("%+v", report)
			}
			runs := x.named("run a")
			traces := map[trace.TraceID]bool{}
			for _, run := range runs {
				traces[run.SpanContext().TraceID()] = true
				if run.Parent().IsValid() || run.SpanKind() != trace.SpanKindConsumer ||
					!cmp.Equal(linked(run), map[string]trace.SpanID{"enqueue": enqueues[0].SpanContext().SpanID()}) {
					t.Fatalf("a run has the parent %v and the links %v", run.Parent(), run.Links())
				}
			}
			if len(traces) != len(test.requests) {
				t.Errorf("%d runs are %d traces", len(runs), len(traces))
			}
			if n := x.rows(); n != 0 {
				t.Errorf("%d trace contexts are left", n)
			}
		})
	}
}

// Runs of one job link to one another, also if it comes from a program that does not trace, and
// after a snooze.
func TestRetriesAreLinked(t *testing.T) {
	t.Parallel()
	x := newTracing(t)
	plain := newClient(t, x.db)
	runs := map[string]int{}
	work := func(name string) backfill.Binding {
		return handle(name, func(context.Context) error {
			switch runs[name]++; runs[name] {
			case 1:
				return backfill.RetryIn(time.Millisecond, errors.New("once"))
			case 2:
				return backfill.Snooze(time.Millisecond)
			default:
				return nil
			}
		})
	}
	enqueue(t, x.client, backfill.Request{Task: "traced"})
	enqueue(t, plain, backfill.Request{Task: "untraced"})
	registry := backfill.NewRegistry(work("traced"), work("untraced"))
	runOnce(t, plain, registry, x.Worker(), backfill.WithConcurrency(1), backfill.WithScheduled())
	dbtest.Until(t, func() bool { // a job that has snoozed is left to the next run
		runOnce(t, plain, registry, x.Worker(), backfill.WithConcurrency(1), backfill.WithScheduled())
		return runs["traced"] == 3 && runs["untraced"] == 3
	})
	for task, want := range map[string]bool{"traced": true, "untraced": false} {
		spans := x.named("run " + task)
		if len(spans) != 3 {
			t.Fatalf("%s has run %d times", task, len(spans))
		}
		for i, span := range spans {
			links := map[string]trace.SpanID{}
			if want {
				links["enqueue"] = x.named("enqueue traced")[0].SpanContext().SpanID()
			}
			if i > 0 {
				links["previous_run"] = spans[i-1].SpanContext().SpanID()
			}
			if diff := cmp.Diff(links, linked(span)); diff != "" {
				t.Errorf("run %d of %s (-want +got):\n%s", i+1, task, diff)
			}
		}
	}
	if n := x.rows(); n != 0 {
		t.Errorf("%d trace contexts are left", n)
	}
}

// Jobs that enqueue jobs are as many traces as jobs (X150).
func TestAChainIsManyTraces(t *testing.T) {
	t.Parallel()
	x := newTracing(t)
	const length = 500 // 10,000 were 10,000 traces too, in three minutes
	left := length
	chain := handle("chain", func(ctx context.Context) error {
		if left--; left == 0 {
			return nil
		}
		_, err := backfill.FromContext(ctx).Enqueue(ctx, backfill.Request{Task: "chain"})
		return err
	})
	enqueue(t, x.client, backfill.Request{Task: "chain"})
	report := runOnce(t, x.client, backfill.NewRegistry(chain), x.Worker(), backfill.WithConcurrency(1))
	traces := map[trace.TraceID]int{}
	for _, span := range x.spans.Ended() {
		traces[span.SpanContext().TraceID()]++
	}
	largest := 0
	for _, n := range traces {
		largest = max(largest, n)
	}
	if report.Completed != length || len(traces) != length+1 || largest != 2 { // a run and its enqueue
		t.Errorf("%d jobs made %d traces, the largest of %d spans", report.Completed, len(traces), largest)
	}
	if n := x.rows(); n != 0 {
		t.Errorf("%d trace contexts are left", n)
	}
}

// A key that is enqueued again links to the last enqueue, unless the job was to stay as it is.
func TestKeysKeepTheContextOfTheirJob(t *testing.T) {
	t.Parallel()
	x := newTracing(t)
	enqueue(t, x.client, backfill.Request{Task: "a", Key: "replaced"}, backfill.Request{Task: "b", Key: "kept"})
	enqueue(t, x.client, backfill.Request{Task: "a", Key: "replaced"})
	enqueue(t, x.client, backfill.Request{Task: "b", Key: "kept", KeyMode: backfill.UnsafeDedupe})
	runOnce(t, x.client, backfill.NewRegistry(handle("a", nothing), handle("b", nothing)), x.Worker())
	for task, want := range map[string]trace.SpanID{
		"run a": x.named("enqueue a")[0].SpanContext().SpanID(), "run b": x.named("enqueue")[0].SpanContext().SpanID(),
	} {
		if got := linked(x.named(task)[0])["enqueue"]; got != want {
			t.Errorf("%s links to %s, want %s", task, got, want)
		}
	}
}

// What is not sampled, or not traced at all, stores nothing and asks for nothing.
func TestNothingIsStoredWithoutTraces(t *testing.T) {
	t.Parallel()
	x := newTracing(t, sdk.WithSampler(sdk.NeverSample()))
	enqueue(t, x.client, backfill.Request{Task: "a"})
	if n := x.rows(); n != 0 {
		t.Errorf("%d trace contexts of an enqueue that is not sampled", n)
	}
	var sent []string
	note := backfill.WithStatementObserver(func(s backfill.Statement) { sent = append(sent, s.Name) })
	off := newRig(t, backfillotel.WithoutTraces())
	runOnce(t, x.client, backfill.NewRegistry(handle("a", nothing)), off.Worker(), note, backfill.WithConcurrency(1))
	for _, name := range sent {
		if strings.Contains(name, "Trace") || name == "NoteRuns" {
			t.Errorf("a worker that does not trace has sent %s", name)
		}
	}
	if len(sent) == 0 {
		t.Error("no statement was seen")
	}
}

// Telemetry is never in the way: without the table, or the right to it, jobs are enqueued and run.
func TestJobsRunWithoutTheTable(t *testing.T) {
	t.Parallel()
	x := newTracing(t)
	admin := dbtest.Connect(t, x.db.URL)
	enqueue(t, x.client, backfill.Request{Task: "a"})
	dbtest.Run(t, admin, "alter table graphile_worker.backfill_traces rename to hidden_traces")
	report := runOnce(t, x.client, backfill.NewRegistry(handle("a", func(context.Context) error { return backfill.Permanent(errors.New("no")) })), x.Worker())
	if report.Failed != 1 {
		t.Errorf("%+v", report)
	}
}

// Nor is it for a role that may not write trace contexts.
func TestRolesThatMayNotTrace(t *testing.T) {
	t.Parallel()
	x := newTracing(t)
	admin := dbtest.Connect(t, x.db.URL)
	role := dbtest.NewRole(t, admin)
	name := strings.ReplaceAll(strings.Trim(role, `"`), `""`, `"`)
	if _, err := schema.GrantRole(t.Context(), admin, name, schema.WorkerRole, schema.Options{Schema: "graphile_worker"}); err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, admin, "revoke all on graphile_worker.backfill_traces from "+role)
	config, err := pgxpool.ParseConfig(x.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "set role "+role)
		return err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	client, err := backfill.NewClient(t.Context(), pool, backfill.WithMigrations(backfill.MigrateVerify), x.Client())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	enqueue(t, client, backfill.Request{Task: "a"}, backfill.Request{Task: "a", Key: "k"})
	report := runOnce(t, client, backfill.NewRegistry(handle("a", nothing)), x.Worker())
	if report.Completed != 2 || x.rows() != 0 {
		t.Errorf("%+v, and %d trace contexts", report, x.rows())
	}
}

// A job that somebody else ends leaves a row, which upkeep deletes; a dead letter keeps its own.
func TestUpkeepDropsWhatIsLeft(t *testing.T) {
	t.Parallel()
	x := newTracing(t)
	jobs := enqueue(t, x.client, slices.Repeat([]backfill.Request{{Task: "a", MaxAttempts: 1}}, 4)...)
	dbtest.Run(t, x.db.Pool(), "delete from graphile_worker._private_jobs where id = $1", jobs[0].ID)
	registry := backfill.NewRegistry(handle("a", func(ctx context.Context) error {
		switch backfill.JobInfo(ctx).ID {
		case jobs[1].ID:
			return errors.New("no")
		case jobs[2].ID:
			return backfill.Snooze(time.Hour)
		}
		return nil
	}))
	runOnce(t, x.client, registry, backfill.WithConcurrency(1)) // which does not trace, and sweeps nothing
	if n := x.rows(); n != 4 {
		t.Fatalf("%d trace contexts, want 4", n)
	}
	worker, err := x.client.NewWorker(registry)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()
	want := fmt.Sprint([]int64{jobs[1].ID, jobs[2].ID})
	left := func() string {
		return fmt.Sprint(dbtest.Get[[]int64](t, x.db.Pool(), "select array_agg(job_id order by job_id) from graphile_worker.backfill_traces"))
	}
	dbtest.Until(t, func() bool { return left() == want })
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
