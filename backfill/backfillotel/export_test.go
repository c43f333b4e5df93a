package backfillotel

import "github.com/backfillhq/go/backfill"

// Event and Statement feed the metrics as a worker does.
func (t *Telemetry) Event(e backfill.Event) { t.metrics.event(e) }

// Statement is the same for a statement.
func (t *Telemetry) Statement(s backfill.Statement) { t.metrics.statement(s) }

// Enqueued wraps an enqueue.
func (t *Telemetry) Enqueued(next backfill.EnqueueFunc) backfill.EnqueueFunc { return t.enqueue(next) }
