package pg

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/enqueue"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
)

// notifyAfter notifies in a transaction of its own, whose commit nobody waits for: while a
// notification's transaction commits, no other one in the database can (R17).
const notifyAfter = nudge

// canPipeline reports whether inserts on this pool may be pipelined by hand: not if the pool
// avoids prepared statements, as it must behind some poolers, and not past the tracer of an
// application that wants to see every statement.
func canPipeline(pool *pgxpool.Pool) bool {
	config := pool.Config().ConnConfig
	return config.Tracer == nil && config.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement
}

// insertAndNotify inserts one job, and sends the workers' notification behind it. Both are written
// together, with a Sync between them: two transactions, of which the second begins when the first
// has committed. It takes the connection over, returns when the job is committed or has failed, and
// calls done when the notification is sent or lost. pgx.ErrNoRows means that nothing was inserted.
func (a *attempt) insertAndNotify(
	ctx *enqueue.Context, conn *pgxpool.Conn, job *wire.Job, done func(),
) (notified bool, err error) {
	statements := ctx.Statements()
	release := func(err error) {
		defer done()
		if sqlstate.Of(err) == sqlstate.UndefinedStatement && a.forget(ctx, conn) {
			err = nil
		}
		a.Release(ctx, conn, err)
	}
	returned := false
	end := func(err error) error {
		returned = true
		ctx.Unwatch()
		err = because(ctx, err)
		release(err)
		return err
	}
	defer func() {
		if !returned { // a function of the application's pool has panicked, or ended the goroutine
			_ = end(errNotReturned)
		}
	}()
	text := a.texts.render(query.InsertJob)
	insert, notify, err := prepare(statements, conn.Conn(), text)
	if err != nil {
		return false, end(notCommitted(err))
	}
	var parameters pgx.ExtendedQueryBuilder
	if err = parameters.Build(conn.Conn().TypeMap(), insert, insertArgs(&a.specs[0])); err != nil {
		return false, end(&wire.NotEnqueuedError{Err: err})
	}
	pipeline := conn.Conn().PgConn().StartPipeline(statements)
	pipeline.SendQueryPrepared(insert.Name, parameters.ParamValues, parameters.ParamFormats, parameters.ResultFormats)
	pipeline.SendPipelineSync()
	pipeline.SendQueryPrepared(notify.Name, [][]byte{[]byte(channelJobs), []byte(notification(1))}, nil, nil)
	if err = pipeline.Sync(); err == nil {
		err = readInserted(pipeline, conn.Conn().TypeMap(), job)
	}
	returned = true
	err = because(ctx, err)
	ctx.Unwatch() // another try may begin before the rest has been sent
	go func() {   // nobody waits for the rest
		rest := a.limits.NewContext(context.Background())
		_ = rest.Watch(&interruption{conn: conn.Conn()}) // it has not ended

		defer func() { _ = recover() }() // of the application's net.Conn
		defer func() {                   // the pool drops a connection that is busy
			rest.Unwatch()
			rest.Leave()
			release(err)
		}()
		_ = pipeline.Close() // a lost notification costs a poll; a broken connection leaves the pool
	}()
	return err == nil, err
}

var errNotReturned = errors.New("a function of the pool's configuration did not return")

// prepare prepares the two statements on a connection, unless they are.
func prepare(ctx context.Context, conn *pgx.Conn, text string) (insert, notify *pgconn.StatementDescription, err error) {
	if insert, err = conn.Prepare(ctx, text, text); err != nil {
		return nil, nil, err
	}
	notify, err = conn.Prepare(ctx, notifyAfter, notifyAfter)
	return insert, notify, err
}

// forget makes pgx prepare our statements again on a connection that has lost them. pgx does this
// only for those that it has named itself. One that exists where pgx did not prepare it is
// somebody else's, behind a pooler, and is left alone.
func (a *attempt) forget(ctx context.Context, conn *pgxpool.Conn) bool {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	for _, name := range []string{a.texts.render(query.InsertJob), notifyAfter} {
		if conn.Conn().Deallocate(limited, name) != nil {
			return false
		}
	}
	return true
}

// readInserted reads the row of InsertJob, and the end of its transaction.
func readInserted(pipeline *pgconn.Pipeline, types *pgtype.Map, job *wire.Job) error {
	results, err := pipeline.GetResults()
	if err != nil {
		return err
	}
	reader, ok := results.(*pgconn.ResultReader)
	if !ok {
		return fmt.Errorf("the database answered an insert with %T", results)
	}
	err = pgx.ErrNoRows
	rows := pgx.RowsFromResultReader(types, reader)
	for rows.Next() {
		err = scanInserted(rows, job)
	}
	if rows.Close(); rows.Err() != nil {
		return rows.Err()
	}
	results, syncErr := pipeline.GetResults()
	if syncErr != nil {
		return syncErr
	}
	if _, ok := results.(*pgconn.PipelineSync); !ok {
		return fmt.Errorf("the database ended an insert with %T", results)
	}
	return err
}
