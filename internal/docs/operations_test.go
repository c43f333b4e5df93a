package docs_test

import (
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/devpg"
	"github.com/backfillhq/go/migrations"
)

// anywhere is how the pages name the command where it is not installed.
const anywhere = "go run github.com/backfillhq/go/cmd/backfill@latest"

// safeServer starts a server with normal durability, in which a doctor has nothing to find.
func safeServer(t *testing.T) *pgx.Conn {
	t.Helper()
	folder := t.TempDir()
	if err := os.Chmod(filepath.Dir(folder), 0o755); err != nil { //nolint:gosec // the server may run as another user
		t.Fatal(err)
	}
	server, err := devpg.Start(t.Context(), devpg.Config{Private: true, DataDir: filepath.Join(folder, "pg")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return dbtest.Connect(t, server.URL)
}

// runConsoles runs the commands of a page in a database, one after the other, and compares what they write with what the page has.
func runConsoles(t *testing.T, page string, databaseURL func(line string) string, want int) {
	t.Helper()
	bin, dir := t.TempDir(), t.TempDir()
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, root+"/cmd/backfill").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, b := range readPage(t, string(text)) {
		if b.language != "console" {
			continue
		}
		for _, c := range commands(t, b) {
			if strings.HasPrefix(c.line, "export ") {
				continue
			}
			ran++
			cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(c.line, anywhere, "backfill", 1))
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"), "DATABASE_URL="+databaseURL(c.line))
			output, _ := cmd.CombinedOutput() // an error is part of what it writes
			if got := regexp.MustCompile(` +\n`).ReplaceAllString(string(output), "\n"); !matches(c.want, got) {
				t.Errorf("%s writes\n%sthe page has\n%s", c.line, got, c.want)
			}
		}
	}
	if ran != want {
		t.Errorf("the page has %d commands, want %d", ran, want)
	}
}

func TestOperationsPage(t *testing.T) {
	t.Parallel()
	conn := safeServer(t)
	dbtest.Run(t, conn, "create database spare")
	url := conn.Config().ConnString()
	holdQueue(t, install(t, url))
	runConsoles(t, "docs/operations.md", func(line string) string {
		if strings.HasPrefix(line, "backfill bench") { // which would ask, because a worker is alive
			return strings.Replace(url, "/postgres?", "/spare?", 1)
		}
		return url
	}, 7)
}

