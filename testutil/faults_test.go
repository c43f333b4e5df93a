package testutil_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
	"github.com/backfillhq/go/testutil/pgtest"
)

var (
	taskPay   = &backfill.Task[string]{Name: "pay"}
	taskPayTx = &backfill.Task[string]{Name: "pay", Timeout: time.Minute}
	taskMail  = &backfill.Task[string]{Name: "mail"}
)

// world is what the handlers of a trial work on.
type world struct {
	pool *pgxpool.Pool
	db   *sql.DB
}

func (w *world) exec(ctx context.Context, text string, args ...any) error {
	_, err := w.pool.Exec(ctx, text, args...)
	return err
}

// effects is a trial whose State are the rows that handlers have written, with how often.
func effects(handlers func(w *world) []backfill.Binding, requests ...backfill.Request) func(tb testing.TB) testutil.Trial {
	return func(tb testing.TB) testutil.Trial {
		tb.Helper()
		pool := pgtest.New(tb, pgtest.WithTracer(testutil.FaultTracer{}), pgtest.WithPoolSize(6)).Pool()
		w := &world{pool: pool, db: stdlib.OpenDBFromPool(pool)}
		tb.Cleanup(func() { _ = w.db.Close() })
		client, err := backfill.NewClient(tb.Context(), pool, backfill.WithSQLDB(w.db))
		if err == nil {
			err = w.exec(tb.Context(), "create table effects (what text); create table paid (what text primary key)")
		}
		if err != nil {
			tb.Fatalf("set up: %v", err)
		}
		tb.Cleanup(client.Close)
		return testutil.Trial{
			Client:   client,
			Registry: func() *backfill.Registry { return backfill.NewRegistry(handlers(w)...) },
			Enqueue: func(ctx context.Context) error {
				_, err := client.Enqueue(ctx, requests...)
				return err
			},
			State: func(ctx context.Context) (any, error) {
				rows, err := pool.Query(ctx, "select what || ' ' || count(*) from effects group by what order by what")
				if err != nil {
					return nil, err
				}
				return pgx.CollectRows(rows, pgx.RowTo[string])
			},
		}
	}
}

const (
	effect = "insert into effects values ($1)"
	once   = "insert into paid values ($1)"
)

// plainly binds the handler of a plain task.
func plainly(handle func(ctx context.Context, w *world, what string) error) func(w *world) []backfill.Binding {
	return func(w *world) []backfill.Binding {
		return []backfill.Binding{
			backfill.Handle(taskPay, func(ctx context.Context, what string) error { return handle(ctx, w, what) }),
			backfill.Handle(taskMail, func(ctx context.Context, what string) error {
				return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
					if tag, err := tx.Exec(ctx, once+" on conflict do nothing", what); err != nil || tag.RowsAffected() == 0 {
						return err
					}
					_, err := tx.Exec(ctx, effect, what)
					return err
				})
			}),
		}
	}
}

// What is idempotent passes: by a key and a transaction, as a transactional task of both kinds, and
// with a follow-up that has a key.
func TestFaultsPass(t *testing.T) {
	t.Parallel()
	pay := taskPay.Request("a")
	for name, setup := range map[string]func(tb testing.TB) testutil.Trial{
		"one transaction": effects(plainly(nil), taskMail.Request("a"), taskMail.Request("b")),
		"follow-up by key": effects(plainly(func(ctx context.Context, _ *world, what string) error {
			_, err := backfill.FromContext(ctx).Enqueue(ctx, taskMail.Request(what, backfill.Key(what)))
			return err
		}), pay),
		"pgx.Tx": effects(func(*world) []backfill.Binding {
			return []backfill.Binding{backfill.Handle(taskPayTx, func(ctx context.Context, tx pgx.Tx, what string) error {
				if _, err := tx.Exec(ctx, effect, what); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, once, what)
				return err
			})}
		}, pay),
		"sql.Tx": effects(func(*world) []backfill.Binding {
			return []backfill.Binding{backfill.Handle(taskPayTx, func(ctx context.Context, tx *sql.Tx, what string) error {
				if _, err := tx.ExecContext(ctx, effect, what); err != nil {
					return err
				}
				_, err := tx.ExecContext(ctx, once, what)
				return err
			})}
		}, pay),
		"one attempt": effects(plainly(func(ctx context.Context, w *world, what string) error {
			return w.exec(ctx, effect, what)
		}), taskPay.Request("a", backfill.MaxAttempts(1))),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			try(t, func(tb *trial) { testutil.Faults(tb, setup) }).passes()
		})
	}
}

