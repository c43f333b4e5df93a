package worker_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// The functions in which handlers of these tests wait, so that stacks show them.

//go:noinline
func waitsInTask(done <-chan struct{}) { <-done }

//go:noinline
func waitsStuck(done <-chan struct{}) { <-done }

//go:noinline
func waitsBeside(done <-chan struct{}) { <-done }

//go:noinline
func deep(calls int, done <-chan struct{}) int {
	if calls == 0 {
		<-done
		return 0
	}
	return deep(calls-1, done) + 1
}

// Of 300 handlers in 3 tasks, the stack of one is its own, and nothing else's.
func TestStackOfOneAmongMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		done := make(chan struct{})
		var stuck int64
		handle := func(_ context.Context, job *wire.Job) worker.Outcome {
			if job.ID == stuck {
				go waitsBeside(done)
				go waitsBeside(done)
				waitsStuck(done)
			}
			waitsInTask(done)
			return completed
		}
		tasks := []string{"a", "b", `c", "backfill_job":"1`}
		for _, task := range tasks {
			ids := db.add(100, wire.Job{Task: task})
			stuck = ids[50]
		}
		r := newRig(t, db, handle, concurrency(300), func(s *setup) { s.Tasks = tasks })
		r.pass(time.Second)
		text := r.worker.Stack(stuck)
		handler, others, _ := strings.Cut(text, "These goroutines carry its labels")
		if n := strings.Count(handler, "waitsStuck"); n != 1 || strings.Contains(text, "waitsInTask") || strings.Contains(handler, "waitsBeside") {
			t.Errorf("it is shown in %d stacks:\n%s", n, text)
		}
		if !strings.HasPrefix(handler, "The handler is here:\n\ngithub.com/") || !strings.Contains(handler, "stack_test.go:") ||
			strings.Contains(handler, "(*Worker)") || strings.Contains(handler, "+0x") {
			t.Errorf("the handler's stack is\n%s", handler)
		}
		if !strings.Contains(others, "2 goroutines like this one") || strings.Count(others, "waitsBeside") != 1 {
			t.Errorf("the others are\n%s", others)
		}
		if text := r.worker.Stack(1); strings.Count(text, "waitsInTask") != 1 || strings.Contains(text, "waitsStuck") {
			t.Errorf("of job 1:\n%s", text)
		}
		close(done)
	})
}

// What outlives a handler keeps its labels. It is not shown as the handler's, neither when the job
// has ended nor when it runs again, and the next job of the slot has labels of its own.
func TestStackOfAJobThatEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		left, done, again := make(chan struct{}), make(chan struct{}), make(chan struct{})
		r := newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
			switch {
			case job.Key != "opener":
				waitsStuck(done)
			case job.Attempt == 1:
				go waitsBeside(left)
				return worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Delay: time.Minute}
			default:
				waitsInTask(again)
			}
			return completed
		}, concurrency(1), latency(opFail, 3*time.Second)) // a job that has ended is held until that is recorded
		opener := db.insert(1, wire.Job{Key: "opener"})[0]
		r.pass(time.Second)
		if text := r.worker.Stack(opener); text != "" || r.worker.Health().Unrecorded != 1 {
			t.Errorf("a job that has ended, of %d, is here:\n%s", r.worker.Health().Unrecorded, text)
		}
		r.pass(4 * time.Second)
		next := db.insert(1, wire.Job{})[0]
		r.pass(time.Second)
		if text := r.worker.Stack(next); !strings.Contains(text, "waitsStuck") || strings.Contains(text, "waitsBeside") {
			t.Errorf("the next job of the slot:\n%s", text)
		}
		close(done)
		r.pass(time.Minute)
		handler, others, _ := strings.Cut(r.worker.Stack(opener), "These goroutines carry its labels")
		if !strings.Contains(handler, "waitsInTask") || strings.Contains(handler, "waitsBeside") || !strings.Contains(others, "waitsBeside") {
			t.Errorf("its second attempt:\n%s%s", handler, others)
		}
		close(again)
		close(left)
	})
}

