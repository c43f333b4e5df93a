package backfillotel

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/backfillhq/go/backfill"
)

// instruments are those that events, statements and enqueues feed.
type instruments struct {
	series series

	sent, consumed                                   metric.Int64Counter
	operation, process                               metric.Float64Histogram // of messaging
	wait                                             metric.Float64Histogram
	finished, retried, exhausted, again              metric.Int64Counter
	letters, expired                                 metric.Int64Counter
	lost, rescued, reclaimed, suspected, deaths, own metric.Int64Counter
	claimSize                                        metric.Int64Histogram
	polls, wakes, ticks, swept                       metric.Int64Counter
	statements                                       metric.Float64Histogram
	errors                                           metric.Int64Counter
}

// The bounds of histograms, in seconds, and of claims in jobs.
var (
	runBounds       = []float64{.01, .05, .1, .5, 1, 2.5, 5, 10, 30, 60, 300, 600}
	waitBounds      = []float64{.1, .5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600}
	operationBounds = []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10} // of the conventions
	statementBounds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	claimBounds     = []float64{0, 1, 2, 5, 10, 25, 50, 100, 250, 500}
)

func newInstruments(meter metric.Meter) (*instruments, error) {
	m := &instruments{series: series{known: map[labels]*options{}}}
	var problems []error
	counter := func(name, unit, description string) metric.Int64Counter {
		made, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
		problems = append(problems, err)
		return made
	}
	seconds := func(name, description string, bounds []float64) metric.Float64Histogram {
		made, err := meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description),
			metric.WithExplicitBucketBoundaries(bounds...))
		problems = append(problems, err)
		return made
	}
	m.sent = counter("messaging.client.sent.messages", "{message}", "Jobs that were to be enqueued, by task; with error.type, those that were not, or perhaps.")
	m.consumed = counter("messaging.client.consumed.messages", "{message}", "Runs of jobs that were started.")
	m.operation = seconds("messaging.client.operation.duration", "How long enqueues and claims took.", operationBounds)
	m.process = seconds("messaging.process.duration", "How long handlers ran, by how the run ended.", runBounds)
	m.wait = seconds("backfill.job.wait", "How long jobs had been due for when they were started.", waitBounds)
	m.finished = counter("backfill.job.finished", "{job}", "Runs that ended, by outcome: completed, retried, failed, snoozed, canceled.")
	m.retried = counter("backfill.job.retries", "{job}", "Runs that failed and are tried again.")
	m.exhausted = counter("backfill.job.exhausted", "{job}", "Jobs that failed for good, because no attempt was left or the error was permanent.")
	m.again = counter("backfill.job.merged", "{job}", "Enqueues that found a job with their key.")
	m.letters = counter("backfill.dead_letter.added", "{job}", "Dead letters that workers have made, by reason.")
	m.expired = counter("backfill.dead_letter.expired", "{job}", "Dead letters that were deleted for their age.")
	m.lost = counter("backfill.lease.lost", "{job}", "Jobs that were released or taken by others while they ran.")
	m.rescued = counter("backfill.job.rescued", "{job}", "Jobs of dead workers that were released.")
	m.reclaimed = counter("backfill.job.reclaimed", "{job}", "Jobs of claims without an answer that were released.")
	m.suspected = counter("backfill.job.suspected", "{job}", "Jobs that wait for a trial, because their workers died twice.")
	m.deaths = counter("backfill.worker.deaths", "{worker}", "Other workers that were declared dead.")
	m.own = counter("backfill.worker.fenced", "{worker}", "How often a worker learned that it was declared dead.")
	m.polls = counter("backfill.worker.polls", "{poll}", "Claims that nothing but the poll interval asked for.")
	m.wakes = counter("backfill.worker.notifications", "{notification}", "Notifications that arrived.")
	m.ticks = counter("backfill.cron.enqueued", "{job}", "Jobs that cron schedules have enqueued.")
	m.swept = counter("backfill.sweep.released", "{job}", "Jobs whose locks were 4 hours old and were released.")
	m.statements = seconds("backfill.statement.duration", "How long statements of workers took, by their name.", statementBounds)
	m.errors = counter("backfill.database.errors", "{error}", "Claims, records, listeners and sweeps that failed, by source.")
	var err error
	m.claimSize, err = meter.Int64Histogram("backfill.claim.size", metric.WithUnit("{job}"), metric.WithDescription("How many jobs a claim has got."),
		metric.WithExplicitBucketBoundaries(claimBounds...))
	if err = errors.Join(append(problems, err)...); err != nil {
		return nil, err
	}
	for _, source := range sources { // so that a rate is there before the first error
		m.add(m.errors, 0, labels{instrument: "errors", source: source})
	}
	return m, nil
}

// begin makes the counters of tasks at 0: the first increase of a counter that was not there is seen
// by no rate, and so by no alert.
func (m *instruments) begin(tasks []string) {
	for _, task := range tasks {
		m.add(m.finished, 0, labels{instrument: "finished", task: task, outcome: "completed"})
		for _, reason := range []string{"exhausted", "permanent"} {
			m.add(m.letters, 0, labels{instrument: "letters", task: task, reason: reason})
		}
		m.add(m.rescued, 0, labels{instrument: "rescued", task: task})
		m.add(m.lost, 0, labels{instrument: "lost", task: task})
	}
	m.add(m.deaths, 0, labels{instrument: "deaths"})
}

// sources are the values of backfill.source.
var sources = []string{"claim", "record", "listen", "sweep"}

func (m *instruments) add(to metric.Int64Counter, n int, l labels) {
	to.Add(context.Background(), int64(n), m.series.of(l).add...)
}