// What SKILL.md leads an agent to works as it stands.
func TestSkill(t *testing.T) {
	t.Parallel()
	conn := safeServer(t)
	url := conn.Config().ConnString()
	db := install(t, url)
	holdQueue(t, db)
	dbtest.Run(t, conn, `insert into graphile_worker.backfill_dlq (original_job_id, task_identifier, payload, priority, max_attempts, attempts,
		failure_reason, last_error, original_created_at, original_run_at, failed_at)
		values (1001, 'charge_card', '{"order":4711}', 0, 25, 1, 'permanent', 'declined', now(), now(), now() - interval '2 hours')`)
	dbtest.Run(t, conn, "select graphile_worker.add_job('send_sms')")
	client, err := backfill.NewClient(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := client.Pause(t.Context(), "send_sms", backfill.PauseOptions{By: "ada"}); err != nil {
		t.Fatal(err)
	}
	runConsoles(t, "SKILL.md", func(string) string { return url }, 6)
}

// The page for teams that have no Go, on tables that Graphile Worker's migrations alone have made.
func TestNodeTeamsPage(t *testing.T) {
	t.Parallel()
	conn := safeServer(t)
	for _, m := range migrations.Wire() {
		if _, err := conn.PgConn().Exec(t.Context(), migrations.Render(m.SQL, "graphile_worker")).ReadAll(); err != nil {
			t.Fatalf("%s: %v", m.Path, err)
		}
	}
	dbtest.Run(t, conn, "select setval('graphile_worker.jobs_id_seq1', 40)")
	for range 2 {
		dbtest.Run(t, conn, "select graphile_worker.add_job('sync', queue_name := 'user:7')")
	}
	dbtest.Run(t, conn, "update graphile_worker._private_jobs set locked_at = now(), locked_by = 'pool-4f1d', attempts = 1 where id = 41")
	dbtest.Run(t, conn, "update graphile_worker._private_job_queues set locked_at = now(), locked_by = 'pool-4f1d'")
	graphile := facts(t, conn)
	url := conn.Config().ConnString()
	runConsoles(t, "docs/node-teams.md", func(string) string { return url }, 4)

	text, err := os.ReadFile(filepath.Join(root, "docs/node-teams.md"))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, b := range readPage(t, string(text)) {
		if b.language == "sql" {
			blocks = append(blocks, b.text)
		}
	}
	if len(blocks) != len(sqlElsewhere) {
		t.Fatalf("the page has %d SQL blocks", len(blocks))
	}
	// What the role of the page is told.
	if _, err := conn.PgConn().Exec(t.Context(), blocks[0]).ReadAll(); err != nil {
		t.Fatal(err)
	}
	lookout, err := admin.Open(strings.Replace(url, regexp.MustCompile(`//[^@]*@`).FindString(url), "//lookout:secret@", 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lookout.Close)
	x, err := lookout.Why(t.Context(), 42)
	if err != nil {
		t.Fatal(err)
	}
	if x.Blocker.Code != admin.QueueHeld || len(x.Missing) > 0 {
		t.Errorf("%s: %s; missing %+v", x.Blocker.Code, x.Blocker.Text, x.Missing)
	}

	// What migrate adds, the page takes back.
	db := install(t, url)
	if now := facts(t, conn); slices.Equal(now, graphile) {
		t.Error("migrate has added nothing")
	}
	dbtest.Run(t, db, blocks[1])
	added, gone := difference(facts(t, conn), graphile), difference(graphile, facts(t, conn))
	if len(added) > 0 || len(gone) > 0 {
		t.Errorf("after migrate and its removal there is, too: %q; there is no more: %q", added, gone)
	}
}

// install installs all tables in a database that exists.
func install(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	client, err := backfill.Open(t.Context(), url, backfill.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// facts has a line for each object of the schema, and for what its definition is.
func facts(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `
		with n as (select oid from pg_namespace where nspname = 'graphile_worker')
		select 'relation ' || c.relname || ' ' || c.relkind::text || ' ' || c.relrowsecurity::text from pg_class as c, n where c.relnamespace = n.oid
		union all select 'column ' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull::text
		  from pg_attribute as a join pg_class as c on c.oid = a.attrelid, n where c.relnamespace = n.oid and a.attnum > 0
		union all select 'function ' || p.oid::regprocedure::text || ' ' || md5(p.prosrc) from pg_proc as p, n where p.pronamespace = n.oid
		union all select 'trigger ' || t.tgname || ' on ' || c.relname from pg_trigger as t join pg_class as c on c.oid = t.tgrelid, n where c.relnamespace = n.oid
		union all select 'constraint ' || o.conname from pg_constraint as o, n where o.connamespace = n.oid
		order by 1`)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// difference has what is in the first list and not in the second.
func difference(list, other []string) (only []string) {
	there := map[string]bool{}
	for _, line := range other {
		there[line] = true
	}
	for _, line := range list {
		if !there[line] {
			only = append(only, line)
		}
	}
	return only
}

// Each finding of the doctor has a line on what to do.
func TestFindingsHaveRunbooks(t *testing.T) {
	t.Parallel()
	codes := map[string]bool{}
	for name, pattern := range map[string]string{"docs/doctor.md": "(?m)^\\| `([a-z_]+)`(?:, `([a-z_]+)`)?", "docs/operations.md": "(?m)^\\| `([a-z_]+)` \\| (?:yes|no|soon) \\|"} {
		text := pages(t)[name]
		found := map[string]bool{}
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			for _, code := range match[1:] {
				if code != "" {
					found[code] = true
				}
			}
		}
		if len(codes) == 0 {
			codes = found
			continue
		}
		if !maps.Equal(codes, found) {
			t.Errorf("the pages have the findings %q and %q", slices.Sorted(maps.Keys(codes)), slices.Sorted(maps.Keys(found)))
		}
	}
}
