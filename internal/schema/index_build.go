package schema

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/sqlstate"
)

// IndexBuild builds our index in the background, because a build ends only when every transaction
// that was open at its begin has ended: a start must not wait for that.
type IndexBuild struct {
	connect func(context.Context) (*pgx.Conn, error)
	opts    Options
	cancel  context.CancelFunc
	done    chan struct{}
}

// When an [IndexBuild] acts.
const (
	// indexDelay lets clients go that live for a moment only: they would build for nothing.
	indexDelay = 2 * time.Second
	// indexRetry is the time until it looks again, while another process builds or after a failure.
	indexRetry = 30 * time.Second
	// indexFailures is how often a build may fail before it is given up.
	indexFailures = 3
	// connectTimeout bounds a connection attempt.
	connectTimeout = 10 * time.Second
)

// StartIndexBuild builds the index on a connection of its own, which it takes from connect and
// closes. One process of a fleet builds; the others look again until the index is valid.
func StartIndexBuild(connect func(context.Context) (*pgx.Conn, error), opts Options) *IndexBuild {
	ctx, cancel := context.WithCancel(context.Background())
	b := &IndexBuild{connect: connect, opts: opts, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		b.run(ctx)
	}()
	return b
}

// Close cancels a build and returns when that is done. Of an interrupted build it drops what it can
// drop at once, and logs what is left.
func (b *IndexBuild) Close() {
	if b == nil {
		return
	}
	b.cancel()
	<-b.done
}

func (b *IndexBuild) run(ctx context.Context) {
	m := newMigrator(nil, b.opts)
	if !pause(ctx, indexDelay) {
		return
	}
	for failures := 0; ; {
		done, err := b.try(ctx, m)
		switch {
		case done || ctx.Err() != nil:
			return
		case err != nil:
			failures++
		}
		if final, _ := errors.AsType[*finalError](err); final != nil || failures == indexFailures {
			m.warnOfIndex(ctx, "the build was given up", err)
			return
		}
		if !pause(ctx, indexRetry) {
			return
		}
	}
}

// try builds the index. It reports whether the index is valid now.
func (b *IndexBuild) try(ctx context.Context, m *migrator) (done bool, err error) {
	connecting, cancel := context.WithTimeout(ctx, connectTimeout)
	m.conn, err = b.connect(connecting)
	cancel()
	if err != nil {
		return false, fmt.Errorf("connect: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		_ = m.conn.Close(ctx) // The server ends with the session what we leave open.
	}()
	if err := m.checkBuilder(ctx); err != nil {
		return false, err
	}
	return m.buildIndexAlone(ctx)
}

// finalError is a reason that another try would find again.
type finalError struct{ error }

func (e *finalError) Unwrap() error { return e.error }

// checkBuilder returns an error unless this connection may build, and is a session of ours: the
// build sets parameters and takes a session's lock, which would stay in a session of others. A
// pooler gives its clients process ids of its own, so a server's process id that differs from the
// connection's means that there is one.
func (m *migrator) checkBuilder(ctx context.Context) error {
	const sql = `
		select pg_backend_pid(), coalesce((
			select pg_has_role(c.relowner, 'usage') from pg_catalog.pg_class as c
			join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
			where n.nspname = $1 and c.relname = $2
		), false)`
	var (
		pid  uint32
		owns bool
	)
	err := reading(ctx, m.conn, func() error {
		return m.conn.QueryRow(ctx, sql, pgx.QueryExecModeExec, m.Schema, jobsTable).Scan(&pid, &owns)
	})
	switch {
	case err != nil && sqlstate.Of(err) == sqlstate.InsufficientRights:
		return &finalError{err}
	case err != nil:
		return fmt.Errorf("look at the tables: %w", err)
	case !owns:
		return &finalError{errors.New("this role does not own the tables")}
	case pid != m.conn.PgConn().PID():
		return &finalError{errors.New("the connection goes through a pooler, and a build needs one to PostgreSQL itself")}
	default:
		return nil
	}
}
