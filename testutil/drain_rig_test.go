package testutil_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
	"github.com/backfillhq/go/testutil/pgtest"
)

// saidBy calls drain with a test that may fail, and returns what that says, and its log.
func saidBy(t *testing.T, drain func(testing.TB)) (said, logged string) {
	t.Helper()
	tb := try(t, func(tb *trial) { drain(tb) })
	return tb.failed(), tb.logged()
}

// tryDrain drains in a test that may fail.
func tryDrain(t *testing.T, client *backfill.Client, registry *backfill.Registry, opts ...testutil.DrainOption) (said, logged string) {
	t.Helper()
	return saidBy(t, func(tb testing.TB) {
		tb.Helper()
		testutil.Drain(tb, client, registry, opts...)
	})
}

// tryDrainUntil moves the time in a test that may fail, and returns what that says.
func tryDrainUntil[T time.Time | time.Duration](t *testing.T, client *backfill.Client, registry *backfill.Registry, until T) string {
	t.Helper()
	said, _ := saidBy(t, func(tb testing.TB) {
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

// doing is a handler of taskStep that does what the function of a name does.
func doing(does map[string]func(context.Context) error) backfill.Binding {
	return backfill.Handle(taskStep, func(ctx context.Context, name string) error {
		if do := does[name]; do != nil {
			return do(ctx)
		}
		return nil
	})
}
