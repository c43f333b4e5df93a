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
			real, fake := fmt.Sprint(story(t.Context(), client)), fmt.Sprint(story(t.Context(), rec))
			if diff := cmp.Diff(real, fake); diff != "" {
				t.Errorf("errors (-client +Recorder):\n%s", diff)
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