func (m *instruments) seconds(to metric.Float64Histogram, d time.Duration, l labels) {
	to.Record(context.Background(), max(d, 0).Seconds(), m.series.of(l).record...)
}

// event counts what happened in a worker.
func (m *instruments) event(e backfill.Event) {
	task := ""
	if e.Job != nil {
		task = e.Job.Task
	}
	switch e.Kind {
	case backfill.EventClaimed:
		m.claimSize.Record(context.Background(), int64(e.Count), m.series.of(labels{instrument: "claim"}).record...)
		m.seconds(m.operation, e.Duration, labels{instrument: "operation", operation: "claim", operationType: "receive"})
	case backfill.EventStart:
		m.add(m.consumed, 1, labels{instrument: "consumed", task: task, operation: "run"})
		if due := e.Job.RunAt; !due.IsZero() {
			m.seconds(m.wait, time.Since(due), labels{instrument: "wait", task: task})
		}
	case backfill.EventFinished:
		m.ended(e, task, "completed", "")
	case backfill.EventSnoozed:
		m.ended(e, task, "snoozed", "")
	case backfill.EventCanceled:
		m.ended(e, task, "canceled", "")
	case backfill.EventFailed:
		if !e.Final {
			m.ended(e, task, "retried", errorType(e.Err))
			m.add(m.retried, 1, labels{instrument: "retries", task: task})
			return
		}
		m.ended(e, task, "failed", errorType(e.Err))
		reason := "permanent"
		if e.Job.Attempt >= e.Job.MaxAttempts {
			reason = "exhausted"
		}
		m.add(m.exhausted, 1, labels{instrument: "exhausted", task: task, reason: reason})
	case backfill.EventDead:
		m.add(m.letters, 1, labels{instrument: "letters", task: task, reason: closed(e.Reason, reasons)})
	case backfill.EventLeaseLost:
		m.add(m.lost, 1, labels{instrument: "lost", task: task})
	case backfill.EventRescued:
		m.add(m.rescued, 1, labels{instrument: "rescued", task: task})
	case backfill.EventSuspected:
		m.add(m.suspected, 1, labels{instrument: "suspected", task: task})
	case backfill.EventClaimError:
		m.add(m.errors, 1, labels{instrument: "errors", source: "claim"})
	case backfill.EventFlushError:
		m.add(m.errors, 1, labels{instrument: "errors", source: "record"})
	case backfill.EventDisrupted:
		m.add(m.errors, 1, labels{instrument: "errors", source: "listen"})
	default:
		m.rare(e)
	}
}

// rare is for events that concern no single job.
func (m *instruments) rare(e backfill.Event) {
	switch e.Kind {
	case backfill.EventSwept:
		m.add(m.swept, e.Count, labels{instrument: "swept"})
		if e.Err != nil {
			m.add(m.errors, 1, labels{instrument: "errors", source: "sweep"})
		}
	case backfill.EventReclaimed:
		m.add(m.reclaimed, e.Count, labels{instrument: "reclaimed"})
	case backfill.EventDeath:
		m.add(m.deaths, 1, labels{instrument: "deaths"})
	case backfill.EventFenced:
		m.add(m.own, 1, labels{instrument: "fenced"})
	case backfill.EventPolled:
		m.add(m.polls, 1, labels{instrument: "polls"})
	case backfill.EventWoken:
		m.add(m.wakes, 1, labels{instrument: "wakes"})
	case backfill.EventScheduled:
		m.add(m.ticks, e.Count, labels{instrument: "ticks"})
	case backfill.EventExpired:
		m.add(m.expired, e.Count, labels{instrument: "expired"})
	default:
	}
}

// ended counts a run. One whose worker died, or that was cancelled before it had started, has no
// duration.
func (m *instruments) ended(e backfill.Event, task, outcome, errorType string) {
	m.add(m.finished, 1, labels{instrument: "finished", task: task, outcome: outcome, errorType: errorType})
	if e.Duration > 0 {
		m.seconds(m.process, e.Duration, labels{instrument: "process", task: task, operation: "run", outcome: outcome, errorType: errorType})
	}
}

func (m *instruments) statement(s backfill.Statement) {
	l := labels{instrument: "statements", statement: s.Name}
	if s.Err != nil {
		l.errorType = otherError
	}
	m.seconds(m.statements, s.Duration, l)
}

// reasons are the values of backfill.reason of dead letters.
var reasons = []string{"exhausted", "permanent", "crashed", "interrupted", "swept"}

// otherError is the error.type of errors that have no other, as the conventions say.
const otherError = "_OTHER"

// errorType is one of a closed set of words.
func errorType(err error) string {
	var panicked *backfill.PanicError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &panicked):
		return "panic"
	case errors.Is(err, backfill.ErrTimeout):
		return "timeout"
	case errors.Is(err, backfill.ErrShutdown):
		return "shutdown"
	case errors.Is(err, backfill.ErrLeaseLost):
		return "lease_lost"
	case errors.Is(err, backfill.ErrInvalidRequest):
		return "invalid_request"
	case errors.Is(err, backfill.ErrOutcomeUnknown):
		return "outcome_unknown"
	case errors.Is(err, backfill.ErrRejected):
		return "rejected"
	default:
		return otherError
	}
}

// closed returns a word if it is one of a list, and "other" if not.
func closed(word string, list []string) string {
	if slices.Contains(list, word) {
		return word
	}
	return other
}

// band names a priority. The classes are those of the constants of package backfill.
func band(p backfill.Priority) string {
	switch {
	case p <= -20:
		return "emergency"
	case p <= -10:
		return "fast_high"
	case p < 0:
		return "fast_default"
	case p == 0:
		return "bulk_default"
	case p <= 5:
		return "bulk_low"
	case p <= 10:
		return "bulk_lowest"
	default:
		return other
	}
}
