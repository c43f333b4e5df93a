package backfill_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// txRig is a database with a table that transactional handlers write to.
type txRig struct {
	db     *pgtest.Database
	client *backfill.Client
}

const writeEffect = "insert into public.effects (job, what) values ($1, $2)"

func newTxRig(t *testing.T) *txRig {
	t.Helper()
	db := pgtest.New(t)
	run(t, db, "create table public.effects (job bigint not null, what text not null)")
	return &txRig{db: db, client: newClient(t, db)}
}

func run(t *testing.T, db *pgtest.Database, sql string, args ...any) {
	t.Helper()
	if _, err := db.Pool().Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%v: %s", err, sql)
	}
}

// effects returns how many rows of this kind are committed; "": all.
func (r *txRig) effects(t *testing.T, what string) int {
	t.Helper()
	return get[int](t, r.db.Pool(), "select count(*)::int from public.effects where what = $1 or $1 = ''", what)
}

// write writes an effect of the job of ctx.
func write(ctx context.Context, tx pgx.Tx, what string) error {
	_, err := tx.Exec(ctx, writeEffect, backfill.JobInfo(ctx).ID, what)
	return err
}

type txArgs struct {
	N int `json:"n"`
}

// txTask describes a transactional task and binds it to a handler. Its jobs are retried in an hour.
func txTask(
	change func(*backfill.Task[txArgs]), handler func(context.Context, pgx.Tx, txArgs) error, more ...backfill.Binding,
) (*backfill.Task[txArgs], *backfill.Registry) {
	task := &backfill.Task[txArgs]{Name: "transactional", Timeout: time.Minute, Backoff: backfill.FixedBackoff(time.Hour)}
	if change != nil {
		change(task)
	}
	return task, backfill.NewRegistry(append(more, backfill.Handle(task, handler))...)
}
