package backfillotel

import (
	"context"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/backfillhq/go/backfill"
)

// run is a backfill.Middleware. A run is the root of its own trace, so that jobs that enqueue jobs
// make no trace without end. It links to the span that enqueued the job, and to the run before.
func (t *Telemetry) run(next backfill.HandlerFunc) backfill.HandlerFunc {
	return func(ctx context.Context, job *backfill.Job) error {
		ctx, span := t.tracer.Start(ctx, "run "+job.Task, trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindConsumer),
			trace.WithLinks(links(job.Trace)...), trace.WithAttributes(
				attrSystem.String(system), attrOperation.String("run"), attrOperationType.String("process"), attrTask.String(job.Task),
				messageID(job), attribute.Int("backfill.attempt", job.Attempt),
			))
		defer span.End() // also when the handler ends its goroutine
		if at := span.SpanContext(); at.IsSampled() && at.IsValid() {
			job.Trace.Run, _ = format(at)
		}
		err := next(ctx, job)
		if !span.IsRecording() {
			return err
		}
		verdict := backfill.VerdictOf(ctx, err)
		span.SetAttributes(attrOutcome.String(string(verdict.Kind)))
		switch verdict.Kind {
		case backfill.VerdictRetry, backfill.VerdictRetryIn, backfill.VerdictPermanent:
			span.SetAttributes(attrErrorType.String(errorType(err)))
			span.SetStatus(codes.Error, errorType(err)) // an error's text can hold what no span should
		default:
		}
		return err
	}
}

func messageID(job *backfill.Job) attribute.KeyValue {
	return attribute.String("messaging.message.id", strconv.FormatInt(job.ID, 10))
}

// links are those of a run.
func links(t backfill.TraceContext) (list []trace.Link) {
	if at := parse(t.Parent, t.State); at.IsValid() {
		list = append(list, trace.Link{SpanContext: at, Attributes: []attribute.KeyValue{attribute.String("backfill.link", "enqueue")}})
	}
	if at := parse(t.Run, ""); at.IsValid() {
		list = append(list, trace.Link{SpanContext: at, Attributes: []attribute.KeyValue{attribute.String("backfill.link", "previous_run")}})
	}
	return list
}

// maxState is the longest tracestate that a job keeps; a longer one is left out.
const maxState = 512

// format writes a span context as W3C's headers have it.
func format(at trace.SpanContext) (parent, state string) {
	if state = at.TraceState().String(); len(state) > maxState {
		state = ""
	}
	return "00-" + at.TraceID().String() + "-" + at.SpanID().String() + "-" + (at.TraceFlags() & trace.FlagsSampled).String(), state
}

// parse reads it again; the zero context if it is none.
func parse(parent, state string) trace.SpanContext {
	if parent == "" {
		return trace.SpanContext{}
	}
	carrier := propagation.MapCarrier{"traceparent": parent, "tracestate": state}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier))
}
