// Package telemetry sets up logs and traces, for the web server and the worker.
package telemetry

import (
	"context"
	"log/slog"
	"os"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/backfillhq/go/backfill/backfillotel"
)

// Start makes logs and traces what the rest of the program uses, and returns what clients and
// workers are given. Logs go to stderr, and spans to
// stdout: put otlptracehttp.New(ctx) in the place of stdouttrace.New() to send them to a collector.
// Call stop at the end of the program: it writes the spans that are left.
func Start() (jobs *backfillotel.Telemetry, stop func(context.Context) error, err error) {
	exporter, err := stdouttrace.New()
	if err != nil {
		return nil, nil, err
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	slog.SetDefault(slog.New(logHandler{slog.NewJSONHandler(os.Stderr, nil)}))
	jobs, err = backfillotel.New(backfillotel.WithoutMetrics()) // this program has expvar's
	return jobs, provider.Shutdown, err
}

// logHandler adds the trace of the context to each line.
type logHandler struct{ slog.Handler }

func (h logHandler) Handle(ctx context.Context, record slog.Record) error {
	if span := oteltrace.SpanContextFromContext(ctx); span.IsValid() {
		record.AddAttrs(slog.String("trace_id", span.TraceID().String()))
	}
	return h.Handler.Handle(ctx, record)
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(attrs)}
}

func (h logHandler) WithGroup(name string) slog.Handler { return logHandler{h.Handler.WithGroup(name)} }
