package infra_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/needs"
)

// hang is how long a test waits for something that must happen. It only ends a test that has failed
// already.
const hang = time.Minute

// long skips a test that takes more than 5 seconds, unless everything is to run.
func long(t *testing.T) {
	t.Helper()
	if !needs.All() {
		t.Skip("for BACKFILL_TEST_ALL=1: it takes more than 5 seconds")
	}
}

// within waits until something holds, for a limited time, and returns how long that took.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("waited %v in vain for %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

// receive takes a value that must come.
func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case value := <-c:
		return value
	case <-time.After(hang):
		t.Fatalf("waited in vain for %s", what)
		panic("not reached")
	}
}

// logbook keeps the lines of a log, with their attributes.
type logbook struct {
	mu    sync.Mutex
	lines []line
}

type line struct {
	level slog.Level
	text  string // the message and its attributes
}

func (l *logbook) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (l *logbook) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *logbook) WithGroup(string) slog.Handler                    { return l }

func (l *logbook) Handle(_ context.Context, record slog.Record) error {
	text := record.Message
	record.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line{record.Level, text})
	return nil
}

func (l *logbook) logger() *slog.Logger { return slog.New(l) }

// from returns the lines of a level and above that have all of these parts.
func (l *logbook) from(level slog.Level, parts ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		lacks := func(part string) bool { return !strings.Contains(line.text, part) }
		if line.level >= level && !slices.ContainsFunc(parts, lacks) {
			found = append(found, line.text)
		}
	}
	return found
}

func (l *logbook) with(parts ...string) []string { return l.from(slog.LevelInfo, parts...) }

// show adds the log to the output of a test that has failed.
func (l *logbook) show(t *testing.T) {
	t.Helper()
	if t.Failed() {
		lines := l.with()
		t.Logf("%d lines of log:\n%s", len(lines), strings.Join(lines[:min(len(lines), 100)], "\n"))
	}
}

// journal is what was acknowledged and what has run, by the number that is the job's args.
type journal struct {
	mu    sync.Mutex
	next  int
	acked map[int]bool
	ran   map[int]int
	fails []error // of enqueues
}

func newJournal() *journal { return &journal{acked: map[int]bool{}, ran: map[int]int{}} }

// work is a task whose jobs are written down when they run.
func (j *journal) work(opts ...backfill.HandleOption) (*backfill.Task[job], *backfill.Registry) {
	task := &backfill.Task[job]{Name: "note"}
	return task, backfill.NewRegistry(backfill.Handle(task, func(_ context.Context, args job) error {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.ran[args.N]++
		return nil
	}, opts...))
}

type job struct {
	N    int    `json:"n"`
	Fill string `json:"fill,omitempty"`
}

// enqueue enqueues one job, and notes whether that was acknowledged.
func (j *journal) enqueue(ctx context.Context, client backfill.Enqueuer, task *backfill.Task[job], fill string, opts ...backfill.EnqueueOption) error {
	j.mu.Lock()
	n := j.next
	j.next++
	j.mu.Unlock()
	_, err := backfill.Enqueue(ctx, client, task, job{n, fill}, opts...)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err == nil {
		j.acked[n] = true
	} else if ctx.Err() == nil {
		j.fails = append(j.fails, err)
	}
	return err
}

// produce enqueues from several goroutines at once, at most every pause, until the function that it
// returns is called.
func (j *journal) produce(t *testing.T, goroutines int, pause time.Duration, enqueue func(ctx context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var producing sync.WaitGroup
	for range goroutines {
		producing.Go(func() {
			for ctx.Err() == nil {
				_ = enqueue(ctx) // the journal has it
				time.Sleep(pause)
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		producing.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// counts returns how many jobs were acknowledged, have run, and were refused.
func (j *journal) counts() (acked, ran, refused int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.acked), len(j.ran), len(j.fails)
}

func (j *journal) refusals() []error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.fails)
}

// lost are acknowledged jobs that have not run.
func (j *journal) lost() (list []int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for n := range j.acked {
		if j.ran[n] == 0 {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}

// sideBySide runs subtests six at a time: they wait more than they work.
func sideBySide[T any](t *testing.T, cases []T, name func(T) string, test func(*testing.T, T)) {
	t.Helper()
	var all sync.WaitGroup
	turns := make(chan struct{}, 6)
	for _, one := range cases {
		all.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			t.Run(name(one), func(t *testing.T) { test(t, one) })
		})
	}
	all.Wait()
}

// running is a worker that must run until the end of the test.
type running struct {
	*backfill.Worker

	t      *testing.T
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // after ended
}

// start runs a worker until the end of the test, which fails if the worker ends by itself.
func start(t *testing.T, client *backfill.Client, r *backfill.Registry, opts ...backfill.WorkerOption) *running {
	t.Helper()
	w := &running{t: t, ended: make(chan struct{})}
	var err error
	if w.Worker, err = client.NewWorker(r, opts...); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(context.WithoutCancel(t.Context()))
	go func() {
		defer close(w.ended)
		w.err = w.Run(ctx)
	}()
	t.Cleanup(w.stop)
	within(t, hang, "the worker's first claim", func() bool {
		w.lives()
		return !w.Health().LastClaim.IsZero()
	})
	return w
}

// lives fails the test if the worker has ended.
func (w *running) lives() {
	w.t.Helper()
	select {
	case <-w.ended:
		w.t.Fatalf("the worker has ended by itself: %v", w.err)
	default:
	}
}

func (w *running) stop() {
	w.t.Helper()
	if w.cancel == nil {
		return
	}
	select {
	case <-w.ended:
		w.t.Errorf("the worker has ended by itself: %v", w.err)
	default:
	}
	w.cancel()
	w.cancel = nil
	select {
	case <-w.ended:
		if w.err != nil {
			w.t.Errorf("run: %v", w.err)
		}
	case <-time.After(hang):
		w.t.Fatal("Run does not return")
	}
}

// open returns a client that logs to a book.
func open(t *testing.T, databaseURL string, log *logbook) *backfill.Client {
	t.Helper()
	client, err := backfill.Open(t.Context(), databaseURL, backfill.WithLogger(log.logger()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}
