package telemetry_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/programs/telemetry"
	"github.com/backfillhq/go/testutil/pgtest"
)

type args struct{ UserID int64 }

// A handler, and the handler of the job that it enqueues, are in the trace of the request that
// enqueued the first one, in a transaction.
func TestTraceGoesThroughJobs(t *testing.T) { //nolint:paralleltest // sets what is global to OpenTelemetry
	otel.SetTextMapPropagator(propagation.TraceContext{})
	otel.SetTracerProvider(trace.NewTracerProvider())
	client, err := backfill.NewClient(t.Context(), pgtest.New(t).Pool(), backfill.WithEnqueueMiddleware(telemetry.EnqueueTrace))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	first, second := &backfill.Task[args]{Name: "first"}, &backfill.Task[args]{Name: "second"}
	many := &backfill.Task[[]args]{Name: "many"}
	seen := map[string]oteltrace.SpanContext{}
	see := func(ctx context.Context, a int64) {
		if a != 7 {
			t.Errorf("the args are %d", a)
		}
		seen[backfill.JobInfo(ctx).Task] = oteltrace.SpanContextFromContext(ctx)
	}
	registry := backfill.NewRegistry(
		backfill.Handle(first, func(ctx context.Context, a args) error {
			see(ctx, a.UserID)
			_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), second, a)
			return err
		}),
		backfill.Handle(second, func(ctx context.Context, a args) error { see(ctx, a.UserID); return nil }),
		backfill.Handle(many, func(ctx context.Context, a []args) error { see(ctx, a[0].UserID); return nil }),
	)
	ctx, span := otel.Tracer("web").Start(t.Context(), "request")
	err = backfill.InTx(ctx, client, func(ctx context.Context, _ pgx.Tx) error {
		_, err := backfill.FromContext(ctx).Enqueue(ctx, first.Request(args{7}), many.Request([]args{{7}}))
		return err
	})
	span.End()
	if err != nil {
		t.Fatal(err)
	}
	report, err := backfill.RunOnce(t.Context(), registry, backfill.WithClient(client), backfill.WithMiddleware(telemetry.WorkTrace), backfill.WithConcurrency(1))
	if err != nil || report.Completed != 3 {
		t.Fatalf("%+v, %v", report, err)
	}
	request := span.SpanContext()
	for task, want := range map[string]bool{"first": true, "second": true, "many": false} { // an array has no room for it
		got := seen[task]
		if (got.TraceID() == request.TraceID()) != want || !got.IsValid() || got.SpanID() == request.SpanID() {
			t.Errorf("%s: trace %s, want that of the request, %s: %v", task, got.TraceID(), request.TraceID(), want)
		}
	}
}

// The recipe of the page is what is tested here.
func TestRecipeOfTraces(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/enqueuing.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("trace.go")
	if err != nil {
		t.Fatal(err)
	}
	_, recipe, found := strings.Cut(string(source), "// EnqueueTrace")
	if !found || !strings.Contains(string(page), "```go\n// EnqueueTrace"+recipe+"```") {
		t.Error("docs/enqueuing.md does not show the functions of trace.go")
	}
}
