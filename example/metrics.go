package main

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/backfill/backfillotel"
)

// metrics are what is measured of this process, and of the queues in its database.
type metrics struct {
	*backfillotel.Telemetry
	http.Handler // answers Prometheus

	queues *admin.Admin // nil: they are not observed
}

func newMetrics() (*metrics, error) {
	registry := prometheus.NewRegistry()
	reader, err := exporter.New(exporter.WithRegisterer(registry))
	if err != nil {
		return nil, fmt.Errorf("export metrics: %w", err)
	}
	// No spans: this program sends none to anybody.
	telemetry, err := backfillotel.New(backfillotel.WithoutTraces(), backfillotel.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(reader))))
	if err != nil {
		return nil, err
	}
	return &metrics{Telemetry: telemetry, Handler: promhttp.HandlerFor(registry, promhttp.HandlerOpts{})}, nil
}

// observe makes the queues of a database a part of the metrics.
func (m *metrics) observe(databaseURL string) (err error) {
	if m.queues, err = admin.Open(databaseURL, admin.WithSchema(schema)); err != nil {
		return err
	}
	_, err = m.Observe(m.queues)
	return err
}

func (m *metrics) close() {
	if m.queues != nil {
		m.queues.Close()
	}
}
