package schema

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/migrations"
)

// Mode says what [Migrate] may do.
type Mode int

const (
	// MigrateAuto installs what is missing, unless that would stop other workers.
	MigrateAuto Mode = iota
	// MigrateVerify changes nothing: a schema that is not up to date is an error.
	MigrateVerify
	// MigrateBreaking also takes steps that stop workers of older versions.
	MigrateBreaking
)

// Options configures [Migrate].
type Options struct {
	// Schema is the schema's name. Default: graphile_worker.
	Schema string
	// Mode says what may be done. Default: MigrateAuto.
	Mode Mode
	// Logger logs what was done. Default: slog.Default().
	Logger *slog.Logger
	// Report is filled in with what was found and done. Default: no report.
	Report *Report
	// Patience is how long to try for locks that others hold. Default: 10 s. If it is shorter than
	// that, another installer may make no progress for this time only.
	Patience time.Duration
	// LeaveIndex does not build our index on a table with jobs: see [StartIndexBuild].
	LeaveIndex bool
	// Repair replaces functions that belong to another schema. Otherwise they are an error: only a
	// person can tell whether this schema is meant, or the other one.
	Repair bool
	// Granting says that [GrantRole] comes next and gives the tables' owner the policies that it
	// needs if row level security is forced. Otherwise a lack of them is an error.
	Granting bool
}

const (
	defaultPatience = 10 * time.Second
	// cleanupTimeout bounds what has to be done on the connection after the caller's context ended.
	cleanupTimeout = 5 * time.Second
)

// Migrate brings the schema to the state that this version needs: Graphile Worker's newest
// revision that we know, and our own tables beside it. Any number of processes may call it at once,
// Graphile Worker's among them. If nothing is missing it reads once, and for the owner of the
// tables a second time, which compares the sequences with the ids.
//
// The connection must not be in a transaction; its session is left as it was. A migration either
// happens wholly or not at all. The exception is our index on a table with jobs: it is built
// concurrently, afterwards, and workers run without it. No statement waits longer than 50 ms for a
// lock that makes others wait behind it.
//
// Errors are a [*StateError] if somebody has to do something about the schema, a
// [*BreakingError] if it is too new.
func Migrate(ctx context.Context, conn *pgx.Conn, opts Options) error {
	m := newMigrator(conn, opts)
	if err := migrations.CheckSchemaName(m.Schema); err != nil {
		return err
	}
	if conn.PgConn().TxStatus() != 'I' {
		return wrapSchema(m.Schema, "migrate", errors.New("the connection is in a transaction"))
	}
	return m.run(ctx)
}

// What may fail.
const (
	opInspect = "inspect"
	opMigrate = "migrate"
)

type migrator struct {
	conn *pgx.Conn
	Options
}

// newMigrator fills in the defaults.
func newMigrator(conn *pgx.Conn, opts Options) *migrator {
	opts.Schema = cmp.Or(opts.Schema, migrations.DefaultSchema)
	opts.Logger = cmp.Or(opts.Logger, slog.Default())
	opts.Report = cmp.Or(opts.Report, &Report{})
	opts.Patience = cmp.Or(opts.Patience, defaultPatience)
	return &migrator{conn, opts}
}

// run repeats look and act until there is nothing left to do, because others may act as well.
func (m *migrator) run(ctx context.Context) error {
	var (
		watch     ledgerWatch
		contended error     // The last sign of another process that installs.
		lockedOut time.Time // Since then others of our processes have been migrating.
	)
	for {
		state, err := m.inspect(ctx)
		if err != nil {
			return m.explain(ctx, opInspect, err)
		}
		watch.observe(state)
		m.Report.observe(state)
		p, err := m.plan(state)
		switch {
		case err == nil && p.empty():
			return m.finish(ctx, state)
		case err == nil && m.Mode == MigrateVerify:
			return m.errVerify(p)
		case err == nil:
			began := time.Now()
			err = m.apply(ctx)
			if err == nil {
				continue
			}
			var again bool
			if again, err = m.keptOut(&lockedOut, began, err); again {
				continue
			}
			if !m.mayChange(err) {
				return m.explain(ctx, opMigrate, err)
			}
			if isDuplicate(err) && isDuplicate(contended) && !watch.moved {
				return m.errInTheWay(err)
			}
			contended = err
			watch.contend()
		}
		// Either another process is installing, or the schema stays as it is.
		if !m.mayChange(err) {
			return err
		}
		if !watch.moving(m.standstill()) {
			return m.explainStandstill(ctx, watch, err, contended)
		}
		watch.waited = true
		if !pause(ctx, m.standstill()/40) {
			return wrapSchema(m.Schema, "wait for another installer", context.Cause(ctx))
		}
	}
}

// inspect reads the state, from a server that answers. A peer that migrates may lock its tables
// against reads meanwhile.
func (m *migrator) inspect(ctx context.Context) (state *schemaState, err error) {
	read := func(inspect func(context.Context, querier, string) (*schemaState, error)) error {
		return answered(ctx, m.Patience+answerTimeout, func(ctx context.Context) error {
			return reading(ctx, m.conn, func() error {
				state, err = inspect(ctx, m.conn, m.Schema)
				return err
			})
		})
	}
	if err = read(inspectComplete); sqlstate.Of(err) == sqlstate.UndefinedTable {
		err = read(inspectIncomplete)
	}
	return state, err
}

// standstill is how long another installer may make no progress.
func (m *migrator) standstill() time.Duration { return min(m.Patience, defaultPatience) }

// mayChange reports whether the error can go away while another installer is at work.
func (m *migrator) mayChange(err error) bool {
	state, ok := errors.AsType[*StateError](err)
	return m.Mode != MigrateVerify && (ok && state.unfinished || isContention(err))
}

