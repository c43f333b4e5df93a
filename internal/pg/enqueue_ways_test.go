package pg_test

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// inserts are the ways to insert, all of which must leave the same rows.
var inserts = map[string]insert{
	"pool": insertPool(schema.WritesTables), "tx": insertTx(schema.WritesTables), "sql": insertSQL(schema.WritesTables),
	byFunction: insertPool(schema.CallsFunction), byFunction + ", tx": insertTx(schema.CallsFunction),
	byFunction + ", sql": insertSQL(schema.CallsFunction), "pieces": insertPieces,
}

type insert func(context.Context, *pgtest.Database, []wire.Spec) ([]*wire.Job, error)

// byFunction begins the names of the ways that give out no payloads.
const byFunction = "function"

func insertPool(access schema.Access) insert {
	return func(ctx context.Context, db *pgtest.Database, specs []wire.Spec) ([]*wire.Job, error) {
		jobs, _, err := pg.NewInserter(db.Pool(), schemaName, access).InsertAll(ctx, specs, nil)
		return jobs, err
	}
}

// insertPieces sends each job by itself, in one transaction.
func insertPieces(ctx context.Context, db *pgtest.Database, specs []wire.Spec) ([]*wire.Job, error) {
	jobs, _, err := pg.NewInserter(db.Pool(), schemaName, schema.WritesTables).WithPieces(1).InsertAll(ctx, specs, nil)
	return jobs, err
}

func insertTx(access schema.Access) insert {
	return func(ctx context.Context, db *pgtest.Database, specs []wire.Spec) (jobs []*wire.Job, err error) {
		err = pgx.BeginFunc(ctx, db.Pool(), func(tx pgx.Tx) error {
			jobs, err = pg.NewInserter(db.Pool(), schemaName, access).InsertTx(ctx, tx, specs)
			return err
		})
		return jobs, err
	}
}

func insertSQL(access schema.Access) insert {
	return func(ctx context.Context, db *pgtest.Database, specs []wire.Spec) ([]*wire.Job, error) {
		conn, err := sql.Open("pgx", db.URL)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		tx, err := conn.BeginTx(ctx, nil)
		if err != nil {
			return nil, err
		}
		jobs, err := pg.NewInserter(db.Pool(), schemaName, access).InsertSQLTx(ctx, tx, specs)
		if err != nil {
			return nil, errors.Join(err, tx.Rollback())
		}
		return jobs, tx.Commit()
	}
}

var accesses = []schema.Access{schema.WritesTables, schema.CallsFunction}
