package interop_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/migrations"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Whoever comes first installs the schema, and it serves both (contract section 2).
func TestB8Install(t *testing.T) {
	t.Parallel()
	point(t)
	for name, test := range map[string]func(*fixture){
		"Node starts on ours": nodeStartsOnOurs, "Go starts on Node's": goStartsOnNodes,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inSchemas(t, test)
		})
	}
	t.Run("ten start at once", func(t *testing.T) {
		t.Parallel()
		tenStartAtOnce(newFixture(t))
	})
}

// What our migrations install is for Node what it would have installed itself.
func nodeStartsOnOurs(f *fixture) {
	before := f.schemaState()
	node := startPeer(f)
	node.work(bodies{task.Name: ""}, nil)
	added := node.add(task.Name, full, nil)
	worked, _ := node.record.await(f.T, "the job", 0, is("job"))
	if worked.Job.ID != added.ID {
		f.Errorf("Node worked job %d, and had added %d", worked.Job.ID, added.ID)
	}
	node.record.await(f.T, "a line of Node's log", 0, func(m message) bool { return m.Type == "log" && m.Level == "info" })
	node.stop()
	node.wantNoComplaint()
	f.wantNothingLeft()
	if diff := cmp.Diff(before, f.schemaState()); diff != "" {
		f.Errorf("Node changed the schema (-before +after):\n%s", diff)
	}
}

// Go adds what is its own, and leaves alone what Node installed. Node does not mind, also while it runs.
func goStartsOnNodes(f *fixture) {
	f.db = pgtest.Empty(f.T)
	node := startPeer(f)
	node.work(bodies{"read_letter": ""}, nil)
	before := f.facts()
	f.client = f.open(backfill.MigrateAuto)
	f.open(backfill.MigrateVerify)
	if diff := cmp.Diff(before, f.facts()); diff != "" {
		f.Errorf("Go changed Node's schema (-before +after):\n%s", diff)
	}

	events := f.work()
	added := node.add(task.Name, full, nil)
	events.await(f.T, "Go to work Node's job", 0, finished(added.ID))
	enqueued, err := backfill.Enqueue(f.Context(), f.client, &backfill.Task[letter]{Name: "read_letter"}, full)
	if err != nil {
		f.Fatal(err)
	}
	worked, _ := node.record.await(f.T, "Node to work Go's job", 0, is("job"))
	if worked.Job.ID != enqueued.ID {
		f.Errorf("Node worked job %d, want %d", worked.Job.ID, enqueued.ID)
	}
	node.stop()
}

// open returns a client, whose start may change the schema as far as mode says.
func (f *fixture) open(mode backfill.MigrateMode) *backfill.Client {
	f.Helper()
	logger := slog.New(slog.NewTextHandler(f.Output(), nil))
	client, err := backfill.Open(f.Context(), f.db.URL, backfill.WithSchema(f.schema), backfill.WithLogger(logger), backfill.WithMigrations(mode))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(client.Close)
	return client
}

// Five Node processes and five Go clients start on an empty database, and on another one, and so on: all at once, and the ones while
// the others install.
func tenStartAtOnce(f *fixture) {
	alone := f.facts()
	var peers []*peer
	for range 5 {
		peers = append(peers, startPeer(f))
	}
	for _, p := range peers {
		p.do(map[string]any{"request": "release"}) // it can now start without delay
	}
	for _, late := range []string{"nobody", "Go", "Node"} {
		f.db = pgtest.Empty(f.T)
		var group sync.WaitGroup
		goStarts := func() {
			for range 5 {
				group.Go(func() { f.openAndClose() })
			}
		}
		var replies []func() message
		nodeStarts := func() {
			for _, p := range peers {
				replies = append(replies, p.send(map[string]any{"request": "workOnce", "tasks": bodies{task.Name: ""}, "options": p.with(map[string]any{
					"connectionString": f.db.URL,
				})}))
			}
		}
		switch late {
		case "Go":
			nodeStarts()
			f.awaitInstaller()
			goStarts()
		case "Node":
			goStarts()
			f.awaitInstaller()
			nodeStarts()
		default:
			goStarts()
			nodeStarts()
		}
		group.Wait()
		for _, reply := range replies {
			if m := reply(); m.Error != "" {
				f.Errorf("late: %s: Node does not start: %s", late, m.Error)
			}
		}
		if diff := cmp.Diff(alone, f.facts()); diff != "" {
			f.Errorf("late: %s: the schema is not what one installs alone (-alone +together):\n%s", late, diff)
		}
		if own := f.lines("select concat_ws(' ', id, name) from " + f.table("backfill_migrations") + " order by id"); len(own) != len(migrations.Own()) {
			f.Errorf("late: %s: our own ledger has %q", late, own)
		}
	}
	for _, p := range peers {
		p.stop()
	}
}