// Workers of one process on several databases have jobs with equal ids.
func TestStackAmongDatabases(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		done := make(chan struct{})
		var workers []*worker.Worker
		var jobs []int64
		for _, waits := range []func(<-chan struct{}){waitsStuck, waitsBeside} {
			db := newDB(t)
			r := newRig(t, db, func(context.Context, *wire.Job) worker.Outcome {
				waits(done)
				return completed
			})
			workers, jobs = append(workers, r.worker), append(jobs, db.insert(1, wire.Job{})...)
		}
		synctest.Wait()
		text := workers[0].Stack(jobs[0])
		if jobs[0] != jobs[1] || !strings.Contains(text, "waitsStuck") || strings.Contains(text, "waitsBeside") {
			t.Errorf("job %d, which the other database has too (%d):\n%s", jobs[0], jobs[1], text)
		}
		close(done)
	})
}

// A handler that waits for what carries no labels, is deeper in calls than a profile goes, or has
// labels of its own shows where it waits; one that has removed them, what it has started, or why
// nothing is shown.
func TestStackOfUnusualHandlers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		handle func(ctx context.Context, done chan struct{})
		shows  []string
	}{
		"waits for a timer's function": {func(_ context.Context, done chan struct{}) {
			called := make(chan struct{})
			time.AfterFunc(time.Minute, func() { <-done; close(called) })
			waitsStuck(called)
		}, []string{"The handler is here", "waitsStuck"}},
		"has more labels": {func(ctx context.Context, done chan struct{}) {
			pprof.Do(ctx, pprof.Labels("a", "quoted \" \\ \n", "z", "{"), func(context.Context) { waitsStuck(done) })
		}, []string{"The handler is here", "waitsStuck"}},
		"is deep in calls": {func(_ context.Context, done chan struct{}) { deep(500, done) }, []string{"too deep in calls", "deep\n"}},
		"has removed its labels": {func(_ context.Context, done chan struct{}) {
			pprof.SetGoroutineLabels(context.Background())
			waitsStuck(done)
		}, []string{"No goroutine carries its labels"}},
		"has removed them after it started something": {func(_ context.Context, done chan struct{}) {
			go waitsBeside(done)
			pprof.SetGoroutineLabels(context.Background())
			waitsStuck(done)
		}, []string{"has changed its labels", "waitsBeside"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				done := make(chan struct{})
				r := newRig(t, db, func(ctx context.Context, _ *wire.Job) worker.Outcome {
					test.handle(ctx, done)
					return completed
				})
				job := db.insert(1, wire.Job{})[0]
				r.pass(2 * time.Minute)
				text := r.worker.Stack(job)
				for _, part := range test.shows {
					if !strings.Contains(text, part) {
						t.Errorf("%q is not in\n%s", part, text)
					}
				}
				close(done)
			})
		})
	}
}

// The log says of each handler that takes longer than expected once where it is, one a minute, and
// at most so much of it.
func TestLogSaysWhereHandlersHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		done := make(chan struct{})
		var log syncBuffer
		r := newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
			if job.Key == "deep" {
				deep(60, done)
			}
			waitsStuck(done)
			return completed
		}, concurrency(3), func(s *setup) { s.Logger = slog.New(slog.NewJSONHandler(&log, nil)) })
		db.insert(2, wire.Job{Queue: ""})
		db.insert(1, wire.Job{Key: "deep"})
		const hang = "handler takes longer than expected: it may hang"
		var counts []int
		r.pass(15 * time.Minute)
		for range 5 {
			counts = append(counts, strings.Count(log.String(), hang))
			r.pass(time.Minute)
		}
		if got := fmt.Sprint(counts); got != "[0 1 2 3 3]" {
			t.Errorf("lines, minute by minute: %s", got)
		}
		for _, part := range []string{
			`"task":"task","job_id":1,"attempt":1,"queue":""`, `"expected":900000000000,"such_jobs":3,"stack":"The handler is here:\n\ngithub.com/`, `waitsStuck`,
			`"job_id":3`, `deep\n`, `…"`,
		} {
			if !strings.Contains(log.String(), part) {
				t.Errorf("%q is not in\n%s", part, log.String())
			}
		}
		for line := range strings.SplitSeq(log.String(), "\n") {
			if len(line) > 6000 {
				t.Errorf("a line of %d bytes", len(line))
			}
		}
		close(done)
		r.pass(time.Second)
	})
}

// syncBuffer is a buffer that several goroutines write.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
