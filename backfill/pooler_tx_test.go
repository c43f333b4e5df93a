package backfill_test

import (
	"context"
	"database/sql"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
)

// However a transactional job ends, nothing waits for a second session as long as its transaction
// has one: behind a pooler with as many sessions as transactions, all would wait for each other.
func TestTransactionalNeedsOneSession(t *testing.T) {
	t.Parallel()
	for _, level := range []backfill.Isolation{backfill.ReadCommitted, backfill.RepeatableRead, backfill.Serializable} {
		for form, bind := range map[string]func(*backfill.Task[txArgs], func(context.Context) error) backfill.Binding{
			"pgx": func(task *backfill.Task[txArgs], act func(context.Context) error) backfill.Binding {
				return backfill.Handle(task, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
					return errors.Join(write(ctx, tx, "x"), act(ctx))
				})
			},
			"sql": func(task *backfill.Task[txArgs], act func(context.Context) error) backfill.Binding {
				return backfill.Handle(task, func(ctx context.Context, tx *sql.Tx, _ txArgs) error {
					_, err := tx.ExecContext(ctx, writeEffect, backfill.JobInfo(ctx).ID, "x")
					return errors.Join(err, act(ctx))
				})
			},
		} {
			t.Run(string(level)+" "+form, func(t *testing.T) {
				t.Parallel()
				r := newTxRig(t) // whose client connects in another way
				through := unprepared(t, dbtest.Pooler(t, r.db.URL, "transaction", 1))
				conns, err := sql.Open("pgx", through)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conns.Close() })
				client, err := backfill.Open(t.Context(), through, backfill.WithLogger(quiet), backfill.WithSQLDB(conns))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(client.Close)
				for _, test := range []struct {
					name    string
					act     func(t *testing.T, id int64) error
					effects int
					want    backfill.Report
				}{
					{"succeeds", func(*testing.T, int64) error { return nil }, 1, backfill.Report{Completed: 1}},
					{"fails", func(*testing.T, int64) error { return errBoom }, 0, backfill.Report{Failed: 1}},
					{"is cancelled", func(t *testing.T, id int64) error {
						t.Helper()
						if outcome := cancelJob(t, r.client, id); outcome.State != backfill.CancelRequested {
							t.Errorf("outcome %+v", outcome)
						}
						return nil
					}, 0, backfill.Report{Canceled: 1}},
					{"is lost", func(t *testing.T, id int64) error {
						t.Helper()
						run(t, r.db, "delete from graphile_worker._private_jobs where id = $1", id)
						return nil
					}, 0, backfill.Report{Lost: 1}},
				} {
					run(t, r.db, "delete from graphile_worker._private_jobs")
					run(t, r.db, "truncate public.effects")
					task := &backfill.Task[txArgs]{Name: "t", Timeout: time.Minute, Isolation: level, Backoff: backfill.FixedBackoff(time.Hour)}
					registry := backfill.NewRegistry(bind(task, func(ctx context.Context) error { return test.act(t, backfill.JobInfo(ctx).ID) }))
					enqueue(t, r.client, task, txArgs{}, backfill.Queue("q"))
					if report := runOnce(t, client, registry); !reflect.DeepEqual(report, &test.want) {
						t.Errorf("%s: report %+v, want %+v", test.name, report, &test.want)
					}
					if n := r.effects(t, ""); n != test.effects {
						t.Errorf("%s: %d effects, want %d", test.name, n, test.effects)
					}
				}
			})
		}
	}
}
