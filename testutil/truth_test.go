package testutil_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
	"github.com/backfillhq/go/testutil/pgtest"
)

// pair is a real Enqueuer, and how to get a Recorder's of the same kind.
type pair struct {
	real backfill.Enqueuer
	bind func(*testutil.Recorder) backfill.Enqueuer
}

// pairs are Enqueuers of each kind. Those on transactions have a database of their own, so that
// none waits for another's locks.
var pairs = map[string]func(*testing.T) pair{
	"client": func(t *testing.T) pair {
		t.Helper()
		client, _ := newClient(t)
		return pair{client, func(rec *testutil.Recorder) backfill.Enqueuer { return rec }}
	},
	"pgx": func(t *testing.T) pair {
		t.Helper()
		client, db := newClient(t)
		tx, err := db.Pool().Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
		return pair{client.WithTx(tx), func(rec *testutil.Recorder) backfill.Enqueuer { return rec.WithTx(nil) }}
	},
	"sql": func(t *testing.T) pair {
		t.Helper()
		client, db := newClient(t)
		conns, err := sql.Open("pgx", db.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conns.Close() })
		tx, err := conns.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tx.Rollback() })
		return pair{client.WithSQLTx(tx), func(rec *testutil.Recorder) backfill.Enqueuer { return rec.WithSQLTx(nil) }}
	},
}

func newClient(t *testing.T) (*backfill.Client, *pgtest.Database) {
	t.Helper()
	db := pgtest.New(t)
	client, err := backfill.NewClient(t.Context(), db.Pool(), backfill.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client, db
}

// truths are calls of Enqueue, one after the other, that a Recorder must answer as a client does.
// No two of them share a key.
func truths() map[string][][]backfill.Request {
	type request = backfill.Request
	first, last := time.Date(2040, 1, 2, 3, 4, 5, 678901999, time.FixedZone("", 3600)), time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
	one := func(requests ...request) [][]request { return [][]request{requests} }
	replaced := func(key string, mode backfill.KeyMode) [][]request {
		return [][]request{
			{{Task: "a", Args: raw(`{"n":1}`), Queue: "q", Key: key, KeyMode: mode, RunAt: first, MaxAttempts: 3, Flags: []string{"f"}}},
			{{Task: "b", Args: raw(`{"n": 2}`), Key: key, KeyMode: mode, RunAt: last, Priority: 4}},
			{{Task: "c", Key: key, KeyMode: mode, RunAt: last}, {Task: "d"}},
		}
	}
	var many []request
	for range 60 {
		many = append(many, request{Task: strings.Repeat("x", 100), Delay: -1})
	}
	return map[string][][]request{
		"none":     one(),
		"defaults": one(request{Task: "a"}),
		"all fields": one(request{
			Task: "a", Args: raw(" {\"n\" : 1}\n"), Queue: "q", Key: "all", Priority: -7, MaxAttempts: 3, RunAt: first,
			Flags: []string{"b", "a", "b"},
		}),
		"keyless":      one(request{Task: "a", Args: raw(" 7 "), Queue: "q", Priority: 7, MaxAttempts: 3, RunAt: first, Flags: []string{"b", "a", "b"}}),
		"delays":       one(request{Task: "a", Delay: time.Hour + 1999}, request{Task: "a", Key: "delay", Delay: time.Minute}),
		"limits":       one(request{Task: "a", MaxAttempts: math.MaxInt16, Priority: math.MinInt16, RunAt: time.Date(294276, 12, 31, 23, 59, 59, 999999000, time.UTC)}),
		"before Rome":  one(request{Task: "a", RunAt: time.Date(-4713, 11, 24, 0, 0, 0, 1999, time.UTC)}),
		"empty slices": one(request{Task: "a", Args: raw(""), Flags: []string{}}, request{Task: "a", Key: "empty", Args: raw(""), Flags: []string{}}),
		"tasks": one(TaskSendEmail.Request(SendEmailArgs{7, "a"}), taskPurge.Request(backfill.NoArgs{}),
			taskNotify.Request([]SendEmailArgs{{1, "b"}, {2, "<"}}), taskNotify.Request(nil)),
		"replace":       replaced("replace", backfill.Replace),
		"no mode":       replaced("no mode", ""),
		"preserve":      replaced("preserve", backfill.PreserveRunAt),
		"dedupe":        replaced("dedupe", backfill.UnsafeDedupe),
		"arrays":        one(request{Task: "a", Key: "arrays", Args: raw(`[1]`)}, request{Task: "a", Key: "arrays", Args: raw(` [{"n":1}, 2]`)}),
		"array to null": one(request{Task: "a", Key: "to null", Args: raw(`[1]`)}, request{Task: "a", Key: "to null", Args: raw(`null`)}),
		"null to array": one(request{Task: "a", Key: "null to", Args: raw(`null`)}, request{Task: "a", Key: "null to", Args: raw(`[1]`)}),
		"interleaved": one(request{Task: "a", Key: "x", Args: raw("1")}, request{Task: "b"}, request{Task: "c", Key: "y"},
			request{Task: "d", Key: "x", Args: raw("2")}, request{Task: "e", Key: "x", KeyMode: backfill.UnsafeDedupe}),
		"one of three is wrong": {{{Task: "a", Key: "w"}, {Task: "b", MaxAttempts: -1}, {Task: "c"}}, {{Task: "d", Key: "w"}}},
		"everything is wrong": one(
			request{},
			request{Task: strings.Repeat("é", 129), Queue: "\xff", KeyMode: backfill.Replace, MaxAttempts: math.MaxInt16 + 1, Flags: []string{"", "\x00"}},
			request{Task: "a", Key: strings.Repeat("k", 513), KeyMode: "x", Delay: 1, RunAt: first},
			request{Task: "a", RunAt: time.Date(294277, 1, 1, 0, 0, 0, 0, time.UTC), Args: raw("{")},
		),
		"too much is wrong": one(many...),
		"options are wrong": one(TaskSendEmail.Request(SendEmailArgs{}, backfill.MaxAttempts(0), backfill.Key("")),
			(*backfill.Task[int])(nil).Request(1), (&backfill.Task[func()]{Name: "f"}).Request(func() {})),
	}
}

// answer is what a call of Enqueue returned, without what differs from run to run.
type answer struct {
	Jobs []job
	None bool // the slice is nil
	Err  string
}

type job struct {
	backfill.Job // without ID, RunAt and CreatedAt

	Number int           // of the id, in the order in which they were first seen
	Same   int           // the first result of the call that is the same *Job
	Wait   time.Duration // from CreatedAt to RunAt
	RunAt  string        // where that is long; with the time zone
}

// call enqueues, and describes the answer. Ids that were seen are in ids.
func call(t *testing.T, e backfill.Enqueuer, ids map[int64]int, requests []backfill.Request) answer {
	t.Helper()
	jobs, err := e.Enqueue(t.Context(), requests...)
	a := answer{None: jobs == nil}
	if err != nil {
		a.Err = err.Error()
	}
	for _, j := range jobs {
		if ids[j.ID] == 0 {
			ids[j.ID] = len(ids) + 1
		}
		described := job{Job: *j, Number: ids[j.ID], Same: slices.Index(jobs, j), Wait: j.RunAt.Sub(j.CreatedAt)}
		described.ID, described.Job.RunAt, described.CreatedAt = 0, time.Time{}, time.Time{}
		if described.Wait.Abs() > 24*time.Hour {
			described.Wait, described.RunAt = 0, j.RunAt.String()
		}
		a.Jobs = append(a.Jobs, described)
	}
	return a
}

// sameArgs compares args byte for byte, except arrays, which the database writes anew when it
// merges them.
var sameArgs = cmp.Comparer(func(a, b json.RawMessage) bool {
	var x, y []any
	if json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && x != nil {
		return cmp.Equal(x, y)
	}
	return string(a) == string(b)
})

// The Recorder tells the truth: jobs and errors are those of a client on a database.
func TestRecorderAnswersAsAClient(t *testing.T) {
	t.Parallel()
	for kind, newPair := range pairs {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			pair := newPair(t)
			for name, calls := range truths() {
				rec := testutil.NewRecorder()
				realIDs, ids, taken := map[int64]int{}, map[int64]int{}, 0
				for i, requests := range calls {
					want, got := call(t, pair.real, realIDs, requests), call(t, pair.bind(rec), ids, requests)
					if diff := cmp.Diff(want, got, sameArgs, cmpopts.EquateEmpty()); diff != "" {
						t.Errorf("%s, call %d (-client +Recorder):\n%s", name, i, diff)
					}
					if want.Err == "" {
						taken += len(requests)
					}
				}
				if n := len(rec.Requests()); n != taken {
					t.Errorf("%s: %d requests were recorded, want %d", name, n, taken)
				}
			}
		})
	}
}

