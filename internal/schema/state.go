package schema

import (
	"context"
	_ "embed" // statements
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/migrations"
)

// Ledger sums up Graphile Worker's table of migrations.
type Ledger struct {
	// Highest is the greatest revision, 0 if none is recorded.
	Highest int
	// Breaking is the greatest revision that is marked as breaking, 0 if there is none.
	Breaking int
}

// querier is a connection, a transaction or a pool.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// The long statements of this package are in query. sqlc does not compile them: they run on schemas
// that are missing or incomplete, and their text depends on which tables exist.

// ledgerSQL reads the ledger. By its age, an installation in progress differs from an old schema.
const ledgerSQL = `
  select
    coalesce(max(id), 0)::int as highest,
    coalesce(max(id) filter (where breaking), 0)::int as breaking,
    coalesce(extract(epoch from clock_timestamp() - max(ts)), 'infinity')::float8 as age
  from graphile_worker.migrations`

// CheckLedger reads how far the schema has been migrated. The error is a [*BreakingError]
// if it went past what this version can use.
func CheckLedger(ctx context.Context, db querier, schema string) (Ledger, error) {
	if err := migrations.CheckSchemaName(schema); err != nil {
		return Ledger{}, err
	}
	var ledger Ledger
	err := db.QueryRow(ctx, migrations.Render("select highest, breaking from ("+ledgerSQL+") as l", schema),
		pgx.QueryExecModeExec).Scan(&ledger.Highest, &ledger.Breaking)
	if err != nil {
		return Ledger{}, wrapSchema(schema, "read the ledger", err)
	}
	return ledger, ledger.check(schema)
}

func (l Ledger) check(schema string) error {
	if l.Breaking > migrations.Newest {
		return &BreakingError{
			Schema: schema, Revision: l.Highest, Breaking: l.Breaking, Supported: migrations.Newest,
		}
	}
	return nil
}

// schemaState is what one snapshot of the database shows of a schema.
type schemaState struct {
	version   int      // server_version_num
	exists    bool     // The schema itself.
	relations []string // Those of relationNames that exist.
	strangers bool     // Whether it has other tables or views.
	functions []string // Those of wireFunctions that exist.
	index     indexState
	ledger    Ledger
	age       time.Duration // Since the newest row of the ledger; maxAge if it has none.
	own       int           // The greatest ID in backfill_migrations.
	writable  bool          // Whether the role may enqueue directly,
	callable  bool          // and by backfill_enqueue.

	role       string   // The connection's role.
	forced     []string // Tables whose owner it is, but whose rows row level security hides from it.
	qualifiers []string // Schemas that functions name, except this one, as in SQL text.
	// sequencesSQL compares sequences with the ids of their tables, as far as the role may look at
	// them. It is empty if the role may look at none.
	sequencesSQL string
}

// access says how the role may enqueue. A role that may not at all gets the tables' refusal.
func (s *schemaState) access() Access {
	if !s.writable && s.callable {
		return CallsFunction
	}
	return WritesTables
}

type indexState int

const (
	indexMissing indexState = iota
	indexInvalid            // Left behind by an interrupted build, or being built.
	indexValid
)

const (
	ledgerTable      = "migrations"
	ownLedgerTable   = "backfill_migrations"
	jobsTable        = "_private_jobs"
	jobsView         = "jobs"
	specType         = "job_spec"
	workersTable     = "backfill_workers"
	pausesTable      = "backfill_pauses"
	crashesTable     = "backfill_crashes"
	lettersTable     = "backfill_dlq"
	queuePausesTable = "backfill_queue_pauses"
	cancelsTable     = "backfill_cancels"
	auditTable       = "backfill_audit"
	operationsTable  = "backfill_operations"
	itemsTable       = "backfill_operation_items"
	tracesTable      = "backfill_traces"
	countersTable    = "backfill_counters"
	progressTable    = "backfill_progress"
	historyTable     = "backfill_history"
	historyRestTable = "backfill_history_rest" // its partition for what no other one is for
	historyTasks     = "backfill_history_tasks"
)

// What a complete schema has.
var (
	wireRelations = []string{
		jobsTable, "_private_job_queues", "_private_tasks", "_private_known_crontabs", jobsView, specType,
	}
	wireFunctions = []string{
		"add_job", "add_jobs", "complete_jobs", "permanently_fail_jobs", "reschedule_jobs", "remove_job",
		"force_unlock_workers",
	}
	ownRelations = []string{
		workersTable, pausesTable, crashesTable, lettersTable, queuePausesTable, cancelsTable,
		auditTable, operationsTable, itemsTable, tracesTable, countersTable, progressTable, historyTable, historyTasks,
	}
)

