package pg

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/enqueue"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
)

const (
	// insertTries bounds how often an insert is sent again after a conflict with other sessions.
	insertTries = 20
	// lockWait is how long an insert waits for a lock before it gives its connection back, see
	// wire.BlockedError. bulkLockWait is the same for a call of many statements, once it has the
	// locks that it could ask for.
	lockWait, bulkLockWait = "50ms", "9s"
)

// Inserter inserts jobs; it implements enqueue.Inserter. It is safe for concurrent use.
type Inserter struct {
	pool      *pgxpool.Pool
	texts     *texts
	pipelines bool
	traced    bool
	bounds    bounds
	access    schema.Access // of the pool's role
	limits    enqueue.Limits
	fixed     sync.Map // login role that cannot take another role -> its schema.Access
}

var _ enqueue.Inserter = (*Inserter)(nil)

// NewInserter returns an inserter on a client's pool, whose role enqueues by access.
func NewInserter(pool *pgxpool.Pool, schemaName string, access schema.Access) *Inserter {
	return &Inserter{
		pool: pool, texts: newTexts(schemaName), pipelines: canPipeline(pool), traced: pool.Config().ConnConfig.Tracer != nil,
		bounds: pieceBounds, access: access,
	}
}

// ReadTimeFrom makes statements read the time from the functions of a schema, for tests that move
// it. "": from PostgreSQL's own.
func (i *Inserter) ReadTimeFrom(clock string) { i.texts.readFrom(clock) }

// Insert implements enqueue.Inserter. It sends everything again, in a new transaction, when the
// server rolled the last one back because of other sessions.
func (i *Inserter) Insert(
	ctx *enqueue.Context, specs []wire.Spec, notify enqueue.Piggyback,
) ([]*wire.Job, bool, error) {
	a := &attempt{Inserter: i, specs: specs, access: i.access, notify: notify}
	for conflicts := 0; ; {
		jobs, notified, err := a.run(ctx)
		if err == nil {
			return jobs, notified, nil
		}
		conflict, again := a.next(ctx, err)
		if !again {
			return nil, false, a.outcome(err)
		}
		if !conflict {
			continue
		}
		if conflicts++; conflicts == insertTries {
			return nil, false, &wire.RejectedError{Err: stillConflicting(err)}
		}
		if !wait(ctx, time.Duration(conflicts)*time.Millisecond) {
			return nil, false, &wire.NotEnqueuedError{Err: ctx.Cause()}
		}
	}
}

// attempt inserts the specs of one call. What it learns from a try that failed is how to send the
// next one; it keeps no result of it, because that try's transaction was rolled back.
type attempt struct {
	*Inserter

	specs  []wire.Spec
	notify enqueue.Piggyback
	inUse  interruption // of the connection in use
	access schema.Access

	plan      *plan                   // nil as long as the call is a single plain insert
	names     bool                    // insert missing names first
	untraced  bool                    // the role may not write trace contexts
	forgotten int                     // tries whose prepared statements were gone
	readOnly  bool                    // a connection was
	fresh     int                     // connections that were read-only and may have been new
	mayBeNew  bool                    // the connection in use
	rights    *query.EnqueueRightsRow // of the session, asked for after a refusal
}

var errNamesMissing = errors.New("a task or queue has no id yet")

// run makes one try: one transaction on one connection.
func (a *attempt) run(ctx *enqueue.Context) (jobs []*wire.Job, notified bool, err error) {
	ctx.Step()
	made := a.connectionsMade()
	conn, err := a.acquire(ctx)
	if err != nil {
		return nil, false, err
	}
	a.mayBeNew = a.connectionsMade() != made
	if err := checkEncoding(pgxSession{conn: conn.Conn()}.encoding()); err != nil {
		conn.Release()
		return nil, false, &wire.NotEnqueuedError{Err: err}
	}
	if err := a.watch(ctx, conn); err != nil {
		conn.Release()
		return nil, false, &wire.NotEnqueuedError{Err: err}
	}
	ctx.Step()
	if a.plan == nil && a.access == schema.WritesTables && isPlain(a.specs) {
		return a.insertOne(ctx, conn)
	}
	defer func() { a.release(ctx, conn, err) }()
	if a.plan == nil {
		a.plan = newPlan(a.specs, a.bounds)
		a.names = a.names || a.plan.keyed || len(a.plan.pieces) > 1
	}
	n := newInsertion(a.texts, a.specs, a.access)
	n.whole, n.untraced = a.names, a.untraced
	if a.plan.large {
		err = n.insertLarge(ctx, conn, a.plan)
	} else {
		err = a.send(ctx, conn, n.smallStatements(a.plan, a.names)...)
	}
	if err != nil {
		return nil, false, err
	}
	switch missing := n.missing(); {
	case missing == 0:
		return n.result(), false, nil
	case a.names || a.access == schema.CallsFunction:
		return nil, false, fmt.Errorf("the database returned %d jobs fewer than were sent", missing)
	default:
		return nil, false, errNamesMissing
	}
}

