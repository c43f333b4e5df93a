package backfillotel

import (
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// The attributes of metrics. There are no others: no id, key, queue or text of an error is one.
const (
	attrSystem        = attribute.Key("messaging.system")
	attrTask          = attribute.Key("messaging.destination.name") // a task
	attrOperation     = attribute.Key("messaging.operation.name")   // enqueue, claim or run
	attrOperationType = attribute.Key("messaging.operation.type")   // send, receive or process
	attrErrorType     = attribute.Key("error.type")                 // see errorType
	attrOutcome       = attribute.Key("backfill.outcome")           // how a run ended
	attrReason        = attribute.Key("backfill.reason")            // why a job has failed for good
	attrStatement     = attribute.Key("backfill.statement")
	attrBand          = attribute.Key("backfill.priority.band")
	attrQueueKind     = attribute.Key("backfill.queue.kind") // serial: the job has a queue; parallel
	attrState         = attribute.Key("backfill.state")
	attrSource        = attribute.Key("backfill.source") // of an error of the database
)

// system is the value of messaging.system.
const system = "backfill"

// other is the task of what has no place of its own any more.
const other = "other"

const (
	// maxSeries is how many combinations of attributes there are at most in a process, of all
	// instruments together. Beyond it, tasks that are new are counted as "other".
	maxSeries = 2000
	// maxMeasured is how many of them the gauges of the database may have, and maxRest those without a
	// task, or with "other".
	maxMeasured, maxRest = 8*maxTasks + 20, 370
	// maxTasks is how many tasks a gauge of the database tells apart.
	maxTasks = 60
	maxNamed = maxSeries - maxMeasured - maxRest - 30 // one for each instrument, which maxRest does not count
)

// labels are the attributes of a measurement, in a form that can be looked up. Those that are "" are
// left out.
type labels struct {
	instrument string
	task       string

	operation, operationType, errorType, outcome, reason, statement, band, queueKind, source string
}

// options are labels in the forms that instruments take, made once.
type options struct {
	add    []metric.AddOption
	record []metric.RecordOption
}

// series knows all combinations of attributes, and bounds how many there are.
type series struct {
	mu    sync.RWMutex
	known map[labels]*options
	named int // of known, with a task of its own
}

func (s *series) of(l labels) *options {
	s.mu.RLock()
	found := s.known[l]
	s.mu.RUnlock()
	if found != nil {
		return found
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	named := l.task != "" && l.task != other
	if named && s.named >= maxNamed {
		l.task, named = other, false
	}
	if found = s.known[l]; found != nil {
		return found
	}
	if !named && len(s.known)-s.named >= maxRest { // cannot be while the other attributes are closed sets
		l = labels{instrument: l.instrument}
	} else if named {
		s.named++
	}
	set := attribute.NewSet(l.attributes()...)
	found = &options{add: []metric.AddOption{metric.WithAttributeSet(set)}, record: []metric.RecordOption{metric.WithAttributeSet(set)}}
	s.known[l] = found
	return found
}

func (l labels) attributes() []attribute.KeyValue {
	list := []attribute.KeyValue{attrSystem.String(system)}
	for _, pair := range []struct {
		key   attribute.Key
		value string
	}{
		{attrTask, l.task},
		{attrOperation, l.operation},
		{attrOperationType, l.operationType},
		{attrErrorType, l.errorType},
		{attrOutcome, l.outcome},
		{attrReason, l.reason},
		{attrStatement, l.statement},
		{attrBand, l.band},
		{attrQueueKind, l.queueKind},
		{attrSource, l.source},
	} {
		if pair.value != "" {
			list = append(list, pair.key.String(pair.value))
		}
	}
	return list
}