// relationNames are the names that we and Graphile Worker use. A complete schema may lack the
// sequences.
var relationNames = slices.Concat(
	[]string{ledgerTable, ownLedgerTable, "jobs_id_seq1", "job_queues_id_seq", "tasks_id_seq"}, wireRelations, ownRelations,
	[]string{historyRestTable},
)

// noTable stands for a ledger that is a view, or the like, in the result of factsSQL.
const noTable = ledgerTable + " (not a table)"

// enqueueFunction is made by own/0003_enqueue.sql.
const enqueueFunction = "backfill_enqueue"

// historyFunction is made by own/0014_history.sql.
const historyFunction = "backfill_history_upkeep"

// schemaFunctions are all functions of a complete schema.
var schemaFunctions = append(slices.Clone(wireFunctions), enqueueFunction, historyFunction)

// enqueueMigration is that file's number.
const enqueueMigration = 3

// tableMigrations are the numbers of the files that make our tables.
var tableMigrations = map[string]int{
	workersTable: 1, pausesTable: 8, crashesTable: 9, lettersTable: 10, queuePausesTable: 11, cancelsTable: 12,
	auditTable: 13, operationsTable: 13, itemsTable: 13, tracesTable: 15,
	countersTable: 14, progressTable: 14, historyTable: 14, historyTasks: 14,
}

// factsSQL reads the catalogs only, so it works on any database. It is one statement, so that all
// facts are of one snapshot.
//
//go:embed query/facts.sql
var factsSQL string

// ownLedgerSQL reads our own ledger.
const ownLedgerSQL = `
  select coalesce(max(id), 0)::int as highest
  from graphile_worker.backfill_migrations`

// In the place of tables that do not exist.
const (
	noLedgerSQL    = "\n  select 0 as highest, 0 as breaking, 'infinity'::float8 as age"
	noOwnLedgerSQL = "\n  select 0 as highest"
)

// inspectComplete reads the state of a complete schema. If there is no ledger, the server refuses
// it as an undefined table.
func inspectComplete(ctx context.Context, db querier, schema string) (*schemaState, error) {
	return readState(ctx, db, schema, ledgerSQL, ownLedgerSQL)
}

// inspectIncomplete reads the state of a schema that may lack tables. Missing tables are no error
// of the server, so it can be used in a transaction.
func inspectIncomplete(ctx context.Context, db querier, schema string) (*schemaState, error) {
	ledger, own := noLedgerSQL, noOwnLedgerSQL
	for {
		state, err := readState(ctx, db, schema, ledger, own)
		if err != nil {
			return nil, err
		}
		// The statement that sees a ledger must also read it: another process may just have made it.
		switch {
		case ledger == noLedgerSQL && slices.Contains(state.relations, ledgerTable):
			ledger = ledgerSQL
		case own == noOwnLedgerSQL && slices.Contains(state.relations, ownLedgerTable):
			own = ownLedgerSQL
		default:
			return state, nil
		}
	}
}

func readState(ctx context.Context, db querier, schema, ledger, own string) (*schemaState, error) {
	sql := "select f.*, l.*, o.highest\nfrom (" + factsSQL + "\n) as f\ncross join (" + ledger +
		"\n) as l\ncross join (" + own + "\n) as o"
	var (
		state schemaState
		age   float64
	)
	// QueryExecModeExec prepares nothing that would stay behind on the caller's connection.
	err := db.QueryRow(ctx, migrations.Render(sql, schema), pgx.QueryExecModeExec,
		schema,
		relationNames,
		schemaFunctions,
		migrations.QueueIndex,
	).Scan(&state.version, &state.exists, &state.relations, &state.strangers, &state.functions, &state.index, &state.writable, &state.callable,
		&state.role, &state.forced, &state.qualifiers, &state.sequencesSQL,
		&state.ledger.Highest, &state.ledger.Breaking, &age, &state.own)
	if err != nil {
		return nil, err
	}
	// A clock that was set back makes a row come from the future. Such a row is new.
	state.age = time.Duration(max(0, min(age, maxAge.Seconds())) * float64(time.Second))
	return &state, nil
}

// maxAge stands for "long ago" in a type that has no infinity.
const maxAge = 1000 * time.Hour

// missing returns the objects of Graphile Worker's that do not exist, found those that do.
func (s *schemaState) missing() []string {
	return append(absent(wireRelations, s.relations), absent(wireFunctions, s.functions)...)
}

func (s *schemaState) found() []string {
	names := slices.DeleteFunc(slices.Concat(s.relations, s.functions), func(name string) bool {
		return name == ledgerTable || strings.HasPrefix(name, "backfill_")
	})
	slices.Sort(names)
	return names
}

func absent(expected, present []string) []string {
	return slices.DeleteFunc(slices.Clone(expected), func(name string) bool { return slices.Contains(present, name) })
}

// minServerVersion is the first version with generated columns.
const minServerVersion = 120000
