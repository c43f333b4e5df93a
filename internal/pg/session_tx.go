package pg

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/wire"
)

// statement is one statement of a list that is sent together.
type statement struct {
	text string
	args []any
	read func(rows) error // nil: it returns no rows that matter
}

// rows are the rows of pgx and of database/sql.
type rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
}

// session sends statements in one transaction.
type session interface {
	run(ctx context.Context, statements []statement) error
	// login returns the role that the session connected as, and encoding its client_encoding; ""
	// if that is not known.
	login() string
	encoding() string
}

// pgxSession sends statements in one round trip. Outside of a transaction they make up one.
type pgxSession struct {
	db interface {
		SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults
	}
	conn *pgx.Conn // may be nil
}

func (s pgxSession) login() string    { return s.status("session_authorization") }
func (s pgxSession) encoding() string { return s.status("client_encoding") }

func (s pgxSession) status(parameter string) string {
	if s.conn == nil {
		return ""
	}
	return s.conn.PgConn().ParameterStatus(parameter)
}

func (s pgxSession) run(ctx context.Context, statements []statement) error {
	var batch pgx.Batch
	for _, st := range statements {
		queued := batch.Queue(st.text, st.args...)
		if st.read == nil {
			continue
		}
		queued.Query(func(rows pgx.Rows) error {
			defer rows.Close()
			return readAll(rows, st.read)
		})
	}
	results := s.db.SendBatch(ctx, &batch)
	// Until here pgx has prepared statements and waited for that, and has sent the others without
	// waiting. A connection that has failed in it has not sent the Sync that would commit them.
	unsent := s.conn != nil && s.conn.IsClosed()
	err := results.Close()
	if err != nil && unsent {
		return &wire.NotEnqueuedError{Err: err}
	}
	return err
}

// sqlSession sends statements through database/sql, one after the other. Parameters are sent as
// text, and arrays as array literals, which every PostgreSQL driver passes on.
type sqlSession struct{ tx *sql.Tx }

func (sqlSession) login() string    { return "" }
func (sqlSession) encoding() string { return "" }

// run returns soon after the end of ctx, also where the driver does not: lib/pq asks the server to
// cancel, and waits until it answers. What it read by then is not used.
func (s sqlSession) run(ctx context.Context, statements []statement) error {
	end, ok := apart(ctx, closeTimeout, func() (struct{}, error) { return struct{}{}, s.runAll(ctx, statements) })
	if !ok {
		return context.Cause(ctx)
	}
	if end.panicked != nil {
		panic(end.panicked) //nolint:forbidigo // the driver has; the caller makes an error of it
	}
	return end.err
}

func (s sqlSession) runAll(ctx context.Context, statements []statement) error {
	for _, st := range statements {
		if err := s.runOne(ctx, st); err != nil {
			return err
		}
	}
	return nil
}

func (s sqlSession) runOne(ctx context.Context, st statement) (err error) {
	args := make([]any, len(st.args))
	for i, arg := range st.args {
		if args[i], err = textParameter(arg); err != nil {
			return err
		}
	}
	if st.read == nil {
		_, err = s.tx.ExecContext(ctx, st.text, args...)
		return err
	}
	rows, err := s.tx.QueryContext(ctx, st.text, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	return readAll(rows, st.read)
}

// readAll reads rows. Where the server has ended them with an error, that is the reason for what
// is missing.
func readAll(rows rows, read func(rows) error) error {
	err := read(rows)
	return cmp.Or(rows.Err(), err)
}

// textParameter returns a parameter in PostgreSQL's text format.
func textParameter(value any) (any, error) {
	if _, ok := value.(bool); ok {
		return value, nil
	}
	types := pgtype.NewMap()
	parameter, ok := types.TypeForValue(value)
	if !ok {
		return nil, fmt.Errorf("no text format for a parameter of type %T", value)
	}
	text, err := types.Encode(parameter.OID, pgtype.TextFormatCode, value, nil)
	if err != nil {
		return nil, fmt.Errorf("encode a parameter: %w", err)
	}
	return string(text), nil
}
