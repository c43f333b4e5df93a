package schema_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/migrations"
	"github.com/backfillhq/go/testutil/pgtest"
)

// FuzzLedger has ledgers of any content and schemas that lack anything. There is a plan where the
// contract (section 2) allows one, and otherwise an error that says what to do.
func FuzzLedger(f *testing.F) {
	conn, err := pgx.Connect(f.Context(), pgtest.New(f).URL)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { conn.Close(context.Background()) })
	for i, ledger := range ledgerSeeds {
		for mode := range 3 {
			f.Add(ledger, uint8(4), uint8(mode), []byte(nil))
		}
		f.Add(ledger, uint8(i), uint8(i), []byte{byte(i)})
		f.Add(ledger, uint8(0), uint8(0), []byte{1, 8, 15})           // the jobs, and what is ours
		f.Add(ledger, uint8(0), uint8(0), []byte{1, 2, 3, 4, 5, 6})   // all tables
		f.Add(ledger, uint8(4), uint8(2), []byte{7, 0, byte(i + 16)}) // a ledger, another object
	}
	f.Fuzz(func(t *testing.T, ledger []byte, own, mode uint8, drop []byte) {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.Background()) }()
		m := model{mode: schema.Mode(mode % 3)}
		m.record(t, tx, ledger, int(own%8))
		m.drop(t, tx, drop[:min(len(drop), 6)])
		paths, err := schema.PlanOf(t.Context(), tx, migrations.DefaultSchema, m.mode)
		wantBreaking := m.breaking > migrations.Newest
		if _, is := errors.AsType[*schema.BreakingError](err); is != wantBreaking {
			t.Fatalf("%+v: %v, want a BreakingError: %t", m, err, wantBreaking)
		}
		if !slices.Contains(m.gone, "migrations") {
			got, err := schema.CheckLedger(t.Context(), tx, migrations.DefaultSchema)
			if want := (schema.Ledger{Highest: m.highest, Breaking: m.breaking}); got != want || (err != nil) != wantBreaking {
				t.Errorf("%+v: CheckLedger = %+v, %v, want %+v", m, got, err, want)
			}
		}
		want, ok := m.plan()
		if ok != (err == nil) {
			t.Fatalf("%+v: plan %q, %v; want %q, %t", m, paths, err, want, ok)
		}
		if ok {
			if diff := cmp.Diff(want, paths); diff != "" {
				t.Errorf("%+v: plan (-want +got):\n%s", m, diff)
			}
			return
		}
		problem, is := errors.AsType[*schema.StateError](err)
		if !wantBreaking && (!is || problem.Found == "" || problem.Remedy == "") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: the error does not say what to do: %q", m, err)
		}
	})
}

// ledgerSeeds are ledgers as FuzzLedger takes them: pairs of a revision and whether it is breaking.
var ledgerSeeds = [][]byte{
	nil,
	{0, 0},
	{1, 0x80, 3, 0x80, 11, 0x80},
	{17, 0},
	{18, 0},
	{18, 0, 19, 0x80},
	{19, 0},
	{20, 0},
	{20, 0x80},
	{19, 0x80, 20, 0},
	{20, 0, 21, 0},
	{20, 0, 21, 0x80},
	{21, 0x80, 22, 0},
	{127, 0},
	{127, 0x80},
	{0xff, 0x80},
}

// model is a schema. It plans migrations independently of the code under test.
type model struct {
	mode                   schema.Mode
	highest, breaking, own int
	gone                   []string
}

// record writes both ledgers: pairs of a revision and whether it is breaking, and our newest
// migration.
func (m *model) record(t *testing.T, tx pgx.Tx, ledger []byte, own int) {
	t.Helper()
	sql := "delete from graphile_worker.migrations; delete from graphile_worker.backfill_migrations"
	var all, breaking []int
	for pair := range slices.Chunk(ledger[:len(ledger)&^1], 2) {
		id, breaks := int(int8(pair[0])), pair[1]&0x80 != 0
		if slices.Contains(all, id) {
			continue
		}
		if all = append(all, id); breaks {
			breaking = append(breaking, id)
		}
		sql += fmt.Sprintf("; insert into graphile_worker.migrations values (%d, now(), %t)", id, breaks)
	}
	m.highest, m.breaking, m.own = greatest(all), greatest(breaking), own
	if own > 0 {
		sql += fmt.Sprintf("; insert into graphile_worker.backfill_migrations values (%d, '')", own)
	}
	dbtest.Run(t, tx, sql)
}

