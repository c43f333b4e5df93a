package pg

import (
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// handlerRows are rows of a handler's transaction. Each use of them is one of the transaction.
type handlerRows struct {
	txn     *txSession
	rows    pgx.Rows // nil: refused
	refused error
}

// use calls fn with the rows, unless the transaction cannot be used.
func (r *handlerRows) use(fn func(pgx.Rows) error) error {
	if r.rows == nil {
		return r.refused
	}
	if err := r.txn.enter(); err != nil {
		r.refused = err
		return err
	}
	err := fn(r.rows)
	r.txn.leave(r.rows.Err())
	return err
}

func (r *handlerRows) Close() { _ = r.use(func(rows pgx.Rows) error { rows.Close(); return nil }) }

func (r *handlerRows) Err() error {
	if r.refused != nil {
		return r.refused
	}
	return r.use(func(rows pgx.Rows) error { return rows.Err() })
}

func (r *handlerRows) CommandTag() (tag pgconn.CommandTag) {
	_ = r.use(func(rows pgx.Rows) error { tag = rows.CommandTag(); return nil })
	return tag
}

func (r *handlerRows) FieldDescriptions() (fields []pgconn.FieldDescription) {
	_ = r.use(func(rows pgx.Rows) error { fields = rows.FieldDescriptions(); return nil })
	return fields
}

func (r *handlerRows) Next() (more bool) {
	err := r.use(func(rows pgx.Rows) error { more = rows.Next(); return nil })
	return more && err == nil
}

func (r *handlerRows) Scan(dest ...any) error {
	return r.use(func(rows pgx.Rows) error { return rows.Scan(dest...) })
}

func (r *handlerRows) Values() (values []any, err error) {
	err = r.use(func(rows pgx.Rows) (err error) { values, err = rows.Values(); return err })
	return values, err
}

func (r *handlerRows) RawValues() (values [][]byte) {
	_ = r.use(func(rows pgx.Rows) error { values = rows.RawValues(); return nil })
	return values
}

func (r *handlerRows) TypeMap() *pgtype.Map {
	if r.rows == nil {
		return nil
	}
	return r.rows.TypeMap()
}

// Conn returns the connection; nil if the query was refused.
func (r *handlerRows) Conn() *pgx.Conn {
	if r.txn == nil {
		return nil
	}
	r.txn.exposed.Store(true)
	return r.txn.conn
}

// handlerRow is the first of some rows, as pgx's own is.
type handlerRow struct{ rows pgx.Rows }

func (r handlerRow) Scan(dest ...any) error {
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}

// handlerBatch has the results of a batch in a handler's transaction.
type handlerBatch struct {
	txn     *txSession
	results pgx.BatchResults
}

func (b *handlerBatch) Exec() (pgconn.CommandTag, error) {
	if err := b.txn.enter(); err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := b.results.Exec()
	b.txn.leave(err)
	return tag, err
}

func (b *handlerBatch) Query() (pgx.Rows, error) {
	if err := b.txn.enter(); err != nil {
		return &handlerRows{refused: err}, err
	}
	rows, err := b.results.Query()
	b.txn.leave(err)
	return &handlerRows{txn: b.txn, rows: rows}, err
}

func (b *handlerBatch) QueryRow() pgx.Row {
	rows, _ := b.Query()
	return handlerRow{rows}
}

// Tx returns nil: a batch begins no transaction in another one.
func (b *handlerBatch) Tx() pgx.Tx { return nil }

// Close calls the functions that are queued in the batch, which read their own results.
func (b *handlerBatch) Close() error {
	if err := b.txn.enter(); err != nil {
		return err
	}
	err := b.results.Close()
	b.txn.leave(err)
	return err
}
