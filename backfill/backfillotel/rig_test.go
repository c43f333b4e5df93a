package backfillotel_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/backfill/backfillotel"
	"github.com/backfillhq/go/testutil/pgtest"
)

// rig is a Telemetry whose metrics can be read.
type rig struct {
	*testing.T
	*backfillotel.Telemetry

	reader *metric.ManualReader
}

func newRig(t *testing.T, options ...backfillotel.Option) *rig {
	t.Helper()
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	telemetry, err := backfillotel.New(append([]backfillotel.Option{backfillotel.WithMeterProvider(provider)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t, telemetry, reader}
}

// observe observes a database until the test ends.
func (r *rig) observe(databaseURL string) {
	r.Helper()
	a, err := admin.Open(databaseURL)
	if err != nil {
		r.Fatal(err)
	}
	stop, err := r.Observe(a)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := stop(); err != nil {
			r.Error(err)
		}
		a.Close()
	})
}

func (r *rig) collect() (all metricdata.ResourceMetrics) {
	r.Helper()
	if err := r.reader.Collect(context.Background(), &all); err != nil {
		r.Fatal(err)
	}
	return all
}

// numbers are the values of all series, by name and attributes: "name task=x outcome=y". A
// histogram has its count.
func (r *rig) numbers() map[string]float64 {
	r.Helper()
	all, found := r.collect(), map[string]float64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			eachPoint(m, func(set attribute.Set, value float64) { found[label(m.Name, set)] = value })
		}
	}
	return found
}

func label(name string, set attribute.Set) string {
	words := []string{name}
	for _, pair := range set.ToSlice() {
		if pair.Key != "messaging.system" {
			words = append(words, fmt.Sprintf("%s=%s", pair.Key[strings.LastIndex(string(pair.Key), ".")+1:], pair.Value.AsString()))
		}
	}
	return strings.Join(words, " ")
}

func eachPoint(m metricdata.Metrics, each func(attribute.Set, float64)) {
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			each(p.Attributes, float64(p.Value))
		}
	case metricdata.Gauge[int64]:
		for _, p := range data.DataPoints {
			each(p.Attributes, float64(p.Value))
		}
	case metricdata.Gauge[float64]:
		for _, p := range data.DataPoints {
			each(p.Attributes, p.Value)
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			each(p.Attributes, float64(p.Count))
		}
	case metricdata.Histogram[int64]:
		for _, p := range data.DataPoints {
			each(p.Attributes, float64(p.Count))
		}
	}
}

// newClient returns a client on a test's database.
func newClient(t *testing.T, db *pgtest.Database, options ...backfill.ClientOption) *backfill.Client {
	t.Helper()
	client, err := backfill.NewClient(t.Context(), db.Pool(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func enqueue(t *testing.T, client backfill.Enqueuer, requests ...backfill.Request) []*backfill.Job {
	t.Helper()
	jobs, err := client.Enqueue(t.Context(), requests...)
	if err != nil {
		t.Fatal(err)
	}
	return jobs
}

func runOnce(t *testing.T, client *backfill.Client, registry *backfill.Registry, options ...backfill.RunOption) *backfill.Report {
	t.Helper()
	report, err := backfill.RunOnce(t.Context(), registry, slices.Concat([]backfill.RunOption{backfill.WithClient(client)}, options)...)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// link passes connections on to a database until it is cut, and again once it is mended.
type link struct {
	URL string

	to string

	mu    sync.Mutex
	isCut bool
	conns []net.Conn
}

func newLink(t *testing.T, databaseURL string) *link {
	t.Helper()
	target, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // ends with the test
	if err != nil {
		t.Fatal(err)
	}
	l := &link{to: target.Host}
	target.Host = listener.Addr().String()
	l.URL = target.String()
	t.Cleanup(func() { listener.Close(); l.cut() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go l.pass(conn)
		}
	}()
	return l
}

func (l *link) pass(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", l.to) //nolint:noctx // ends with the test
	if err != nil {
		return
	}
	defer to.Close()
	l.mu.Lock()
	cut := l.isCut
	l.conns = append(l.conns, from, to)
	l.mu.Unlock()
	if cut {
		return
	}
	go func() { _, _ = io.Copy(to, from); to.Close() }()
	_, _ = io.Copy(from, to)
}

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isCut = true
	for _, conn := range l.conns {
		conn.Close()
	}
	l.conns = nil
}

func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isCut = false
}
