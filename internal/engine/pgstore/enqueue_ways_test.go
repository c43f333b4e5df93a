package pgstore_test

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/backfillhq/go/internal/engine"
	"github.com/backfillhq/go/internal/engine/pgstore"
	"github.com/backfillhq/go/testutil/pgtest"
)

// inserts are the ways to insert, all of which must leave the same rows.
var inserts = map[string]insert{
	"pool": insertPool(pgstore.EnqueueDirectly), "tx": insertTx(pgstore.EnqueueDirectly), "sql": insertSQL(pgstore.EnqueueDirectly),
	byFunction: insertPool(pgstore.EnqueueByFunction), byFunction + ", tx": insertTx(pgstore.EnqueueByFunction),
	byFunction + ", sql": insertSQL(pgstore.EnqueueByFunction),
}

type insert func(context.Context, *pgtest.Database, []engine.Spec) ([]*engine.Job, error)

// byFunction begins the names of the ways that give out no payloads.
const byFunction = "function"

func insertPool(access pgstore.EnqueueAccess) insert {
	return func(ctx context.Context, db *pgtest.Database, specs []engine.Spec) ([]*engine.Job, error) {
		return pgstore.NewInserter(db.Pool(), schemaName).Through(access).Insert(ctx, specs)
	}
}

func insertTx(access pgstore.EnqueueAccess) insert {
	return func(ctx context.Context, db *pgtest.Database, specs []engine.Spec) (jobs []*engine.Job, err error) {
		err = pgx.BeginFunc(ctx, db.Pool(), func(tx pgx.Tx) error {
			jobs, err = pgstore.NewInserter(db.Pool(), schemaName).Through(access).InsertTx(ctx, tx, specs)
			return err
		})
		return jobs, err
	}
}

func insertSQL(access pgstore.EnqueueAccess) insert {
	return func(ctx context.Context, db *pgtest.Database, specs []engine.Spec) ([]*engine.Job, error) {
		conn, err := sql.Open("pgx", db.URL)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		tx, err := conn.BeginTx(ctx, nil)
		if err != nil {
			return nil, err
		}
		jobs, err := pgstore.NewInserter(db.Pool(), schemaName).Through(access).InsertSQLTx(ctx, tx, specs)
		if err != nil {
			return nil, errors.Join(err, tx.Rollback())
		}
		return jobs, tx.Commit()
	}
}

var accesses = []pgstore.EnqueueAccess{pgstore.EnqueueDirectly, pgstore.EnqueueByFunction}
