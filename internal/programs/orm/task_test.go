package orm_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Each library writes in the transaction of a transactional task: its row, the job that it enqueues
// and the end of its own job are there together, or not at all.
func TestTransactionalTasksOfORMs(t *testing.T) {
	t.Parallel()
	for name, do := range givens {
		for _, end := range []error{nil, errRollback} {
			t.Run(fmt.Sprint(name, ", ", end), func(t *testing.T) {
				t.Parallel()
				pool := pgtest.New(t).Pool()
				if _, err := pool.Exec(t.Context(), "create table users (id bigint primary key)"); err != nil {
					t.Fatal(err)
				}
				db := stdlib.OpenDBFromPool(pool)
				defer db.Close()
				client, err := backfill.NewClient(t.Context(), pool, backfill.WithSQLDB(db), backfill.WithLogger(slog.New(slog.DiscardHandler)))
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				signUp := &backfill.Task[backfill.NoArgs]{Name: "sign_up", Timeout: time.Minute, Backoff: backfill.FixedBackoff(time.Hour)}
				welcome := &backfill.Task[backfill.NoArgs]{Name: "welcome"}
				registry := backfill.NewRegistry(
					backfill.Handle(signUp, func(ctx context.Context, tx *sql.Tx, _ backfill.NoArgs) error {
						if _, err := do(ctx, db, tx); err != nil {
							return err
						}
						_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), welcome, backfill.NoArgs{})
						return errors.Join(err, end)
					}),
					backfill.Handle(welcome, func(context.Context, backfill.NoArgs) error { return nil }))
				if _, err := backfill.Enqueue(t.Context(), client, signUp, backfill.NoArgs{}); err != nil {
					t.Fatal(err)
				}
				report, err := backfill.RunOnce(t.Context(), registry, backfill.WithClient(client))
				if err != nil {
					t.Fatal(err)
				}
				var users int
				if err := pool.QueryRow(t.Context(), "select count(*) from users").Scan(&users); err != nil {
					t.Fatal(err)
				}
				completed, failed, want := int64(2), int64(0), 1
				if end != nil {
					completed, failed, want = 0, 1, 0
				}
				if report.Completed != completed || report.Failed != failed || users != want {
					t.Errorf("report %+v, %d users; want %d completed, %d failed, %d users", *report, users, completed, failed, want)
				}
			})
		}
	}
}