// greatest returns the greatest number, 0 if there is none.
func greatest(numbers []int) int {
	if len(numbers) == 0 {
		return 0
	}
	return slices.Max(numbers)
}

// What a schema consists of: the wire's, ours, and the ledgers.
var (
	tables    = []string{"_private_jobs", "_private_job_queues", "_private_tasks", "_private_known_crontabs"}
	functions = []string{
		"add_job", "add_jobs", "complete_jobs", "permanently_fail_jobs", "reschedule_jobs", "remove_job", "force_unlock_workers", "backfill_enqueue",
	}
	others = []string{"backfill_workers", "migrations", "backfill_migrations"}
)

// drop removes objects, and what depends on them.
func (m *model) drop(t *testing.T, tx pgx.Tx, which []byte) {
	t.Helper()
	statements := []string{"drop view if exists graphile_worker.jobs cascade", "drop type if exists graphile_worker.job_spec cascade"}
	for _, name := range slices.Concat(tables, others) {
		statements = append(statements, "drop table if exists graphile_worker."+name+" cascade")
	}
	for _, name := range functions {
		statements = append(statements, "drop function if exists graphile_worker."+name)
	}
	for _, i := range which {
		dbtest.Run(t, tx, statements[int(i)%len(statements)])
	}
	m.gone = dbtest.Get[[]string](t, tx, `select array(select name from unnest($1::text[]) as name
		where to_regclass('graphile_worker.' || name) is null and to_regtype('graphile_worker.' || name) is null
		and to_regproc('graphile_worker.' || name) is null)`, slices.Concat(tables, []string{"jobs", "job_spec"}, functions, others))
	if slices.Contains(m.gone, "migrations") {
		m.highest, m.breaking = 0, 0
	}
	if slices.Contains(m.gone, "backfill_migrations") {
		m.own = 0
	}
}

// plan returns the files to run, and false if nothing may be done.
func (m *model) plan() (files []string, ok bool) {
	wire := slices.DeleteFunc(slices.Clone(m.gone), func(name string) bool {
		return slices.Contains(others, name) || name == "backfill_enqueue"
	})
	const all = 4 + 2 + 7 // tables; view and type; functions
	switch {
	case m.breaking > 20, m.highest < 18 && m.highest != 0, m.highest == 0 && len(wire) < all, m.highest != 0 && len(wire) > 0:
		return nil, false
	case m.highest == 18 && m.mode != schema.MigrateBreaking: // 19 is breaking
		return nil, false
	case slices.Contains(m.gone, "backfill_workers") != (m.own == 0), slices.Contains(m.gone, "backfill_enqueue") != (m.own < 3):
		return nil, false
	}
	for _, file := range []struct {
		path    string
		missing bool
	}{
		{"wire/0018.sql", m.highest < 18},
		{"wire/0019.sql", m.highest < 19},
		{"wire/0020.sql", m.highest < 20},
		{"own/0001_workers.sql", m.own < 1},
		{"own/0003_enqueue.sql", m.own < 3},
		{"own/0004_comments.sql", m.own < 4},
		{"own/0005_enqueue.sql", m.own < 5},
		{"own/0006_sweeps.sql", m.own < 6},
		{"own/0007_leases.sql", m.own < 7},
		{"own/0008_pauses.sql", m.own < 8},
		{"own/0009_crashes.sql", m.own < 9},
		{"own/0010_dead_letters.sql", m.own < 10},
		{"own/0011_queue_pauses.sql", m.own < 11},
		{"own/0012_cancels.sql", m.own < 12},
		{"own/0013_operations.sql", m.own < 13},
		{"own/0014_history.sql", m.own < 14},
		{"own/0015_traces.sql", m.own < 15},
		{"own/0016_crontabs.sql", m.own < 16},
	} {
		if file.missing {
			files = append(files, file.path)
		}
	}
	return files, true
}