// Each fault finds what is wrong with handlers that do not expect it, and says where.
func TestFaultsFind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		handle func(ctx context.Context, w *world, what string) error
		want   []string // each in a failure of its own
	}{
		{"effect", func(ctx context.Context, w *world, what string) error {
			return w.exec(ctx, effect, what)
		}, []string{
			"task \"pay\" is not idempotent: killed when its handler had returned, with args \"a\"\nState differs (-without faults, +with it):\n",
			"duplicated at its start, with args \"a\"",
		}},
		{"check, then act", func(ctx context.Context, w *world, what string) error {
			var there bool
			if err := w.pool.QueryRow(ctx, "select exists (select from effects where what = $1)", what).Scan(&there); err != nil || there {
				return err
			}
			return w.exec(ctx, effect, what)
		}, []string{"duplicated before statement 2 of 2, insert into effects values ($1), with args \"a\""}},
		{"mark, then act", func(ctx context.Context, w *world, what string) error {
			tag, err := w.pool.Exec(ctx, once+" on conflict do nothing", what)
			if err != nil || tag.RowsAffected() == 0 {
				return err
			}
			return w.exec(ctx, effect, what)
		}, []string{"killed before statement 2 of 2, insert", "canceled before statement 2 of 2, insert"}},
		{"not late", func(ctx context.Context, w *world, what string) error {
			if time.Since(backfill.JobInfo(ctx).CreatedAt) > 24*time.Hour {
				return nil
			}
			return w.once(ctx, what)
		}, []string{"late by 25 hours, behind all other jobs, with args \"a\""}},
		{"a second run fails", func(ctx context.Context, w *world, what string) error {
			if err := w.exec(ctx, once, what); err != nil {
				return backfill.Permanent(err)
			}
			return nil
		}, []string{"killed when its handler had returned, with args \"a\"\nafterwards a job fails for good: task \"pay\", args \"a\": ERROR: duplicate key", "duplicated at its start"}},
		{"follow-up without a key", func(ctx context.Context, _ *world, what string) error {
			_, err := backfill.FromContext(ctx).Enqueue(ctx, taskEffect.Request(what))
			return err
		}, []string{
			"task \"pay\" is not idempotent: killed when", "task \"pay\" is not idempotent: duplicated at",
			"task \"effect\" is not idempotent: killed when", "task \"effect\" is not idempotent: duplicated at",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tb := try(t, func(tb *trial) { testutil.Faults(tb, effects(withEffect(c.handle), taskPay.Request("a"))) })
			mustFind(t, tb, c.want...)
		})
	}
}

var taskEffect = &backfill.Task[string]{Name: "effect"}

func withEffect(handle func(ctx context.Context, w *world, what string) error) func(w *world) []backfill.Binding {
	return func(w *world) []backfill.Binding {
		return append(plainly(handle)(w), backfill.Handle(taskEffect, func(ctx context.Context, what string) error {
			return w.exec(ctx, effect, what)
		}))
	}
}

// once writes an effect, however often it is called.
func (w *world) once(ctx context.Context, what string) error {
	return w.exec(ctx, "with p as (insert into paid values ($1) on conflict do nothing returning what) insert into effects select what from p", what)
}

