package schema

import (
	"context"
	_ "embed" // statements
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/migrations"
)

// explain adds to an error of the server how to resolve it.
func (m *migrator) explain(ctx context.Context, operation string, err error) error {
	switch sqlstate.Of(err) {
	case sqlstate.InsufficientRights:
		return m.explainRights(ctx, operation, err)
	case sqlstate.UndefinedColumn, sqlstate.UndefinedFunction, sqlstate.DatatypeMismatch, sqlstate.OutOfRange:
		if operation == opInspect {
			return m.errLedgerShape(err)
		}
	case sqlstate.LockNotAvailable:
		return m.wrong(lockText(err)+"; "+m.holders(ctx),
			"let that session finish, or end it with pg_terminate_backend(pid), and start again").from(err)
	}
	if schemaErr, ok := errors.AsType[*StateError](err); ok {
		return schemaErr
	}
	if breaking, ok := errors.AsType[*BreakingError](err); ok {
		return breaking
	}
	return wrapSchema(m.Schema, operation, err)
}

// explainStandstill returns the plan's error, or, if another installation may have stopped
// half-way, one that says so and who holds which locks.
func (m *migrator) explainStandstill(ctx context.Context, watch ledgerWatch, err, contended error) error {
	if state, ok := errors.AsType[*StateError](err); ok && state.unfinished && (!watch.waited || watch.highest >= migrations.Squashed) {
		return err
	}
	holders, remedy := m.holders(ctx), runPeer+notPeers
	if holders != nobody {
		remedy = "let that session finish, or end it; then " + remedy
	}
	return m.wrong(fmt.Sprintf("partial: its ledger has been at revision %d for %v; %s", watch.highest, m.standstill(), holders),
		remedy).from(contended)
}

// holdersSQL lists the sessions that hold our lock, or any lock on the schema's relations.
//
//go:embed query/holders.sql
var holdersSQL string

const nobody = "nobody holds a lock on it"

// holders says which sessions hold which locks at this moment.
func (m *migrator) holders(ctx context.Context) string {
	var text string
	err := reading(ctx, m.conn, func() error {
		return m.conn.QueryRow(ctx, holdersSQL, pgx.QueryExecModeExec, m.Schema, m.lockKey("migrate")).Scan(&text)
	})
	switch {
	case err != nil:
		return "who holds it is not known: " + err.Error()
	case text == "":
		return nobody
	default:
		return text
	}
}

// rightsSQL returns the current role, whether our tables exist, whether it has to write, the owner
// of the tables if the role is not a member of it, and the statements that give the role what it
// lacks. $2 says that it migrates, $3 that it would install what is missing.
//
//go:embed query/rights.sql
var rightsSQL string

// explainRights turns a refusal into the statement that an administrator has to run. A role that
// only works needs fewer rights than one that installs.
func (m *migrator) explainRights(ctx context.Context, operation string, refusal error) error {
	var role, owner, remedy string
	var installed, writes bool
	var grants []string
	err := reading(ctx, m.conn, func() error {
		return m.conn.QueryRow(ctx, rightsSQL, pgx.QueryExecModeExec, m.Schema, operation == opMigrate, m.Mode != MigrateVerify).
			Scan(&role, &installed, &writes, &owner, &grants)
	})
	switch {
	case err != nil: // The refusal says more than this failure.
		return wrapSchema(m.Schema, operation, refusal)
	case owner != "" && writes: // Only an owner can alter tables, whatever its rights.
		remedy = fmt.Sprintf("migrate once as role %q, which owns the tables; run: %s", owner, command(m.Schema))
	case owner != "" && installed:
		remedy = fmt.Sprintf("as role %q, which owns the tables, run: %s to let it enqueue, or: %s to let it work",
			owner, command(m.Schema, EnqueueRole.flag(), role), command(m.Schema, WorkerRole.flag(), role))
	case len(grants) > 0:
		remedy = "as an administrator, run: " + strings.Join(grants, " ")
	default:
		return wrapSchema(m.Schema, operation, refusal)
	}
	return m.wrong(fmt.Sprintf("role %q lacks the rights to %s it", role, operation), remedy).from(refusal)
}