// A context that has ended is an error, but not the first that is looked for.
func TestRecorderHonoursTheContext(t *testing.T) {
	t.Parallel()
	canceled, cancel := context.WithCancelCause(t.Context())
	cancel(errDown)
	late, cancelLate := context.WithDeadline(t.Context(), time.Unix(0, 0))
	t.Cleanup(cancelLate)
	for kind, newPair := range pairs {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			pair, rec := newPair(t), testutil.NewRecorder()
			for _, ctx := range []context.Context{canceled, late} {
				for _, requests := range [][]backfill.Request{nil, {{}}, {{Task: "a"}}, {{Task: "a"}, {Task: "b"}}} {
					_, want := pair.real.Enqueue(ctx, requests...)
					jobs, err := pair.bind(rec).Enqueue(ctx, requests...)
					if jobs != nil || errors.Is(err, ctx.Err()) != errors.Is(want, ctx.Err()) || errors.Is(err, errDown) != errors.Is(want, errDown) {
						t.Errorf("%d requests: %v, %v, want %v", len(requests), jobs, err, want)
					}
					if kind != "pgx" && fmt.Sprint(err) != fmt.Sprint(want) { // pgx tells how far it came
						t.Errorf("%d requests: %v, want %v", len(requests), err, want)
					}
				}
			}
			if got := rec.Requests(); got != nil {
				t.Errorf("recorded %v", got)
			}
		})
	}
}