// mustFind fails the test unless there is one failure for each of these texts.
func mustFind(t *testing.T, tb *trial, want ...string) {
	t.Helper()
	if len(tb.failures) != len(want) {
		t.Errorf("%d failures, want %d:\n%s", len(tb.failures), len(want), tb.failed())
		return
	}
	for i, failure := range tb.failures {
		if !strings.Contains(plain(failure), want[i]) {
			t.Errorf("want %q in:\n%s", want[i], failure)
		}
	}
}

// A handler that takes the end of its context for success leaves its work undone.
func TestFaultsFindSwallowedCancellation(t *testing.T) {
	t.Parallel()
	tb := try(t, func(tb *trial) {
		testutil.Faults(tb, effects(plainly(func(ctx context.Context, w *world, what string) error {
			if err := w.once(ctx, what); err != nil && ctx.Err() == nil {
				return err
			}
			return nil
		}), taskPay.Request("a")))
	})
	mustFind(t, tb, "canceled at its start, with args \"a\"\nState differs")
}

// What handlers remember in their fields is gone after a crash.
func TestFaultsFindMemory(t *testing.T) {
	t.Parallel()
	tb := try(t, func(tb *trial) {
		testutil.Faults(tb, effects(func(w *world) []backfill.Binding {
			paid := map[string]bool{}
			return plainly(func(ctx context.Context, w *world, what string) error {
				if paid[what] {
					return nil
				}
				paid[what] = true
				return w.exec(ctx, effect, what)
			})(w)
		}, taskPay.Request("a")))
	})
	mustFind(t, tb, "killed when its handler had returned", "duplicated at its start")
}

// What a transactional task does outside of its transaction is seen.
func TestFaultsFindWhatIsOutsideOfTheTransaction(t *testing.T) {
	t.Parallel()
	tb := try(t, func(tb *trial) {
		testutil.Faults(tb, effects(func(w *world) []backfill.Binding {
			return []backfill.Binding{backfill.Handle(taskPayTx, func(ctx context.Context, tx pgx.Tx, what string) error {
				if _, err := tx.Exec(ctx, effect, what+" in"); err != nil {
					return err
				}
				return w.exec(ctx, effect, what+" out")
			})}
		}, taskPay.Request("a")))
	})
	mustFind(t, tb, "killed when its handler had returned", "duplicated at its start")
	mustContain(t, tb.failed(), "\"a in 1\",", "a out 1", "a out 2")
}

// A handler that goes on when its context has ended is named.
func TestFaultsFindDeafHandlers(t *testing.T) {
	t.Parallel()
	tb := try(t, func(tb *trial) {
		testutil.Faults(tb, effects(plainly(func(ctx context.Context, w *world, what string) error {
			if ctx.Err() != nil {
				time.Sleep(6 * time.Second) // what is wrong with it
			}
			return w.once(context.WithoutCancel(ctx), what)
		}), taskPay.Request("a")))
	})
	mustFind(t, tb, "canceled at its start, with args \"a\"\nits handler goes on for more than 5 seconds after its context has ended")
}

// Faults refuses what it cannot judge.
func TestFaultsRefuse(t *testing.T) {
	t.Parallel()
	pay := taskPay.Request("a")
	var random int
	for _, c := range []struct {
		want  string
		setup func(tb testing.TB) testutil.Trial
	}{
		{"no job has run", effects(plainly(nil))},
		{"the run without faults: a job fails without any fault: task \"pay\", args \"a\": boom", effects(
			plainly(func(context.Context, *world, string) error { return backfill.Permanent(errors.New("boom")) }), pay)},
		{"State differs between two runs without faults", effects(plainly(func(ctx context.Context, w *world, _ string) error {
			random++
			return w.exec(ctx, effect, strings.Repeat("x", random))
		}), pay)},
		{"the Trial lacks its Client", func(testing.TB) testutil.Trial { return testutil.Trial{} }},
	} {
		mustContain(t, try(t, func(tb *trial) { testutil.Faults(tb, c.setup) }).failed(), c.want)
	}
}
