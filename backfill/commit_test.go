package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// What InTx returns is true, whichever message between client and server is lost, and whichever
// Enqueuer the function takes.
func TestInTxIsTrueAtEveryMessage(t *testing.T) {
	t.Parallel()
	for name, enqueuer := range map[string]func(context.Context, *backfill.Client, pgx.Tx) backfill.Enqueuer{
		"of the context": func(ctx context.Context, _ *backfill.Client, _ pgx.Tx) backfill.Enqueuer {
			return backfill.FromContext(ctx)
		},
		"of the transaction": func(_ context.Context, c *backfill.Client, tx pgx.Tx) backfill.Enqueuer { return c.WithTx(tx) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			proxy := dbtest.NewProxy(t, db.URL)
			client, err := backfill.NewClient(t.Context(), poolOf(t, proxy.URL, func(*pgxpool.Config) {}), backfill.WithLogger(quiet))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			seen := map[string]bool{}
			for position, met := 1, byte('?'); met != 0; position++ {
				queue := fmt.Sprint("run", position)
				proxy.Arm(position, dbtest.Cut)
				err := backfill.InTx(t.Context(), client, func(ctx context.Context, tx pgx.Tx) error {
					_, err := enqueuer(ctx, client, tx).Enqueue(ctx, backfill.Request{Task: "t", Queue: queue})
					return err
				})
				met = proxy.Disarm()
				until(t, "no session is at work", func() bool {
					return get[bool](t, db.Pool(), `select not exists (select from pg_stat_activity where datname = current_database()
						and backend_type = 'client backend' and pid <> pg_backend_pid() and state <> 'idle')`)
				})
				rows := get[int](t, db.Pool(), "select count(*) from graphile_worker.jobs where queue_name = '"+queue+"'")
				unknown := err != nil && strings.Contains(err.Error(), "may or may not have been enqueued")
				if err == nil && rows != 1 || err != nil && !unknown && rows != 0 {
					t.Errorf("message %d: %v, and %d rows", position, err, rows)
				}
				seen[fmt.Sprint(err == nil, unknown)] = true
			}
			if len(seen) != 3 {
				t.Errorf("not every kind of answer was seen: %v", seen)
			}
		})
	}
}

// Calls outside of the transactions that have taken the whole pool end, and say why.
func TestPoolTakenByTransactions(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool := poolOf(t, db.URL, func(config *pgxpool.Config) { config.MaxConns = 1 })
	client, err := backfill.NewClient(t.Context(), pool, backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	outside := map[string]func(context.Context) error{
		"enqueue": func(ctx context.Context) error {
			_, err := client.Enqueue(ctx, backfill.Request{Task: "t"})
			return err
		},
		"keyed": func(ctx context.Context) error {
			_, err := client.Enqueue(ctx, backfill.Request{Task: "t", Key: "k"})
			return err
		},
		"InTx": func(ctx context.Context) error {
			return backfill.InTx(ctx, client, func(context.Context, pgx.Tx) error { return nil })
		},
	}
	err = backfill.InTx(t.Context(), client, func(context.Context, pgx.Tx) error {
		for what, call := range outside {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			err := call(ctx)
			cancel()
			wantError(t, err, "the jobs were not enqueued: all 1 connections of the pool have been in use")
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", what, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	wantJobs(t, db, 0)
}
