package backfillotel

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/backfillhq/go/backfill"
)

// observeWorkers makes the gauges of this process's workers. Each is read when it is collected, and
// is not there when no worker runs.
func (t *Telemetry) observeWorkers() error {
	var problems []error
	gauge := func(name, unit, description string) metric.Int64ObservableGauge {
		made, err := t.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
		problems = append(problems, err)
		return made
	}
	running := gauge("backfill.worker.running", "{worker}", "Workers of this process that run.")
	ready := gauge("backfill.worker.ready", "{worker}", "Of these, those that take jobs.")
	slots := gauge("backfill.worker.slots", "{slot}", "How many handlers can run at a time.")
	used := gauge("backfill.worker.slots.used", "{slot}", "How many handlers run.")
	buffered := gauge("backfill.worker.buffered", "{job}", "Claimed jobs that have not started.")
	unrecorded := gauge("backfill.worker.unrecorded", "{job}", "Claimed jobs without a recorded outcome.")
	overlong := gauge("backfill.worker.overlong", "{job}", "Running jobs that take longer than expected.")
	stuck := gauge("backfill.worker.stuck", "{job}", "Running jobs whose handlers ignore that their context has ended.")
	silence, err := t.meter.Float64ObservableGauge("backfill.worker.heartbeat.age", metric.WithUnit("s"),
		metric.WithDescription("How long ago the last heartbeat was acknowledged, of the worker that has waited for longest."))
	problems = append(problems, err)
	if err := errors.Join(problems...); err != nil {
		return err
	}
	all := metric.WithAttributeSet(attribute.NewSet(attrSystem.String(system)))
	_, err = t.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		n := sum(t.probes.Health())
		if n.running == 0 {
			return nil
		}
		o.ObserveInt64(running, n.running, all)
		o.ObserveInt64(ready, n.ready, all)
		o.ObserveInt64(slots, n.slots, all)
		o.ObserveInt64(used, n.used, all)
		o.ObserveInt64(buffered, n.buffered, all)
		o.ObserveInt64(unrecorded, n.unrecorded, all)
		o.ObserveInt64(overlong, n.overlong, all)
		o.ObserveInt64(stuck, n.stuck, all)
		if !n.beat.IsZero() {
			o.ObserveFloat64(silence, time.Since(n.beat).Seconds(), all)
		}
		return nil
	}, running, ready, slots, used, buffered, unrecorded, overlong, stuck, silence)
	return err
}

// totals are the numbers of all workers of the process that run.
type totals struct {
	running, ready, slots, used, buffered, unrecorded, overlong, stuck int64

	beat time.Time // the oldest of their last heartbeats
}

func sum(list []backfill.Health) (n totals) {
	for _, h := range list {
		if h.State != backfill.StateRunning && h.State != backfill.StateDraining {
			continue
		}
		n.running++
		if h.Ready() == nil {
			n.ready++
		}
		n.slots += int64(h.Slots)
		n.used += int64(h.Running)
		n.buffered += int64(h.Buffered)
		n.unrecorded += int64(h.Unrecorded)
		n.overlong += int64(len(h.Overlong))
		n.stuck += int64(len(h.StuckJobs))
		if !h.LastHeartbeat.IsZero() && (n.beat.IsZero() || h.LastHeartbeat.Before(n.beat)) {
			n.beat = h.LastHeartbeat
		}
	}
	return n
}