// isPlain reports whether a call is one job that needs no name but its task's, and no trace
// context.
func isPlain(specs []wire.Spec) bool {
	return len(specs) == 1 && specs[0].Key == "" && specs[0].Queue == "" && specs[0].Trace.Parent == ""
}

// insertOne inserts a single plain job by a statement that waits for no row of anybody. It takes
// the connection over.
func (a *attempt) insertOne(ctx *enqueue.Context, conn *pgxpool.Conn) ([]*wire.Job, bool, error) {
	job := jobOf(a.specs[0])
	var notified bool
	var err error
	var done func()
	if a.notify != nil && a.pipelines && a.forgotten == 0 && a.specs[0].RunAt.IsZero() {
		done = a.notify()
	}
	if done != nil {
		notified, err = a.insertAndNotify(ctx, conn, &job, done)
	} else {
		err = a.insertAlone(ctx, conn, &job)
	}
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, false, errNamesMissing
	case err != nil:
		return nil, false, err
	}
	return []*wire.Job{&job}, notified, nil
}

func (a *attempt) insertAlone(ctx *enqueue.Context, conn *pgxpool.Conn, job *wire.Job) (err error) {
	defer func() { a.release(ctx, conn, err) }() // also when the application's tracer panics
	read := func(rows rows) error {
		if !rows.Next() {
			return pgx.ErrNoRows
		}
		return scanInserted(rows, job)
	}
	insert := statement{text: a.texts.render(query.InsertJob), args: insertArgs(&a.specs[0]), read: read}
	return a.send(ctx, conn, insert)
}

// send sends statements, which make up one transaction. A single one is prepared by its text: that
// is faster than a batch of one.
func (a *attempt) send(ctx *enqueue.Context, conn *pgxpool.Conn, list ...statement) error {
	statements := ctx.Statements()
	if len(list) > 1 || !a.pipelines || a.forgotten > 0 {
		return because(ctx, pgxSession{conn, conn.Conn()}.run(statements, slices.Clone(list)))
	}
	one := &list[0]
	if _, err := conn.Conn().Prepare(statements, one.text, one.text); err != nil {
		return notCommitted(because(ctx, err))
	}
	if err := ctx.Cause(); err != nil {
		return &wire.NotEnqueuedError{Err: err}
	}
	rows, err := conn.Query(statements, one.text, one.args...)
	if err == nil {
		err = readAll(rows, one.read)
		rows.Close() // reads the answer to the commit
		err = cmp.Or(rows.Err(), err)
	}
	return because(ctx, err)
}

// next says whether to send the call again after an error, and whether that error was a conflict
// with another session, which is to be waited out. It does so only if nothing was inserted for
// certain.
func (a *attempt) next(ctx *enqueue.Context, err error) (conflict, again bool) {
	_, unsent := errors.AsType[*wire.NotEnqueuedError](err)
	switch {
	case unsent:
		return false, false
	case errors.Is(err, errNamesMissing):
		a.names, a.plan = true, newPlan(a.specs, a.bounds)
		return false, true
	case !isRefusal(err):
		return false, false
	case isForgotten(err):
		a.forgotten++ // each connection of the pool may have forgotten them
		return false, a.forgotten < insertTries
	}
	switch sqlstate.Of(err) {
	case sqlstate.SerializationFailure, sqlstate.DeadlockDetected:
		return true, true
	case sqlstate.InvalidText:
		kind, _ := raised(err)
		again = kind == raisedTaken || kind == raisedNames
		return again, again
	case sqlstate.ReadOnlyTransaction:
		return false, a.onAnother()
	case sqlstate.InsufficientRights:
		if !a.untraced && a.mayNotTrace(err) {
			a.untraced = true
			return false, true
		}
		return false, a.otherWay(ctx)
	default:
		return false, false
	}
}

// mayNotTrace reports whether the role may not write trace contexts. Jobs are enqueued all the same,
// without.
func (a *attempt) mayNotTrace(err error) bool {
	said, ok := errors.AsType[*pgconn.PgError](err)
	return ok && strings.Contains(said.Message, "backfill_traces")
}

// freshTries is how many connections that may have been new a call tries. While other calls have
// the pool make connections too, it cannot be told whose is new.
const freshTries = 3

// onAnother reports whether to try another connection after one was read-only: those that the pool
// has may all lead to a server that is no longer the primary. Each that was tried has been closed,
// so this ends.
func (a *attempt) onAnother() bool {
	a.readOnly = true
	if a.mayBeNew {
		a.fresh++
	}
	return a.fresh < freshTries
}

// connectionsMade returns how many connections the pool has made, if that is of interest.
func (a *attempt) connectionsMade() int64 {
	if !a.readOnly {
		return 0
	}
	return a.pool.Stat().NewConnsCount()
}

// insertArgs are InsertJob's. The payload is a json.RawMessage: as bytes it would be a bytea in the
// query modes that poolers need.
func insertArgs(spec *wire.Spec) []any {
	return []any{
		spec.Task, json.RawMessage(spec.Payload), nullTime(spec.RunAt), spec.Delay.Microseconds(), spec.MaxAttempts,
		spec.Priority, flagsObject(spec.Flags),
	}
}

// wait sleeps for about d. It reports false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
