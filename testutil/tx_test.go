package testutil_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
)

// inTxStories run functions in transactions. What they return, and which jobs there are afterwards,
// is the same for a client and for a Recorder.
var inTxStories = map[string]func(ctx context.Context, c backfill.Transactor) error{
	"commits": func(ctx context.Context, c backfill.Transactor) error {
		return backfill.InTx(ctx, c, func(ctx context.Context, _ pgx.Tx) error { return add(ctx, "a", "") })
	},
	"fails": func(ctx context.Context, c backfill.Transactor) error {
		return backfill.InTx(ctx, c, func(ctx context.Context, _ pgx.Tx) error {
			return errors.Join(add(ctx, "a", "k"), add(ctx, "b", "k"), errDown)
		})
	},
	"changes a job and fails": func(ctx context.Context, c backfill.Transactor) error {
		_, err := c.Enqueue(ctx, backfill.Request{Task: "a", Key: "k"})
		failed := backfill.InTx(ctx, c, func(ctx context.Context, _ pgx.Tx) error {
			return errors.Join(add(ctx, "b", "k"), add(ctx, "c", "k"), errDown)
		})
		jobs, again := c.Enqueue(ctx, backfill.Request{Task: "d", Key: "k"})
		return errors.Join(err, failed, again, fmt.Errorf("revision %d", jobs[0].Revision))
	},
	"panics": func(ctx context.Context, c backfill.Transactor) (err error) {
		defer func() { err = fmt.Errorf("panic: %v", recover()) }()
		return backfill.InTx(ctx, c, func(ctx context.Context, _ pgx.Tx) error {
			if err := add(ctx, "a", ""); err != nil {
				return err
			}
			panic("handler")
		})
	},
	"invalid": func(ctx context.Context, c backfill.Transactor) error {
		return backfill.InTx(ctx, c, func(ctx context.Context, _ pgx.Tx) error { return add(ctx, "", "") })
	},
	"through the tx": func(ctx context.Context, c backfill.Transactor) error {
		return backfill.InTx(ctx, c, func(ctx context.Context, tx pgx.Tx) error {
			_, err := c.WithTx(tx).Enqueue(ctx, backfill.Request{Task: "a"})
			_, again := backfill.FromContext(ctx).WithTx(tx).Enqueue(ctx, backfill.Request{Task: "b"})
			return errors.Join(err, again, errDown)
		})
	},
	"after the end": func(ctx context.Context, c backfill.Transactor) error {
		var err [2]error
		for i, end := range []error{nil, errDown} {
			var kept backfill.Enqueuer
			_ = backfill.InTx(ctx, c, func(ctx context.Context, _ pgx.Tx) error { kept = backfill.FromContext(ctx); return end })
			_, err[i] = kept.Enqueue(ctx, backfill.Request{Task: "a"})
		}
		return fmt.Errorf("closed: %v, %v", errors.Is(err[0], pgx.ErrTxClosed), errors.Is(err[1], pgx.ErrTxClosed))
	},
	"goes on after a failure": func(ctx context.Context, c backfill.Transactor) error {
		return backfill.InTx(ctx, c, func(ctx context.Context, tx pgx.Tx) error {
			if rec, ok := c.(*testutil.Recorder); ok {
				rec.FailWith(errDown)
				_ = add(ctx, "a", "")
				rec.FailWith(nil)
			} else if _, err := tx.Exec(ctx, "select 1/0"); err == nil {
				return errors.New("no failure")
			}
			if add(ctx, "b", "") == nil {
				return errors.New("enqueued in an aborted transaction")
			}
			return nil
		})
	},
	"goes on after its context has ended": func(ctx context.Context, c backfill.Transactor) error {
		return backfill.InTx(ctx, c, func(ctx context.Context, _ pgx.Tx) error {
			ended, cancel := context.WithCancel(ctx)
			cancel()
			if err := add(ended, "a", ""); !errors.Is(err, context.Canceled) {
				return err
			}
			return add(ctx, "b", "")
		})
	},
	"ended before": func(ctx context.Context, c backfill.Transactor) error {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		return backfill.InTx(ended, c, func(context.Context, pgx.Tx) error { return nil })
	},
	"one inside the other": func(ctx context.Context, c backfill.Transactor) error {
		return backfill.InTx(ctx, c, func(ctx context.Context, _ pgx.Tx) error {
			inner := backfill.InTx(ctx, c, func(ctx context.Context, _ pgx.Tx) error { return add(ctx, "b", "") })
			return errors.Join(add(ctx, "a", ""), inner, errDown)
		})
	},
	"nothing in it": func(ctx context.Context, c backfill.Transactor) error {
		_, err := c.Enqueue(nil) //nolint:staticcheck // on purpose
		_, none := c.WithTx(nil).Enqueue(ctx)
		return errors.Join(err, none)
	},
	"enqueues without a context": func(ctx context.Context, c backfill.Transactor) error {
		_, err := c.Enqueue(nil, backfill.Request{Task: "a"}) //nolint:staticcheck // on purpose
		return errors.Join(err, backfill.InTx(ctx, c, func(ctx context.Context, _ pgx.Tx) error {
			_, err := backfill.FromContext(ctx).Enqueue(nil, backfill.Request{Task: "a"}) //nolint:staticcheck // on purpose
			return err
		}))
	},
	"without a function": func(ctx context.Context, c backfill.Transactor) error { return backfill.InTx(ctx, c, nil) },
	"without a context": func(_ context.Context, c backfill.Transactor) error {
		return backfill.InTx(nil, c, func(context.Context, pgx.Tx) error { return nil }) //nolint:staticcheck // on purpose
	},
}

