// Package backfillotel gives backfill's metrics and traces to OpenTelemetry: those of workers and
// enqueues, and what the database says about queues, which [Telemetry.Observe] reads.
//
// Names, units and attributes follow the semantic conventions for messaging, version 1.43.0, as far
// as there are some; what is our own begins with "backfill.". docs/monitoring.md lists them, and has
// rules and a dashboard for Prometheus.
package backfillotel

import (
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/backfillhq/go/backfill"
)

// scope is the name of the meter and the tracer.
const scope = "github.com/backfillhq/go/backfill/backfillotel"

// Telemetry measures and traces the clients and workers that are given its options. One is enough
// for a process. It is safe for concurrent use.
type Telemetry struct {
	config  config
	meter   metric.Meter
	tracer  trace.Tracer
	metrics *instruments
	probes  *backfill.Probes
}

// Option configures a Telemetry.
type Option func(*config)

type config struct {
	meters         metric.MeterProvider
	tracers        trace.TracerProvider
	withoutTraces  bool
	withoutMetrics bool
}

// WithMeterProvider says where metrics go. Default: the global provider, otel.GetMeterProvider.
func WithMeterProvider(provider metric.MeterProvider) Option {
	return func(c *config) { c.meters = provider }
}

// WithTracerProvider says where spans go. Default: the global provider, otel.GetTracerProvider.
func WithTracerProvider(provider trace.TracerProvider) Option {
	return func(c *config) { c.tracers = provider }
}

// WithoutTraces makes no spans, and neither stores nor reads trace contexts. Default: enqueues and
// runs have spans.
func WithoutTraces() Option { return func(c *config) { c.withoutTraces = true } }

// WithoutMetrics measures nothing. Default: metrics are on.
func WithoutMetrics() Option { return func(c *config) { c.withoutMetrics = true } }

// New returns a Telemetry. An error is one of the meter provider's.
func New(options ...Option) (*Telemetry, error) {
	t := &Telemetry{probes: new(backfill.Probes)}
	for _, option := range options {
		option(&t.config)
	}
	if t.config.meters == nil {
		t.config.meters = otel.GetMeterProvider()
	}
	if t.config.tracers == nil {
		t.config.tracers = otel.GetTracerProvider()
	}
	t.tracer, t.meter = t.config.tracers.Tracer(scope), t.config.meters.Meter(scope)
	if t.config.withoutMetrics {
		return t, nil
	}
	var err error
	if t.metrics, err = newInstruments(t.meter); err == nil {
		err = t.observeWorkers()
	}
	if err != nil {
		return nil, fmt.Errorf("make instruments: %w", err)
	}
	return t, nil
}

// Client is the option for clients: it measures enqueues, makes a span of each, and stores its trace
// context with the jobs.
func (t *Telemetry) Client() backfill.ClientOption {
	return backfill.WithEnqueueMiddleware(t.enqueue)
}

// Worker is the option for workers: it measures what they do, makes a span of each run, and links it
// to the enqueue. Give it before other middleware, which is then inside the span.
func (t *Telemetry) Worker() backfill.WorkerOption {
	var options []backfill.WorkerOption
	if !t.config.withoutTraces {
		options = append(options, backfill.WithTraces(), backfill.WithMiddleware(t.run))
	}
	if t.metrics != nil {
		options = append(options, backfill.WithObserver(t.event), backfill.WithStatementObserver(t.metrics.statement),
			backfill.WithProbes(t.probes))
	}
	return backfill.WorkerOptions(options...)
}

// event is a backfill.Observer.
func (t *Telemetry) event(e backfill.Event) {
	if e.Kind == backfill.EventStarted {
		for _, h := range t.probes.Health() {
			t.metrics.begin(h.Tasks)
		}
	}
	t.metrics.event(e)
}