func (f *fixture) openAndClose() {
	client, err := backfill.Open(f.Context(), f.db.URL, backfill.WithLogger(slog.New(slog.NewTextHandler(f.Output(), nil))))
	if err != nil {
		f.Errorf("Go does not start: %v", err)
		return
	}
	client.Close()
}

// awaitInstaller waits for a session that installs: it waits in a transaction, or it has made the schema.
func (f *fixture) awaitInstaller() {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), hang)
	defer cancel()
	const sql = `
		select 'a session' from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_xid is not null
		union all select 'the schema' from pg_namespace where nspname = 'graphile_worker'`
	for look := time.Tick(time.Millisecond); len(f.lines(sql)) == 0; {
		select {
		case <-look:
		case <-ctx.Done():
			f.Fatal("nobody installs")
		}
	}
}

// Both install the same, for all that a client could notice.
func TestB9Catalog(t *testing.T) {
	t.Parallel()
	point(t)
	inSchemas(t, func(f *fixture) {
		ours := f.facts()
		for _, kind := range []string{"relation", "column", "constraint", "index", "sequence", "function", "schema", "migration"} {
			if !strings.Contains("\n"+strings.Join(ours, "\n"), "\n"+kind+" ") {
				f.Errorf("there is no %s: %q", kind, ours)
			}
		}
		f.db = pgtest.Empty(f.T)
		node := startPeer(f)
		node.do(map[string]any{"request": "call", "method": "migrate", "args": []any{}, "options": node.options})
		node.stop()
		if diff := cmp.Diff(f.facts(), ours); diff != "" {
			f.Errorf("catalog (-Node +Go):\n%s", diff)
		}
	})
}

// facts has a line for each fact of the schema that a dump of it would show, without function bodies, what is named backfill_*, and
// the storage parameters of tables, which are ours to choose.
func (f *fixture) facts() []string {
	f.Helper()
	const sql = `
		with n as (select * from pg_namespace where oid = '%[1]s'::regnamespace),
		rel as (select c.* from pg_class c join n on n.oid = relnamespace where relname !~ '^(backfill_|pg_toast)'),
		fun as (select p.* from pg_proc p join n on n.oid = pronamespace where proname !~ '^backfill_'),
		facts (kind, fact) as (
			select 'schema', concat_ws(' | ', nspname, nspowner::regrole, nspacl, obj_description(oid, 'pg_namespace')) from n
			union all select 'relation', concat_ws(' | ', relname, relkind, relpersistence, relrowsecurity, relforcerowsecurity, relreplident,
				relowner::regrole, relacl, obj_description(oid, 'pg_class'), case relkind when 'v' then pg_get_viewdef(oid) end) from rel
			union all select 'column', concat_ws(' | ', relname, attnum, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
				pg_get_expr(adbin, adrelid), attcollation, attstorage, attacl, col_description(attrelid, attnum))
				from rel join pg_attribute on attrelid = rel.oid and attnum > 0 and not attisdropped left join pg_attrdef on adrelid = attrelid and adnum = attnum
				where relkind in ('r', 'v', 'c')
			union all select 'constraint', concat_ws(' | ', relname, conname, contype, pg_get_constraintdef(k.oid), convalidated)
				from rel join pg_constraint k on conrelid = rel.oid and contype <> 'n'
			union all select 'index', concat_ws(' | ', pg_get_indexdef(indexrelid), indisvalid, indisclustered, indisreplident)
				from rel join pg_index on indexrelid = rel.oid
			union all select 'sequence', concat_ws(' | ', relname, seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle,
				refobjid::regclass, refobjsubid) from rel join pg_sequence on seqrelid = rel.oid
				left join pg_depend on objid = rel.oid and classid = 'pg_class'::regclass and deptype in ('a', 'i') and refobjsubid > 0
			union all select 'function', concat_ws(' | ', proname, pg_get_function_arguments(oid), pg_get_function_result(oid), prokind,
				(select lanname from pg_language l where l.oid = prolang), provolatile, proisstrict, prosecdef, proleakproof, proparallel, procost, prorows,
				proconfig, proowner::regrole, proacl, obj_description(oid, 'pg_proc')) from fun
			union all select 'type', concat_ws(' | ', typname, typtype, typacl) from pg_type join n on n.oid = typnamespace where typname !~ '^_?backfill_'
			union all select 'trigger', pg_get_triggerdef(g.oid) from rel join pg_trigger g on tgrelid = rel.oid
			union all select 'policy', concat_ws(' | ', relname, polname, polcmd) from rel join pg_policy on polrelid = rel.oid
			union all select 'extension', extname from pg_extension
			union all select 'migration', concat_ws(' | ', to_char(id, '00'), breaking) from %[1]s.migrations
		)
		select kind || ' ' || fact from facts order by 1`
	return f.lines(fmt.Sprintf(sql, strings.TrimSuffix(f.table(""), `.""`)))
}
