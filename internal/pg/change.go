package pg

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/sqlstate"
)

// Changing is a transaction in which an operator changes something and records it.
type Changing struct {
	admin *Admin
	tx    pgx.Tx
	due   int  // jobs that can be due now: workers are told of them when it has committed
	ends  bool // it asks for the end of jobs that run
}

// Record is what is kept of a change, in its transaction.
type Record struct {
	ID                        string // made by who asks for the change
	At                        time.Time
	Principal, Action, Reason string
	Kind, Target, Task, Queue string
	Operation                 int64  // 0: none
	Detail                    []byte // JSON, without values of payloads
}

// changeTries is how often a change is tried: whether one whose answer was lost has been made, its
// record tells.
const changeTries = 3

var errRecorded = errors.New("somebody else has made a record with this id")

// Change runs a transaction that changes something, and keeps the record that run returns, under an
// id; with none, run has changed nothing. If there is a record with the id, that is returned, and
// nothing is changed: it is that of the same request.
func (a *Admin) Change(ctx context.Context, id string, run func(context.Context, *Changing) (*Record, error)) (first *Record, err error) {
	for try := 1; ; try++ {
		c := &Changing{admin: a}
		err := a.inTx(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
			c.tx = tx
			if _, err := tx.Exec(ctx, a.lockTimeout()); err != nil {
				return err
			}
			if first, err = c.recorded(ctx, id); err != nil || first != nil {
				return err
			}
			if err := c.checkLedger(ctx); err != nil {
				return err
			}
			record, err := run(ctx, c)
			if err != nil {
				return err
			}
			if record == nil { // perhaps because the same request has been met meanwhile
				first, err = c.recorded(ctx, id)
				return err
			}
			record.ID = id
			return c.record(ctx, record)
		})
		_, lost := errors.AsType[lostError](err)
		switch {
		case err == nil:
			c.tell(ctx)
			return first, nil
		case (lost && ctx.Err() == nil || errors.Is(err, errRecorded)) && try < changeTries:
			continue
		}
		return nil, a.explainChange(err)
	}
}

// again is inTx, again if the connection was lost: for what does the next step of something, which
// finds what was done before.
func (a *Admin) again(ctx context.Context, run func(context.Context, pgx.Tx) error) error {
	for try := 1; ; try++ {
		err := a.inTx(ctx, run)
		if _, lost := errors.AsType[lostError](err); !lost || ctx.Err() != nil || try == changeTries {
			return err
		}
	}
}

func (c *Changing) queries() *query.Queries { return query.New(renderer{c.tx, c.admin.texts}) }

// checkLedger refuses to change a schema that a newer Graphile Worker has broken with.
func (c *Changing) checkLedger(ctx context.Context) error {
	rows, err := c.queries().Ledger(ctx)
	for _, row := range rows {
		if row.Breaking && int(row.ID) > NewestRevision {
			return fmt.Errorf("revision %d of the schema %s is a breaking change that this version does not know: it knows those up to %d. "+
				"Use a newer version of backfill", row.ID, c.admin.settings.Schema, NewestRevision)
		}
	}
	return err
}

// recorded returns the record with an id; nil: there is none.
func (c *Changing) recorded(ctx context.Context, id string) (*Record, error) {
	rows, err := c.queries().Records(ctx, query.RecordsParams{ID: nullText(id), Size: 1})
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return newRecord(&rows[0]), nil
}

func newRecord(row *query.RecordsRow) *Record {
	return &Record{
		ID: row.ID, At: row.At.Time, Principal: row.Principal, Action: row.Action, Kind: row.TargetKind, Target: row.TargetID,
		Task: row.Task, Queue: row.Queue, Reason: row.Reason, Operation: row.OperationID, Detail: []byte(row.Detail),
	}
}

