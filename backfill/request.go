package backfill

import (
	"encoding/json"
	"errors"
	"slices"
	"time"
)

// Request is one job to enqueue. It comes from [Task.Request], or you write it yourself for a task
// that is not written in Go. Only Task is required.
type Request struct {
	_ [0]func() // fields may be added: write field names, and do not compare

	// Task is the task's name: 1 to 128 characters.
	Task string
	// Args are the args as JSON, at most 256 MiB. Default: {}.
	Args json.RawMessage
	// Queue is the queue that the job belongs to, at most 128 characters. Default: no queue.
	Queue string
	// Key is the job's key, 1 to 512 characters. Default: no key.
	Key string
	// KeyMode says what happens if there is a job with the same key already. It needs a Key.
	// Default: [Replace].
	KeyMode KeyMode
	// Priority orders jobs that are due: lower runs first. Default: [PriorityBulkDefault], 0.
	Priority Priority
	// MaxAttempts is how often the job is tried in all, 1 to 32767. Default: 25.
	MaxAttempts int
	// RunAt is when the job is due. Default: now plus Delay, by the clock of the database.
	RunAt time.Time
	// Delay is how long the job waits, by the clock of the database. It cannot be combined with
	// RunAt. Default: 0.
	Delay time.Duration
	// Flags are labels that workers can be told to skip, see [WithForbiddenFlags]. They have no
	// order, and none may be empty. Default: none.
	Flags []string
	// Trace is the trace context of the enqueue, for the span of the job's run to link to: only its
	// Parent and State count. Package backfillotel sets it. Default: none.
	Trace TraceContext

	problems []error // of encoding the args and of options, reported by Validate
}

// EnqueueOption overrides one value of a task for one call. It is one of [Delay], [RunAt], [Queue],
// [Key], [MaxAttempts], [Flags], a [Priority], or a [KeyMode].
type EnqueueOption interface{ applyToRequest(r *Request) }

type (
	delayOption       time.Duration
	runAtOption       time.Time
	queueOption       string
	keyOption         string
	maxAttemptsOption int
	flagsOption       []string
)

// Delay makes the job wait for d, by the clock of the database. A negative d is an error. Default:
// the task's delay.
func Delay(d time.Duration) EnqueueOption { return delayOption(d) }

func (o delayOption) applyToRequest(r *Request) { r.Delay, r.RunAt = time.Duration(o), time.Time{} }

// RunAt makes the job due at t; the zero time means now. Among jobs of one priority, earlier times
// run first, so a job with a time in the past goes before jobs that became due later. Default: now
// plus the task's delay.
func RunAt(t time.Time) EnqueueOption { return runAtOption(t) }

func (o runAtOption) applyToRequest(r *Request) { r.RunAt, r.Delay = time.Time(o), 0 }

// Queue puts the job into this queue, at most 128 characters. An empty name means no queue.
// Default: the task's queue.
func Queue(name string) EnqueueOption { return queueOption(name) }

func (o queueOption) applyToRequest(r *Request) { r.Queue = string(o) }

// Key gives the job this key, 1 to 512 characters. EnqueueMany refuses it, because each job would
// replace the one before. Default: the task's key.
func Key(key string) EnqueueOption { return keyOption(key) }

func (o keyOption) applyToRequest(r *Request) { r.Key = string(o) }

// MaxAttempts sets how often the job is tried in all, 1 to 32767. Default: the task's max_attempts.
//
// A job with one attempt starts at most once: if its worker dies, stops or loses the database while
// it has started, or may have, the job has failed for good.
func MaxAttempts(n int) EnqueueOption { return maxAttemptsOption(n) }

func (o maxAttemptsOption) applyToRequest(r *Request) {
	r.MaxAttempts = int(o)
	if o == 0 {
		r.problems = append(r.problems, errors.New("max_attempts is 0: want 1 to 32767"))
	}
}

// Flags replaces the task's flags, see [WithForbiddenFlags]. Without arguments the job has none.
// Default: the task's flags.
func Flags(flags ...string) EnqueueOption { return flagsOption(slices.Clone(flags)) }

func (o flagsOption) applyToRequest(r *Request) { r.Flags = o }