// isContention recognises what an installer sees when another one was faster.
func isContention(err error) bool {
	return isDuplicate(err) || sqlstate.Of(err) == sqlstate.UniqueViolation || sqlstate.Of(err) == sqlstate.DuplicateSchema
}

// isDuplicate recognises an object that exists. An installer commits its objects with a row of the
// ledger, so if the ledger does not move they are not an installer's.
func isDuplicate(err error) bool {
	return slices.Contains([]string{sqlstate.DuplicateTable, sqlstate.DuplicateObject, sqlstate.DuplicateFunction}, sqlstate.Of(err))
}

// ledgerWatch tells whether the ledger moves.
type ledgerWatch struct {
	highest   int
	changed   time.Time // zero before the first look
	moved     bool
	contended bool
	waited    bool
}

func (w *ledgerWatch) observe(state *schemaState) {
	switch {
	case w.changed.IsZero():
		// The newest row may be the last one, or the one before the next.
		w.changed = time.Now().Add(-state.age)
	case w.highest != state.ledger.Highest:
		w.changed, w.moved = time.Now(), true
	}
	w.highest = state.ledger.Highest
}

// contend starts the clock at the first sign of another installer, even if its ledger is old.
func (w *ledgerWatch) contend() {
	if !w.contended {
		w.contended, w.changed = true, time.Now()
	}
}

func (w *ledgerWatch) moving(standstill time.Duration) bool {
	return time.Since(w.changed) < standstill
}

// plan is what has to run, in order.
type plan struct {
	files []migrations.Migration
	// fresh means that nobody can be using the tables yet.
	fresh bool
	index indexState
	// foreign are the schemas to which functions belong that have to be replaced.
	foreign []string
}

func (p plan) empty() bool { return len(p.files) == 0 && len(p.foreign) == 0 }

func (p plan) paths() []string {
	var paths []string
	for _, m := range p.files {
		paths = append(paths, m.Path)
	}
	return paths
}

// plan decides what to do about a state.
func (m *migrator) plan(state *schemaState) (plan, error) {
	if state.version < minServerVersion {
		return plan{}, m.errServerVersion(state.version)
	}
	if err := state.ledger.check(m.Schema); err != nil {
		return plan{}, err
	}
	p := plan{index: state.index}
	switch highest := state.ledger.Highest; {
	case slices.Contains(state.relations, noTable):
		return plan{}, m.errTaken([]string{noTable})
	case highest == 0 && slices.Contains(state.relations, jobsTable):
		return plan{}, m.errNoLedger(state)
	case highest == 0 && len(state.found()) > 0:
		return plan{}, m.errTaken(state.found())
	case highest == 0:
		p.fresh = true
	case highest < migrations.Squashed:
		return plan{}, m.errOlder(state.ledger)
	case len(state.missing()) > 0:
		return plan{}, m.errNoObjects(state)
	case highest < 19 && m.Mode != MigrateBreaking:
		return plan{}, m.errCrossesBreaking(state.ledger)
	}
	if err := m.checkOwn(state); err != nil {
		return plan{}, err
	}
	if p.foreign = state.foreign(m.Schema); len(p.foreign) > 0 && !m.Repair {
		return plan{}, m.errForeignFunctions(p.foreign)
	}
	for _, file := range migrations.Wire() {
		if file.ID > state.ledger.Highest || file.ID == 0 && !state.exists {
			p.files = append(p.files, file)
		}
	}
	for _, file := range migrations.Own() {
		// The index has a life of its own: see buildIndex.
		if file.ID > state.own && file.Transactional() {
			p.files = append(p.files, file)
		}
	}
	return p, nil
}

func (m *migrator) checkOwn(state *schemaState) error {
	var recorded []string // that the ledger says are there
	for table, migration := range tableMigrations {
		if migration <= state.own {
			recorded = append(recorded, table)
		}
	}
	missing := absent(recorded, state.relations)
	switch {
	case state.own == 0 && slices.Contains(state.relations, workersTable):
		return m.errOwnObjects(0, workersTable+" is there")
	case state.own > 0 && len(missing) > 0:
		return m.errOwnObjects(state.own, are(missing)+" missing")
	case (state.own >= enqueueMigration) != slices.Contains(state.functions, enqueueFunction):
		return m.errOwnFunction(state.own)
	default:
		return nil
	}
}

// finish looks after what is not in the ledgers, once the tables are complete.
func (m *migrator) finish(ctx context.Context, state *schemaState) error {
	if len(state.forced) > 0 && !m.Granting {
		return m.errForced(state.role, state.forced)
	}
	if state.ledger.Highest > migrations.Newest {
		m.Logger.WarnContext(ctx, "schema is newer than this version of backfill, which may or may not be compatible",
			slog.String("schema", m.Schema), slog.Int("revision", state.ledger.Highest), slog.Int("supported", migrations.Newest))
	}
	if state.ledger.Breaking < 19 {
		// graphile_worker_rs has revisions 19 and 20 of its own, which break nothing.
		m.Logger.WarnContext(ctx, "schema was migrated by something else than Graphile Worker: revision 19 is not marked as breaking",
			slog.String("schema", m.Schema), slog.Int("revision", state.ledger.Highest))
	}
	if err := m.moveSequences(ctx, state); err != nil {
		return err
	}
	switch {
	case state.index == indexValid:
		return nil
	case m.Mode == MigrateVerify:
		m.warnOfIndex(ctx, "a client that only verifies does not build it", nil)
		return nil
	case m.LeaveIndex:
		return nil
	default:
		return m.buildIndex(ctx)
	}
}

// pause waits for d. It reports false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