func (c *Changing) record(ctx context.Context, r *Record) error {
	detail := string(r.Detail)
	if detail == "" {
		detail = "{}"
	}
	added, err := c.queries().AddRecord(ctx, query.AddRecordParams{
		ID: r.ID, Principal: r.Principal, Action: r.Action, TargetKind: r.Kind, TargetID: r.Target, Task: r.Task, Queue: r.Queue,
		Reason: r.Reason, OperationID: pgtype.Int8{Int64: r.Operation, Valid: r.Operation != 0}, Detail: detail,
	})
	if err == nil && added == 0 {
		return errRecorded
	}
	return err
}

// tell wakes workers after the commit. Nothing is lost if it fails: they look for themselves.
func (c *Changing) tell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), nudgeTimeout)
	defer cancel()
	if c.due > 0 {
		_, _ = c.admin.pool.Exec(ctx, nudge, pgx.QueryExecModeExec, channelJobs, notification(c.due))
	}
	if c.ends {
		_, _ = c.admin.pool.Exec(ctx, nudge, pgx.QueryExecModeExec, channelCancel, "")
	}
}

// ErrNoRecords is returned for changes to a database that has no tables for what is recorded of them.
var ErrNoRecords = errors.New("changes are recorded in tables of backfill's, which this database does not have: " +
	"run backfill migrate as the owner of the tables; it changes nothing for Node workers")

// explainChange adds what is to be done.
func (a *Admin) explainChange(err error) error {
	switch state := sqlstate.Of(err); {
	case (state == sqlstate.UndefinedTable || state == sqlstate.UndefinedColumn) && strings.Contains(err.Error(), "backfill_"): // and not what a trigger needs
		return fmt.Errorf("%w (%w)", ErrNoRecords, err)
	case state == sqlstate.ReadOnlyTransaction:
		return fmt.Errorf("the server takes no changes: it is a standby, or its transactions are read-only by default; "+
			"connect to the primary: %w", err)
	}
	return a.settings.explain(explainReconnect(a.settings.config.ConnConfig, err), "change jobs, and record that",
		"as the owner of its tables, run: "+schema.GrantCommand(a.settings.Schema, a.settings.config.ConnConfig.User, schema.OperatorRole))
}

// RecordFilter says which records are meant. Nil, and the zero value, are not asked for.
type RecordFilter struct {
	Principals, Actions []string
	Kind, Target        string
	From, Before        time.Time
	BehindAt            time.Time // of the last one of the page before, with its id
	Behind              string
}

// Records returns a page of the records of changes, the newest first.
func Records(ctx context.Context, r *Reader, f RecordFilter, size int) (page []*Record, err error) {
	rows, err := Fact(ctx, r, "the record of changes", func(q *query.Queries, ctx context.Context) ([]query.RecordsRow, error) {
		return q.Records(ctx, query.RecordsParams{
			Principals: f.Principals, Actions: f.Actions, TargetKind: nullText(f.Kind), TargetID: nullText(f.Target),
			AtFrom: nullTime(f.From), AtBefore: nullTime(f.Before), BehindAt: nullTime(f.BehindAt), Behind: nullText(f.Behind),
			Size: int32(size), //nolint:gosec // a page
		})
	})
	for i := range rows {
		page = append(page, newRecord(&rows[i]))
	}
	return page, err
}

// Expire deletes some of the records and operations that are older than that, and previews that
// nobody has started.
func (a *Admin) Expire(ctx context.Context, records, operations time.Duration) error {
	return a.in(ctx, func(ctx context.Context, db query.DBTX) error {
		q := query.New(db)
		_, err := q.ExpireItems(ctx, operations.Seconds())
		if err == nil {
			_, err = q.ExpireOperations(ctx, operations.Seconds())
		}
		if err == nil {
			_, err = q.ExpireRecords(ctx, records.Seconds())
		}
		return err
	})
}

// Execute runs statements that an operator has seen, one after the other. They name the schema.
func (c *Changing) Execute(ctx context.Context, sql string) error {
	_, err := c.tx.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	return err
}
