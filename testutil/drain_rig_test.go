package testutil_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
	"github.com/backfillhq/go/testutil/pgtest"
)

// trial is a test that may fail.
type trial struct {
	testing.TB

	mu       sync.Mutex
	said     []string // what Errorf and Fatalf were given
	logged   []string
	cleanups []func()
}

func (f *trial) Helper()           {}
func (f *trial) Cleanup(fn func()) { f.cleanups = append(f.cleanups, fn) }

func (f *trial) Errorf(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = append(f.said, fmt.Sprintf(format, args...))
}

func (f *trial) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	runtime.Goexit()
}

func (f *trial) Logf(format string, args ...any) {
	f.logged = append(f.logged, fmt.Sprintf(format, args...))
}

func (f *trial) Failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.said) > 0
}

// try calls drain with a test that may fail, and returns with what it did, and its log.
func try(t *testing.T, drain func(testing.TB)) (said, logged string) {
	t.Helper()
	tb := &trial{TB: t}
	var wg sync.WaitGroup
	wg.Go(func() { drain(tb) }) // which Fatalf ends
	wg.Wait()
	for _, cleanup := range tb.cleanups {
		cleanup()
	}
	return strings.Join(tb.said, "\n"), strings.Join(tb.logged, "\n")
}

// tryDrain drains in a test that may fail.
func tryDrain(t *testing.T, client *backfill.Client, registry *backfill.Registry, opts ...testutil.DrainOption) (said, logged string) {
	t.Helper()
	return try(t, func(tb testing.TB) {
		tb.Helper()
		testutil.Drain(tb, client, registry, opts...)
	})
}

// tryDrainUntil moves the time in a test that may fail, and returns what that says.
func tryDrainUntil[T time.Time | time.Duration](t *testing.T, client *backfill.Client, registry *backfill.Registry, until T) string {
	t.Helper()
	said, _ := try(t, func(tb testing.TB) {
		tb.Helper()
		testutil.DrainUntil(tb, client, registry, until)
	})
	return said
}

// wantAll fails the test if a text lacks any of these.
func wantAll(t *testing.T, text string, wanted ...string) {
	t.Helper()
	for _, want := range wanted {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in: %s", want, text)
		}
	}
}

// sqlNow is what SQL calls now() in a session of the pool.
func sqlNow(ctx context.Context, db *pgtest.Database) (now time.Time, err error) {
	err = db.Pool().QueryRow(ctx, "select now()").Scan(&now)
	return now.UTC(), err
}

func execute(t *testing.T, db *pgtest.Database, sql string) {
	t.Helper()
	if _, err := db.Pool().Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// names are the runs of a drain of tasks whose args are strings.
func names(drained *testutil.Drained) (names []string) {
	for _, run := range drained.Runs {
		names = append(names, strings.Trim(string(run.Job.Args), `"`))
	}
	return names
}

var taskStep = &backfill.Task[string]{Name: "step", Backoff: backfill.FixedBackoff(time.Hour)}

// steps is a handler of taskStep that does what the function of a name does.
func steps(does map[string]func(context.Context) error) backfill.Binding {
	return backfill.Handle(taskStep, func(ctx context.Context, name string) error {
		if do := does[name]; do != nil {
			return do(ctx)
		}
		return nil
	})
}
