package backfillotel

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/backfillhq/go/backfill/admin"
)

// measuredFor is how long a measurement serves: less than two scrapes are apart, so that several
// readers of one scrape share it, and no scrape gets that of another.
const measuredFor = time.Second

// Observe makes the gauges of queues, dead letters and workers, which are read from the database when
// metrics are collected, over the connections of a. What cannot be read then is absent: no gauge has
// the value of an earlier time. One process is enough, whether it has a worker or not, and several
// say the same: take the maximum of them, and not the sum. Call stop before you close a.
//
// Reads are bounded, so of a table with more than some hundred thousand jobs the numbers are
// estimates; the ages of the oldest jobs are not.
func (t *Telemetry) Observe(a *admin.Admin) (stop func() error, err error) {
	if t.metrics == nil {
		return func() error { return nil }, nil
	}
	o := &observer{read: a.Measure}
	var problems []error
	count := func(name, unit, description string) metric.Int64ObservableGauge {
		made, err := t.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
		problems = append(problems, err)
		return made
	}
	age := func(name, description string) metric.Float64ObservableGauge {
		made, err := t.meter.Float64ObservableGauge(name, metric.WithUnit("s"), metric.WithDescription(description))
		problems = append(problems, err)
		return made
	}
	o.up = count("backfill.observer.up", "{observer}", "1 if the database could be read, for all of these gauges; 0 if not.")
	o.due = count("backfill.queue.depth", "{job}", "Jobs that are due and not locked, by task: neither scheduled, running, failed nor dead ones.")
	o.waiting = count("backfill.queue.scheduled", "{job}", "Jobs that are not due yet: delayed, snoozed, or to be retried.")
	o.running = count("backfill.queue.running", "{job}", "Jobs that are locked: by a worker, that is.")
	o.suspect = count("backfill.queue.suspect", "{job}", "Jobs that wait for a trial, because their workers died.")
	o.failed = count("backfill.queue.failed", "{job}", "Jobs without attempts left that are no dead letters yet.")
	o.oldest = age("backfill.queue.oldest_due.age", "How long the job has been due for that has been due for longest; 0 if none is.")
	o.letters = count("backfill.dead_letter.count", "{job}", "Dead letters that were not requeued, of the newest 100,000.")
	o.letterAge = age("backfill.dead_letter.oldest.age", "How old the oldest of them is.")
	o.workers = count("backfill.fleet.workers", "{worker}", "Go workers, by state: alive, or silent for more than 15 seconds.")
	o.slots = count("backfill.fleet.slots", "{slot}", "Slots of the workers that are alive.")
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	registered, err := t.meter.RegisterCallback(o.observe, o.up, o.due, o.waiting, o.running, o.suspect, o.failed, o.oldest, o.letters,
		o.letterAge, o.workers, o.slots)
	if err != nil {
		return nil, err
	}
	return registered.Unregister, nil
}

// observer reads a database for the gauges.
type observer struct {
	up, due, waiting, running, suspect, failed, letters, workers, slots metric.Int64ObservableGauge
	oldest, letterAge                                                   metric.Float64ObservableGauge

	read func(context.Context) (*admin.Measurement, error)

	mu   sync.Mutex
	at   time.Time // when last was read
	last *admin.Measurement
}

// measure returns a measurement that is a second old at most; nil: there is none.
func (o *observer) measure(ctx context.Context) *admin.Measurement {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.at) < measuredFor {
		return o.last
	}
	m, err := o.read(ctx)
	if err != nil {
		m = nil
	}
	o.last, o.at = m, time.Now()
	return m
}

func (o *observer) observe(ctx context.Context, to metric.Observer) error {
	none := metric.WithAttributeSet(attribute.NewSet(attrSystem.String(system)))
	m := o.measure(ctx)
	up := int64(0)
	if m != nil && m.Tasks != nil && len(m.Missing) == 0 {
		up = 1
	}
	to.ObserveInt64(o.up, up, none)
	if m == nil {
		return nil
	}
	for _, n := range fold(m.Tasks, addTask, func(n admin.TaskMeasurement) int64 { return n.Due + n.Running + n.Waiting + n.Suspect + n.Failed }) {
		of := taskSet(n.Task)
		to.ObserveInt64(o.due, n.Due, of)
		to.ObserveInt64(o.waiting, n.Waiting, of)
		to.ObserveInt64(o.running, n.Running, of)
		to.ObserveInt64(o.suspect, n.Suspect, of)
		to.ObserveInt64(o.failed, n.Failed, of)
		to.ObserveFloat64(o.oldest, n.OldestDue.Seconds(), of)
	}
	for _, n := range fold(m.Letters, addLetters, func(n admin.LetterMeasurement) int64 { return n.Count }) {
		of := taskSet(n.Task)
		to.ObserveInt64(o.letters, n.Count, of)
		to.ObserveFloat64(o.letterAge, n.Oldest.Seconds(), of)
	}
	if w := m.Workers; w != nil {
		to.ObserveInt64(o.workers, w.Alive, stateSet("alive"))
		to.ObserveInt64(o.workers, w.Silent, stateSet("silent"))
		to.ObserveInt64(o.slots, w.Slots, none)
	}
	return nil
}

func taskSet(task string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attrSystem.String(system), attrTask.String(task)))
}

func stateSet(state string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attrSystem.String(system), attrState.String(state)))
}

// fold keeps those with the most jobs, and adds the others up as "other".
func fold[N any](list []N, add func(sum *N, n N), size func(N) int64) []N {
	if len(list) <= maxTasks {
		return list
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b N) int { return -cmp.Compare(size(a), size(b)) })
	var rest N
	for _, n := range list[maxTasks-1:] {
		add(&rest, n)
	}
	return append(list[:maxTasks-1], rest)
}

func addTask(sum *admin.TaskMeasurement, n admin.TaskMeasurement) {
	sum.Task = other
	sum.Due, sum.Waiting, sum.Running = sum.Due+n.Due, sum.Waiting+n.Waiting, sum.Running+n.Running
	sum.Suspect, sum.Failed, sum.OldestDue = sum.Suspect+n.Suspect, sum.Failed+n.Failed, max(sum.OldestDue, n.OldestDue)
}

func addLetters(sum *admin.LetterMeasurement, n admin.LetterMeasurement) {
	sum.Task = other
	sum.Count, sum.Oldest = sum.Count+n.Count, max(sum.Oldest, n.Oldest)
}
