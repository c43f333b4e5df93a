package schema

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/sqlstate"
)

// Logical replication and some restores copy rows, and leave sequences at 1. Each insert then takes
// an id that exists, and fails. An application that may migrate moves the sequences forward itself:
// a failed start would be no better than the failed inserts, and a gap in the ids does no harm.

// sequence is an identity sequence whose next value is an id that exists already, or is lower.
type sequence struct {
	Name, Table   string // Qualified, as SQL text.
	Next, Highest int64
}

// statement moves it past the highest id.
func (s sequence) statement() string {
	return fmt.Sprintf("select setval(%s, (select max(id) from %s));", quoteLiteral(s.Name), s.Table)
}

// behind returns the sequences that are behind the ids of their tables.
func behind(ctx context.Context, db querier, state *schemaState) ([]sequence, error) {
	if state.sequencesSQL == "" {
		return nil, nil
	}
	sql := "select s.sequence, s.relation, s.next, s.highest from (" + state.sequencesSQL + ") as s where s.next <= s.highest"
	rows, _ := db.Query(ctx, sql, pgx.QueryExecModeExec) // CollectRows returns its error.
	return pgx.CollectRows(rows, pgx.RowToStructByPos[sequence])
}

// moveSequences moves the sequences that are behind, or says which ones are.
func (m *migrator) moveSequences(ctx context.Context, state *schemaState) error {
	var late, moved []sequence
	var err error
	var lockedOut time.Time // Since then others of our processes have been migrating.
	for again := true; again; {
		began := time.Now()
		if late, err = m.lateSequences(ctx, state); err != nil {
			return wrapSchema(m.Schema, "compare sequences with ids", err)
		}
		if len(late) == 0 {
			return nil
		}
		if m.Mode == MigrateVerify {
			return m.errSequences(late, nil)
		}
		err = m.alone(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
			moved, err = moveBehind(ctx, tx, state)
			return err
		})
		again, err = m.keptOut(&lockedOut, began, err)
	}
	switch sqlstate.Of(err) {
	case "":
	case sqlstate.InsufficientRights:
		return m.errSequences(late, err)
	default:
		return m.explain(ctx, "move sequences", err)
	}
	for _, s := range moved {
		m.Report.Files = append(m.Report.Files, "setval of "+s.Name)
		m.Logger.WarnContext(ctx, "sequence was behind the ids of its table, and was moved past them",
			slog.String("schema", m.Schema), slog.String("sequence", s.Name), slog.Int64("next", s.Next), slog.Int64("highest", s.Highest))
	}
	return err
}

// lateSequences is behind in a transaction that only reads.
func (m *migrator) lateSequences(ctx context.Context, state *schemaState) (late []sequence, err error) {
	err = answered(ctx, m.Patience+answerTimeout, func(ctx context.Context) error {
		return reading(ctx, m.conn, func() (err error) {
			late, err = behind(ctx, m.conn, state)
			return err
		})
	})
	return late, err
}

// moveBehind locks inserts out. Otherwise an insert could take an id between our look at the
// highest one and setval, which would then move the sequence back.
func moveBehind(ctx context.Context, tx pgx.Tx, state *schemaState) ([]sequence, error) {
	late, err := behind(ctx, tx, state)
	if err != nil {
		return nil, err
	}
	for _, s := range late {
		if _, err := tx.Exec(ctx, "lock table "+s.Table+" in share row exclusive mode"); err != nil {
			return nil, err
		}
	}
	if late, err = behind(ctx, tx, state); err != nil {
		return nil, err
	}
	for _, s := range late {
		if _, err := tx.Exec(ctx, s.statement()); err != nil {
			return nil, err
		}
	}
	return late, nil
}
