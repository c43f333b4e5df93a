package testutil

import (
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
)

// Recorded is one job of a task that a [Recorder] was asked to enqueue.
//
// Queue, Key, KeyMode, Priority, MaxAttempts, RunAt, Delay and Flags are those of the Request: what
// the task says, changed by the options of the call. A zero field means the default. A job that is
// due at once has neither RunAt nor Delay.
//
// To compare it with go-cmp, pass cmpopts.IgnoreUnexported(backfill.Request{}).
type Recorded[T any] struct {
	_ [0]func() // fields may be added

	backfill.Request

	// Args are what the task's handler would get. They hide the Request's Args, the JSON that was
	// enqueued.
	Args T

	// InTx says that the job was enqueued through WithTx or WithSQLTx.
	InTx bool
}

// Enqueued returns the jobs of the task that rec was asked to enqueue under the task's name, not
// its aliases, in order. There is one for each request, even if a key makes several requests one
// job.
//
// The args are decoded from their JSON, as a worker decodes them, so a field that JSON leaves out
// is missing here too. Args that do not decode, as those of a handwritten Request may not, fail the
// test.
func Enqueued[T any](tb testing.TB, rec *Recorder, task *backfill.Task[T]) []Recorded[T] {
	tb.Helper()
	if rec == nil || task == nil {
		tb.Fatalf("testutil: Enqueued: the Recorder or the task is nil")
		return nil
	}
	decode, err := decoderOf(task)
	if err != nil {
		tb.Fatalf("testutil: Enqueued: %v", err)
		return nil
	}
	var jobs []Recorded[T]
	for i, recorded := range rec.recordings() {
		if recorded.request.Task != task.Name {
			continue
		}
		job := Recorded[T]{Request: recorded.request, InTx: recorded.inTx}
		if job.Args, err = decode(newJob(job.Request, time.Time{})); err != nil {
			tb.Fatalf("testutil: request %d: args of task %q do not decode into %T: %v: %.1000s", i, task.Name, job.Args, err, job.Request.Args)
		}
		jobs = append(jobs, job)
	}
	return jobs
}
