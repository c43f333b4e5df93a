package backfillotel

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/backfillhq/go/backfill"
)

// enqueue is a backfill.EnqueueMiddleware.
func (t *Telemetry) enqueue(next backfill.EnqueueFunc) backfill.EnqueueFunc {
	return func(ctx context.Context, requests []backfill.Request) ([]*backfill.Job, error) {
		began := time.Now()
		var span trace.Span
		if !t.config.withoutTraces {
			ctx, span = t.startEnqueue(ctx, requests)
			defer span.End() // also when next panics
		}
		jobs, err := next(ctx, requests)
		if span != nil && span.IsRecording() {
			endEnqueue(span, jobs, err)
		}
		if t.metrics != nil {
			t.metrics.enqueued(requests, jobs, err, time.Since(began))
		}
		return jobs, err
	}
}

// startEnqueue begins the span of an enqueue, and notes it in the requests. One that is not sampled
// is not noted: a link to it would lead nowhere.
func (t *Telemetry) startEnqueue(ctx context.Context, requests []backfill.Request) (context.Context, trace.Span) {
	task := requests[0].Task
	for i := range requests {
		if requests[i].Task != task {
			task = ""
		}
	}
	name, attributes := "enqueue", []attribute.KeyValue{
		attrSystem.String(system), attrOperation.String("enqueue"), attrOperationType.String("send"),
	}
	if task != "" {
		name += " " + task
		attributes = append(attributes, attrTask.String(task))
	}
	if len(requests) > 1 {
		attributes = append(attributes, attribute.Int("messaging.batch.message_count", len(requests)))
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attributes...))
	if at := span.SpanContext(); at.IsSampled() && at.IsValid() {
		parent, state := format(at)
		for i := range requests {
			if requests[i].Trace.Parent == "" {
				requests[i].Trace.Parent, requests[i].Trace.State = parent, state
			}
		}
	}
	return ctx, span
}

func endEnqueue(span trace.Span, jobs []*backfill.Job, err error) {
	if err != nil {
		span.SetAttributes(attrErrorType.String(errorType(err)))
		span.SetStatus(codes.Error, errorType(err))
		return
	}
	if len(jobs) == 1 {
		span.SetAttributes(messageID(jobs[0]))
	}
}

// enqueued counts jobs. The jobs of one call are mostly alike, so neighbours are counted at once.
func (m *instruments) enqueued(requests []backfill.Request, jobs []*backfill.Job, err error, took time.Duration) {
	failed := errorType(err)
	m.seconds(m.operation, took, labels{instrument: "operation", operation: "enqueue", operationType: "send", errorType: failed})
	of := func(r *backfill.Request) labels {
		kind := "parallel"
		if r.Queue != "" {
			kind = "serial"
		}
		return labels{instrument: "sent", task: r.Task, operation: "enqueue", queueKind: kind, band: band(r.Priority), errorType: failed}
	}
	count, like := 0, labels{}
	for i := range requests {
		l := of(&requests[i])
		if l != like && count > 0 {
			m.add(m.sent, count, like)
			count = 0
		}
		count, like = count+1, l
	}
	m.add(m.sent, count, like)
	if err != nil {
		return
	}
	seen := map[*backfill.Job]bool{} // requests of a call with one key share their job
	for _, job := range jobs {
		if job.Revision > 0 && !seen[job] {
			seen[job] = true
			m.add(m.again, 1, labels{instrument: "merged", task: job.Task})
		}
	}
}
