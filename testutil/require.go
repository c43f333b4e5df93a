package testutil

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/seam"
	"github.com/backfillhq/go/internal/worker"
)

// Job is a job with its args.
type Job[T any] struct {
	_ [0]func() // fields may be added

	backfill.Job

	// Args are the args as a handler gets them. They hide the Job's Args, the JSON that is stored.
	Args T
}

// RequireEnqueued fails the test unless a job of the task is there with these args, and with what
// the options say, and returns the job, the first if there are several. Options that are not given
// are not compared, whatever the task says: queue, key, delay and all others.
//
//	testutil.RequireEnqueued(t, client, tasks.TaskSendWelcome, args, backfill.Delay(time.Hour))
//
// The first argument behind t says where it looks: pass what the code under test enqueues with.
//
//   - a *backfill.Client: among the jobs in its database that are committed, and have not succeeded
//   - what its WithTx or WithSQLTx returned: among those that this transaction sees
//   - the [Worker] of [Start]: as with its client, and among all that this worker has started
//   - a [Recorder]: among the jobs that it would have in a database. [Enqueued] has all requests
//
// Args are decoded from the bytes that are stored, by the decoder of workers, and compared with
// go-cmp: unexported fields too, by the Equal methods of types that have one; an empty slice or map
// equals nil. So a value of the args that JSON does not bring back fails the test. An empty
// [backfill.Key] or [backfill.Queue] asks for a job without one. A [backfill.KeyMode] is not
// stored, so it is refused here.
//
// The failure says what is enqueued instead, and how the closest job differs.
func RequireEnqueued[T any](
	tb testing.TB, in backfill.Enqueuer, task *backfill.Task[T], args T, opts ...backfill.EnqueueOption,
) *Job[T] {
	tb.Helper()
	return require(tb, in, task, &args, nil, opts)
}

// RequireEnqueuedFunc is [RequireEnqueued] for a job whose args match accepts.
func RequireEnqueuedFunc[T any](
	tb testing.TB, in backfill.Enqueuer, task *backfill.Task[T], match func(args T) bool, opts ...backfill.EnqueueOption,
) *Job[T] {
	tb.Helper()
	if match == nil {
		tb.Fatalf("testutil: RequireEnqueuedFunc: the function is nil")
		return nil
	}
	return require(tb, in, task, nil, match, opts)
}

// require looks for a job with args, or for one that match accepts.
func require[T any](
	tb testing.TB, in backfill.Enqueuer, task *backfill.Task[T], args *T, match func(T) bool, opts []backfill.EnqueueOption,
) *Job[T] {
	tb.Helper()
	if task == nil {
		tb.Fatalf("testutil: RequireEnqueued: the task is nil: pass its descriptor")
		return nil
	}
	want, err := expect(opts)
	if err == nil && args != nil {
		err = task.Request(*args).Validate() // what cannot be enqueued cannot have been
	}
	if err != nil {
		tb.Fatalf("testutil: RequireEnqueued: task %q: %v", task.Name, err)
		return nil
	}
	if args != nil {
		want["args"] = *args
	}
	found, err := jobsIn(tb.Context(), in)
	if err != nil {
		tb.Fatalf("testutil: RequireEnqueued: %v", err)
		return nil
	}
	decode, err := decoderOf(task)
	if err != nil {
		tb.Fatalf("testutil: RequireEnqueued: %v", err)
		return nil
	}
	failure := &unfound{task: task.Name, all: found}
	for _, status := range found {
		if status.Task != task.Name && !slices.Contains(task.Aliases, status.Task) {
			continue
		}
		decoded, err := decode(&status.Job)
		got := observed(status, want)
		var note string
		switch {
		case err != nil:
			note = err.Error()
			if args != nil {
				got["args"] = note
			}
		case args != nil:
			got["args"] = decoded
		case !match(decoded):
			note = "the function does not accept its args"
		}
		diff := compareAny(want, got)
		if diff == "" && note == "" {
			return &Job[T]{Job: status.Job, Args: decoded}
		}
		failure.add(status, diff, note)
	}
	tb.Fatalf("%s", failure)
	return nil
}

// compareAny returns how two values differ; "": not at all.
func compareAny(want, got any) string {
	return cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.Exporter(func(reflect.Type) bool { return true }))
}

// expect returns what options say, by the name of what they set. Two tasks that differ in
// everything show which values come from an option: those that are equal for both.
func expect(opts []backfill.EnqueueOption) (map[string]any, error) {
	like := func(text string, number int) backfill.Request {
		constant := func(backfill.NoArgs) string { return text }
		task := &backfill.Task[backfill.NoArgs]{
			Name: "a", Queue: constant, Key: constant, KeyMode: backfill.KeyMode(text), Priority: backfill.Priority(number),
			MaxAttempts: number, Delay: time.Duration(number), Flags: []string{text},
		}
		return task.Request(backfill.NoArgs{}, opts...)
	}
	a, b := like(string(backfill.Replace), 1), like(string(backfill.PreserveRunAt), 2)
	want := map[string]any{}
	if a.KeyMode == b.KeyMode && a.KeyMode != "" {
		return nil, fmt.Errorf("the option %s: a key mode is not stored: leave it out", a.KeyMode)
	}
	if a.Queue == b.Queue {
		want["queue"] = a.Queue
	}
	if a.Key == b.Key {
		want["key"] = a.Key
	}
	if a.Priority == b.Priority {
		want["priority"] = int(a.Priority)
	}
	if a.MaxAttempts == b.MaxAttempts {
		want["max_attempts"] = a.MaxAttempts
	}
	if slices.Equal(a.Flags, b.Flags) {
		want["flags"] = sortedFlags(a.Flags)
	}
	switch {
	case a.Delay != b.Delay:
	case a.RunAt.IsZero(): // at once, too
		want["delay"] = a.Delay.Truncate(time.Microsecond)
	default:
		want["run_at"] = stored(a.RunAt)
	}
	return want, nil
}