func add(ctx context.Context, task, key string) error {
	_, err := backfill.FromContext(ctx).Enqueue(ctx, backfill.Request{Task: task, Key: key})
	return err
}

func TestRecorderInTxIsAsAClients(t *testing.T) {
	t.Parallel()
	for name, story := range inTxStories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, db := newClient(t)
			rec := testutil.NewRecorder()
			real, fake := story(t.Context(), client), story(t.Context(), rec)
			if diff := cmp.Diff(fmt.Sprint(real), fmt.Sprint(fake)); diff != "" {
				t.Errorf("errors (-client +Recorder):\n%s", diff)
			}
			for _, kind := range []error{backfill.ErrInvalidRequest, backfill.ErrOutcomeUnknown, backfill.ErrNoClient, errDown} {
				if is := errors.Is(real, kind); errors.Is(fake, kind) != is {
					t.Errorf("errors.Is(%v, %v): %v of a client", fake, kind, is)
				}
			}
			var stored []string
			rows, err := db.Pool().Query(t.Context(), "select task_identifier from graphile_worker.jobs order by id")
			if err == nil {
				stored, err = pgx.CollectRows(rows, pgx.RowTo[string])
			}
			if err != nil {
				t.Fatal(err)
			}
			recorded := map[string]string{} // by key: requests with one are one job
			var last []string
			for i, request := range rec.Requests() {
				if request.Key == "" {
					request.Key = fmt.Sprint(i)
				}
				recorded[request.Key] = request.Task
			}
			for _, task := range recorded {
				last = append(last, task)
			}
			if diff := cmp.Diff(stored, last); diff != "" && len(stored)+len(last) > 0 {
				t.Errorf("jobs (-client +Recorder):\n%s", diff)
			}
		})
	}
}

