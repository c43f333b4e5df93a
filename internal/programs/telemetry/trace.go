package telemetry

import (
	"context"
	"encoding/json"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/backfillhq/go/backfill"
)

// EnqueueTrace adds the trace of ctx to the args of each job: to objects, as the member "_trace".
// Handlers in other languages see it and ignore it, as they do every member they do not know.
func EnqueueTrace(next backfill.EnqueueFunc) backfill.EnqueueFunc {
	return func(ctx context.Context, requests []backfill.Request) ([]*backfill.Job, error) {
		carrier := propagation.MapCarrier{}
		otel.GetTextMapPropagator().Inject(ctx, carrier)
		trace, _ := json.Marshal(carrier) // cannot fail for a map of strings
		for i := range requests {
			var args map[string]json.RawMessage
			if len(carrier) == 0 || json.Unmarshal(requests[i].Args, &args) != nil || args == nil {
				continue // there is no trace, or the args are no object
			}
			args["_trace"] = trace
			requests[i].Args, _ = json.Marshal(args) // nor for values that were decoded
		}
		return next(ctx, requests)
	}
}

// WorkTrace makes a job's handler continue the trace that enqueued it.
func WorkTrace(next backfill.HandlerFunc) backfill.HandlerFunc {
	return func(ctx context.Context, job *backfill.Job) error {
		var args struct {
			Trace propagation.MapCarrier `json:"_trace"`
		}
		if json.Unmarshal(job.Args, &args) == nil { // otherwise they are no object
			ctx = otel.GetTextMapPropagator().Extract(ctx, args.Trace)
		}
		ctx, span := otel.Tracer("jobs").Start(ctx, job.Task)
		defer span.End()
		return next(ctx, job)
	}
}