func sortedFlags(flags []string) []string { return slices.Compact(slices.Sorted(slices.Values(flags))) }

// observed returns what a job has of what is wanted of one.
func observed(job *backfill.JobStatus, want map[string]any) map[string]any {
	has := map[string]any{
		"queue": job.Queue, "key": job.Key, "priority": int(job.Priority), "max_attempts": job.MaxAttempts,
		"flags": sortedFlags(job.Flags), "run_at": stored(job.RunAt), "delay": delayOf(job, want["delay"]),
	}
	maps.DeleteFunc(has, func(name string, _ any) bool { _, wanted := want[name]; return !wanted })
	return has
}

// delayOf returns for how long a job was to wait: since it was enqueued, or enqueued again by its
// key. Which of the two it was cannot be told, so the one that is wanted counts.
func delayOf(job *backfill.JobStatus, want any) time.Duration {
	if again := job.RunAt.Sub(job.UpdatedAt); again == want {
		return again
	}
	return job.RunAt.Sub(job.CreatedAt)
}

// jobsIn returns the jobs that an Enqueuer's jobs are among.
func jobsIn(ctx context.Context, in backfill.Enqueuer) ([]*backfill.JobStatus, error) {
	switch in := in.(type) {
	case *Recorder:
		if in == nil {
			return nil, errors.New("the Recorder is nil")
		}
		return in.jobs(), nil
	case *Worker:
		if in == nil {
			return nil, errors.New("the Worker is nil")
		}
		return in.jobs(ctx)
	}
	found, ok, err := seam.Jobs(ctx, in)
	switch {
	case !ok:
		return nil, fmt.Errorf("cannot look for jobs in a %T: pass the *backfill.Client, what its WithTx or WithSQLTx returned, "+
			"the Worker of Start, or the Recorder", in)
	case err != nil:
		return nil, err
	}
	return found.([]*backfill.JobStatus), nil //nolint:forcetypeassert // as the seam says
}

// decoderOf returns a function that decodes the args of the task's jobs: the one that calls its
// handlers, of which it is one.
func decoderOf[T any](task *backfill.Task[T]) (func(job *backfill.Job) (T, error), error) {
	var got, none T
	plain := &backfill.Task[T]{Name: task.Name, Aliases: task.Aliases}
	registry := backfill.NewRegistry(backfill.Handle(plain, func(_ context.Context, args T) error {
		got = args
		return nil
	}))
	inline, err := seam.NewInline(registry, NewRecorder(), []backfill.WorkerOption(nil), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return func(job *backfill.Job) (T, error) {
		got = none
		var outcome worker.Outcome
		execute(context.Background(), inline, claimed(job), &outcome)
		if outcome.Err != nil {
			return none, outcome.Err
		}
		return got, nil
	}, nil
}

// unfound is the failure of a search.
type unfound struct {
	task    string
	all     []*backfill.JobStatus // of all tasks
	closest string                // how the closest job differs; "": there are no jobs of the task
	id      int64                 // of it
	lines   []string              // the jobs of the task
}

// listed is how many jobs a failure lists.
const listed = 20

func (u *unfound) add(job *backfill.JobStatus, diff, note string) {
	if len(u.lines) == 0 || differences(diff) < differences(u.closest) {
		u.closest, u.id = diff, job.ID
	}
	line := describeJob(job)
	if note != "" {
		line += ": " + note
	}
	u.lines = append(u.lines, line)
}

// differences counts the lines of a diff that differ.
func differences(diff string) (n int) {
	for line := range strings.Lines(diff) {
		if strings.HasPrefix(line, "-") || strings.HasPrefix(line, "+") {
			n++
		}
	}
	return n
}

func (u *unfound) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "testutil: no such job of task %q is enqueued", u.task)
	switch {
	case len(u.all) == 0:
		text.WriteString(": there are no jobs at all. Those that have succeeded are gone: to see them too, pass the Worker of Start")
	case len(u.lines) == 0:
		text.WriteString(": there are none of this task, but")
		counts := map[string]int{}
		for _, job := range u.all {
			counts[job.Task]++
		}
		for _, task := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(&text, "\n  %d of task %q", counts[task], task)
		}
	default:
		if u.closest != "" {
			fmt.Fprintf(&text, ". The closest is job %d (-wanted, +enqueued):\n%s", u.id, u.closest)
		}
		text.WriteString("\nenqueued are:")
		for i, line := range u.lines {
			if i == listed {
				fmt.Fprintf(&text, "\n  and %d more", len(u.lines)-listed)
				break
			}
			text.WriteString("\n  " + line)
		}
	}
	return text.String()
}

// describeJob shows a job in a line.
func describeJob(job *backfill.JobStatus) string {
	text := fmt.Sprintf("job %d", job.ID)
	if job.State != "" {
		text += ", " + string(job.State)
	}
	if job.Queue != "" {
		text += fmt.Sprintf(", queue %q", job.Queue)
	}
	if job.Key != "" {
		text += fmt.Sprintf(", key %q", job.Key)
	}
	if job.State == backfill.JobWaiting {
		text += ", due at " + job.RunAt.Format(time.RFC3339)
	}
	return text + ": " + shortArgs(job.Args)
}

// shortArgs shows args in a line.
func shortArgs(args json.RawMessage) string {
	const most = 500
	var compact bytes.Buffer
	if json.Compact(&compact, args) != nil {
		compact.Reset()
		compact.Write(args)
	}
	if compact.Len() > most {
		return string(compact.Bytes()[:most]) + "…"
	}
	return compact.String()
}
