package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
)

// notifyAfter notifies in a transaction of its own, whose commit nobody waits for: while a notification's transaction commits,
// no other one in the database can (R17). It is control, as in nudge.go.
const notifyAfter = "select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"

// notifyTimeout bounds the notification that follows an insert.
const notifyTimeout = 10 * time.Second

// canPipeline reports whether inserts on this pool may be pipelined by hand: not if the pool avoids prepared statements, as it
// must behind some poolers, and not past the tracer of whoever wants to see every statement.
func canPipeline(pool *pgxpool.Pool) bool {
	config := pool.Config().ConnConfig
	return config.Tracer == nil && config.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement
}

// InsertAndNotify implements enqueue.Inserter. Insert and notification are written together, with a Sync between them: two
// transactions, of which the second begins when the first has committed.
func (i *Inserter) InsertAndNotify(ctx context.Context, spec wire.Spec, notified func()) (*wire.Job, bool, error) {
	if !i.pipelines || spec.Key != "" || spec.Queue != "" || !spec.RunAt.IsZero() {
		return nil, false, nil
	}
	conn, err := i.pool.Acquire(ctx)
	if err != nil {
		return nil, false, nil //nolint:nilerr // the ordinary way will meet it, and report it
	}
	// The caller's context may end before the notification is sent.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	finish := func() {
		cancel()
		conn.Release()
	}
	text := i.texts.render(query.InsertJob)
	insert, err := conn.Conn().Prepare(own, text, text)
	notify, notifyErr := conn.Conn().Prepare(own, notifyAfter, notifyAfter)
	var parameters pgx.ExtendedQueryBuilder
	if err == nil {
		err = parameters.Build(conn.Conn().TypeMap(), insert, insertArgs(spec))
	}
	if err != nil || notifyErr != nil {
		stop()
		finish()
		return nil, false, nil //nolint:nilerr // as above
	}
	pipeline := conn.Conn().PgConn().StartPipeline(own)
	pipeline.SendQueryPrepared(insert.Name, parameters.ParamValues, parameters.ParamFormats, parameters.ResultFormats)
	pipeline.SendPipelineSync()
	pipeline.SendQueryPrepared(notify.Name, [][]byte{[]byte(channelJobs), []byte(notification(1))}, nil, nil)
	job := jobOf(spec)
	if err = pipeline.Sync(); err == nil {
		err = readInserted(pipeline, conn.Conn().TypeMap(), &job)
	}
	stop()
	if errors.Is(err, pgx.ErrNoRows) { // the task has no id yet; the notification was for nothing, which harms nobody
		_ = pipeline.Close()
		finish()
		return nil, false, nil
	}
	go func() { // nobody waits for the rest
		timer := time.AfterFunc(notifyTimeout, cancel)
		_ = pipeline.Close() // a lost notification costs a poll; a broken connection leaves the pool
		timer.Stop()
		finish()
		notified()
	}()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return &job, true, rejected(i.explain(err))
}

// readInserted reads the insert's result up to its Sync: then it is committed.
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
		err = rows.Scan(&job.ID, &job.RunAt, &job.CreatedAt)
	}
	if rows.Close(); rows.Err() != nil {
		return rows.Err()
	}
	if _, syncErr := pipeline.GetResults(); syncErr != nil {
		return syncErr
	}
	return err
}
