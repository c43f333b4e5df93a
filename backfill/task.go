package backfill

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"
)

// Task describes a task: a named kind of work with args of type T. Declare it as a package-level
// variable.
//
// It holds only static data, and functions that format fields of the args. Handlers and backoff
// functions are bound to it in [NewRegistry]. As fields they could refer back to the variable,
// which Go refuses as an initialization cycle.
type Task[T any] struct {
	_ [0]func() // fields may be added

	// Name is the task's name in the database: 1 to 128 characters.
	Name string

	// Queue returns the name of the job's queue, at most 128 characters. The jobs of a queue run
	// one at a time, in the whole fleet. An empty name is no queue. Default: no queue.
	Queue func(T) string

	// Key returns the job's key, 1 to 512 characters; enqueuing with an empty one is an error. At
	// most one job with a key waits at a time: KeyMode says what enqueuing another one does. A key is
	// free again when its job is done. To run something at most once an hour, however often it is
	// enqueued, also set Delay to an hour and KeyMode to [PreserveRunAt]. Default: no key.
	Key func(T) string

	// KeyMode applies to every job with a key, from Key or from the option [Key]. Default:
	// [Replace].
	KeyMode KeyMode

	// Priority orders jobs that are due: lower runs first. Default: [PriorityBulkDefault], 0.
	Priority Priority

	// MaxAttempts is how often a job is tried in all, 1 to 32767. Default: that of the Backoff, if
	// it has one, else 25.
	MaxAttempts int

	// Delay is how long a job waits after it is enqueued. Default: it is due at once.
	Delay time.Duration

	// Timeout is how long each attempt may take. Then the handler's context is cancelled with
	// [ErrTimeout]. A transactional task needs one, of 3 h 30 min at most. Default: no timeout.
	Timeout time.Duration

	// History is for how long each attempt is kept after it has ended, with its error, its output and
	// what it has logged: see [Output]. An hour to 400 days. Default: that of the worker, see
	// [WithHistory].
	History time.Duration

	// Isolation is that of a transactional task's transaction. Default: [ReadCommitted].
	Isolation Isolation

	// Flags are labels that workers can be told to skip, see [WithForbiddenFlags]. Default: none.
	Flags []string

	// Aliases are former names of the task. Its handler also takes jobs that were enqueued under
	// them. Default: none.
	Aliases []string

	// Backoff says how long a job that failed waits for its next attempt. Default: see [Backoff].
	Backoff Backoff
}

// Isolation is the isolation level of a transactional task.
type Isolation string

// The isolation levels, as PostgreSQL has them. At RepeatableRead and Serializable the server can
// refuse a transaction because of others that run beside it; the worker runs such a job again at
// once, three times, without charging an attempt.
const (
	ReadCommitted  Isolation = "read committed"
	RepeatableRead Isolation = "repeatable read"
	Serializable   Isolation = "serializable"
)

// NoArgs is the type of args of a task without args. Its payload is ignored. The function of such a
// task is func(context.Context) error for backfillgen, and func(context.Context, NoArgs) error for
// [Handle].
type NoArgs = struct{}

// Request describes a job of the task, to be enqueued together with jobs of other tasks:
// client.Enqueue(ctx, a, b, c). Options override what the task says; the last one wins. Enqueue
// reports errors, such as args that cannot be encoded.
//
// Args are encoded by encoding/json. A nil slice becomes [], and any other nil becomes {}.
func (t *Task[T]) Request(args T, opts ...EnqueueOption) Request {
	if t == nil {
		return Request{problems: []error{errors.New("the *Task is nil: pass the task's descriptor")}}
	}
	r := Request{
		Task:        t.Name,
		Priority:    t.Priority,
		MaxAttempts: cmp.Or(t.MaxAttempts, t.Backoff.attempts),
		Delay:       t.Delay,
		Flags:       slices.Clip(t.Flags),
	}
	var errs [3]error
	r.Args, errs[0] = encodeArgs(&args)
	if t.Queue != nil {
		r.Queue, errs[1] = format("queue", t.Queue, args)
	}
	keyed := t.Key != nil
	if keyed {
		r.Key, errs[2] = format("key", t.Key, args)
	}
	for _, err := range errs {
		if err != nil {
			r.problems = append(r.problems, err)
		}
	}
	for _, option := range opts {
		if option == nil {
			continue
		}
		option.applyToRequest(&r)
		_, isKey := option.(keyOption)
		keyed = keyed || isKey
	}
	if keyed && r.Key == "" && errs[2] == nil {
		r.problems = append(r.problems, errors.New("key is empty: want 1 to 512 characters"))
	}
	if r.KeyMode == "" && r.Key != "" {
		r.KeyMode = t.KeyMode
	}
	return r
}