// The transaction that a Recorder gives to functions says that there is no database, and never
// panics.
func TestRecorderInTxHasNoDatabase(t *testing.T) {
	t.Parallel()
	const want = "testutil: a Recorder has no database: test what uses the transaction with package pgtest"
	uses := map[string]func(context.Context, pgx.Tx) error{
		"exec":    func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "select 1"); return err },
		"row":     func(ctx context.Context, tx pgx.Tx) error { return tx.QueryRow(ctx, "select 1").Scan(new(int)) },
		"begin":   func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Begin(ctx); return err },
		"commit":  func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) },
		"batch":   func(ctx context.Context, tx pgx.Tx) error { return tx.SendBatch(ctx, &pgx.Batch{}).Close() },
		"prepare": func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Prepare(ctx, "s", "select 1"); return err },
		"copy": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"t"}, nil, pgx.CopyFromRows(nil))
			return err
		},
		"collect": func(ctx context.Context, tx pgx.Tx) error {
			rows, _ := tx.Query(ctx, "select 1")
			_, err := pgx.CollectRows(rows, pgx.RowTo[int])
			return err
		},
		"no connection": func(_ context.Context, tx pgx.Tx) error { return fmt.Errorf("%v", tx.Conn() == nil) },
	}
	for name, use := range uses {
		err := testutil.NewRecorder().InTx(t.Context(), use)
		if name == "no connection" {
			if fmt.Sprint(err) != "true" {
				t.Errorf("%s: %v", name, err)
			}
		} else if fmt.Sprint(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A context that ended while the function ran is a commit that failed.
func TestRecorderInTxContextEnds(t *testing.T) {
	t.Parallel()
	rec := testutil.NewRecorder()
	ctx, cancel := context.WithCancel(t.Context())
	err := rec.InTx(ctx, func(ctx context.Context, _ pgx.Tx) error {
		err := add(ctx, "a", "k")
		cancel()
		return err
	})
	if !errors.Is(err, context.Canceled) || len(rec.Requests()) != 0 {
		t.Errorf("%v, recorded %v", err, rec.Requests())
	}
	if err := rec.InTx(ctx, nil); err == nil {
		t.Error("no function: no error")
	}
}

// A Recorder that is nil enqueues nothing, as a client that is nil.
func TestRecorderThatIsNil(t *testing.T) {
	t.Parallel()
	var rec *testutil.Recorder
	enqueue := func(e backfill.Enqueuer) error {
		_, err := e.Enqueue(t.Context(), backfill.Request{Task: "a"})
		return err
	}
	for _, err := range []error{
		enqueue(rec), enqueue(rec.WithTx(nil)), enqueue(rec.WithSQLTx(nil)),
		rec.InTx(t.Context(), func(context.Context, pgx.Tx) error { return nil }),
	} {
		if !errors.Is(err, backfill.ErrNoClient) {
			t.Error(err)
		}
	}
}

// What the function does to the transaction ends it: nothing that was enqueued in it is recorded.
func TestRecorderInTxIsEndedByItsFunction(t *testing.T) {
	t.Parallel()
	for _, end := range []func(context.Context, pgx.Tx) error{
		func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) },
		func(ctx context.Context, tx pgx.Tx) error { return tx.Rollback(ctx) },
	} {
		rec := testutil.NewRecorder()
		err := rec.InTx(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
			err := add(ctx, "a", "")
			_ = end(ctx, tx)
			return err
		})
		if !errors.Is(err, pgx.ErrTxClosed) || len(rec.Requests()) != 0 {
			t.Errorf("%v, recorded %v", err, rec.Requests())
		}
	}
}

// A rollback does not take away what others have done to a job since: it runs.
func TestRecorderRollsBackItsOwnOnly(t *testing.T) {
	t.Parallel()
	ran := 0
	task := &backfill.Task[backfill.NoArgs]{Name: "a"}
	registry := backfill.NewRegistry(backfill.Handle(task, func(context.Context, backfill.NoArgs) error { ran++; return nil }))
	rec := testutil.NewRecorder()
	for _, before := range []int{0, 1} { // jobs with the key
		for range before {
			mustEnqueue(t, rec, backfill.Request{Task: "a", Key: "k"})
		}
		err := rec.InTx(t.Context(), func(ctx context.Context, _ pgx.Tx) error {
			err := errors.Join(add(ctx, "a", "k"), add(ctx, "a", "k"))
			mustEnqueue(t, rec, backfill.Request{Task: "a", Key: "k"}) // not in the transaction
			return errors.Join(err, errDown)
		})
		if !errors.Is(err, errDown) {
			t.Error(err)
		}
		if rec.Work(t, registry); ran != before+1 {
			t.Errorf("%d jobs before: %d jobs have run", before, ran)
		}
	}
}