// format applies a template of the task.
func format[T any](what string, template func(T) string, args T) (text string, err error) {
	defer recoverAs(what+" template", &err)
	return template(args), nil
}

// encodeArgs takes a pointer, so that encoding/json calls methods with pointer receivers too, such
// as those of a big.Int.
func encodeArgs(args any) (encoded json.RawMessage, err error) {
	defer recoverAs("encode args", &err)
	v := reflect.ValueOf(args).Elem()
	if v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	kind := v.Kind()
	isNil := slices.Contains([]reflect.Kind{reflect.Slice, reflect.Map, reflect.Pointer}, kind) && v.IsNil()
	switch {
	case kind == reflect.Slice && isNil && v.Type().Elem().Kind() != reflect.Uint8:
		return json.RawMessage("[]"), nil
	case kind == reflect.Invalid, isNil, kind == reflect.Struct && v.Type() == reflect.TypeFor[NoArgs]():
		return json.RawMessage("{}"), nil
	}
	if encoded, err = json.Marshal(args); err != nil {
		return nil, fmt.Errorf("encode args: %w", err)
	}
	return encoded, nil
}

// Priority orders jobs that are due: lower numbers run first. Any int16 is allowed; the constants
// are those of Graphile Worker's presets. A Priority is itself an [EnqueueOption].
type Priority int16

// Priorities with names.
const (
	PriorityEmergency   Priority = -20
	PriorityFastHigh    Priority = -10
	PriorityFastDefault Priority = -5
	PriorityBulkDefault Priority = 0
	PriorityBulkLow     Priority = 5
	PriorityBulkLowest  Priority = 10
)

func (p Priority) applyToRequest(r *Request) { r.Priority = p }

// KeyMode says what enqueuing does if there is a job with the same key already. It applies to a job
// that waits. One that is running, or has failed for good, gives up its key and is not retried, and
// a new job is inserted; only [UnsafeDedupe] keeps it. A KeyMode is itself an [EnqueueOption].
//
// With dead letters on, a failed job no longer blocks unsafe_dedupe: it is in the table of jobs no
// more, so its key is free at once. A job that Graphile Worker or a worker with [WithoutDeadLetters]
// has failed blocks it until the sweep has made a dead letter of it, an hour later.
//
// All tasks of a schema share their keys: enqueuing can turn a waiting job of one task into a job
// of another.
type KeyMode string

// The key modes, by the names that Graphile Worker gives them.
const (
	// Replace gives the waiting job the new args, task, run_at and all other values, and resets its
	// attempts. If the old and the new args are both JSON arrays, the new elements are appended.
	Replace KeyMode = "replace"
	// PreserveRunAt is Replace, but a job that has not failed yet keeps its run_at: enqueuing it
	// again does not delay it.
	PreserveRunAt KeyMode = "preserve_run_at"
	// UnsafeDedupe drops the request and keeps the existing job, even if that is running, or has
	// failed for good and is no dead letter.
	UnsafeDedupe KeyMode = "unsafe_dedupe"
)

func (m KeyMode) applyToRequest(r *Request) { r.KeyMode = m }

// problem reports an unknown mode.
func (m KeyMode) problem() error {
	switch m {
	case "", Replace, PreserveRunAt, UnsafeDedupe:
		return nil
	}
	return fmt.Errorf("unknown key mode %s: want %s, %s or %s", shortQuote(string(m)), Replace, PreserveRunAt, UnsafeDedupe)
}
