package docs_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/migrations"
)

// story is what is done with each block, in this order. A step that goes on from what a step before
// it has made says so in after, if that one can be skipped: then it is skipped too.
var story = []struct {
	block string
	after string
	run   func(s *scene, b block)
}{
	{"Recommended setup, sql 1", "", func(s *scene, b block) {
		for statement := range strings.SplitSeq(strings.TrimSpace(b.text), "\n") { // CREATE DATABASE goes alone
			s.execOn(s.admin, statement)
		}
	}},
	{"First run, go 1", "", func(s *scene, b block) { write(s.t, filepath.Join(s.module, "main.go"), b.text) }},
	{"First run, console 1", "", func(s *scene, b block) { s.console(s.module, s.url("myapp"), b) }},
	{"Structure, sql 1", "First run, console 1", structure},
	{"Recommended setup, sql 2", "", insteadOfOwning},
	{"Development and production, console 1", "", emptied("")},
	{"Development and production, console 2", "", emptied("")},
	{"Development and production, sql 1", "", func(s *scene, b block) { s.exec("", b.text) }},
	{"Permission errors, console 2", "Development and production, console 2", func(s *scene, b block) { s.console(s.module, s.url("myapp_web"), b) }},
	{"Development and production, console 3", "", func(s *scene, b block) { s.console(s.module, s.url("myapp"), b) }},
	{"Development and production, sql 2", "Development and production, console 3", readsTheView},
	{"Development and production, sql 3", "Development and production, console 3", func(s *scene, b block) {
		s.exec("", b.text)
		if left := s.value("select count(*)::text from pg_policy"); left != "0" {
			s.t.Errorf("%s policies are left", left)
		}
	}},
	{"Permission errors, console 1", "", func(s *scene, b block) {
		s.exec("", dropSchema)
		s.console(s.module, s.url("myapp_web"), b)
	}},
	{"Connection issues, console 1", "", connectionIssues},
	{"Partial or foreign schema, console 1", "", emptied(everything() + "drop view graphile_worker.jobs")},
	{"Partial or foreign schema, console 2", "", emptied("create schema crm; create table crm.migrations (id integer, name text)")},
	{"Partial or foreign schema, console 3", "", func(s *scene, b block) {
		s.exec("", "create table public.jobs ()")
		s.console(s.module, s.url("myapp"), b)
		s.exec("", "drop table public.jobs")
	}},
	{"Partial or foreign schema, console 4", "", func(s *scene, b block) {
		s.exec("", dropSchema)
		s.console(s.module, s.url("myapp"), block{text: "$ backfill migrate\n…\n"})
		s.exec("myapp", "alter schema graphile_worker rename to staging_jobs")
		s.console(s.module, s.url("myapp"), b)
		s.exec("", "drop schema staging_jobs cascade")
	}},
	{"Partial or foreign schema, console 5", "", emptied(everything() + "alter table graphile_worker._private_jobs force row level security")},
	{"Logical replication, sql 1", "", func(s *scene, b block) {
		s.exec("", dropSchema)
		s.exec("myapp", everything())
		s.exec("myapp", b.text)
		s.exec("myapp", "drop publication myapp_jobs")
	}},
	{"Logical replication, sql 2", "", func(s *scene, b block) { // It cannot connect to that host.
		s.exec("", strings.Replace(b.text, ";", " WITH (connect = false, slot_name = NONE);", 1))
		s.exec("", "drop subscription myapp_jobs")
	}},
	{"Logical replication, console 1", "", func(s *scene, b block) {
		s.exec("", dropSchema)
		s.console(s.module, s.url("myapp"), block{text: "$ backfill migrate\n…\n"})
		s.exec("myapp", notCarriedOver)
		s.console(s.module, s.url("myapp"), b)
	}},
	{"Live dumps, sql 1", "", func(s *scene, b block) { s.exec("myapp", b.text) }},
	{"Versions, console 1", "", emptied(upTo(18) + aged)},
	{"Versions, console 2", "", emptied(everything() + "insert into graphile_worker.migrations (id, breaking) values (21, true)")},
	{"Offline, console 1", "", func(s *scene, b block) {
		s.sqlc()
		s.console(s.sql, s.url("myapp"), b)
	}},
	{"Offline, console 2", "Offline, console 1", wrongColumn},
	{"Online, console 1", "", func(s *scene, b block) {
		s.sqlc()
		s.exec("", dropSchema)
		s.console(s.sql, s.url("myapp"), b)
	}},
	{"Online, console 2", "Online, console 1", func(s *scene, b block) {
		s.sqlc()
		s.exec("myapp", "alter table orders rename column customer to client")
		s.console(s.sql, s.url("myapp"), b)
	}},
	{"Both, yaml 1", "", workflow},
}

const (
	dropSchema = "drop schema if exists graphile_worker cascade"
	// aged makes a schema that nobody can be installing at this moment.
	aged = "update graphile_worker.migrations set ts = now() - interval '1 hour';"
)

// notCarriedOver is a job whose ids the sequences do not know.
const notCarriedOver = `select graphile_worker.add_job('a');
	alter sequence graphile_worker.jobs_id_seq1 restart; alter sequence graphile_worker.tasks_id_seq restart`

// emptied runs a block as the owner, without the schema that earlier blocks have left, but with what these statements make.
func emptied(statements string) func(*scene, block) {
	return func(s *scene, b block) {
		s.exec("", dropSchema)
		if statements != "" {
			s.exec("myapp", statements)
		}
		s.console(s.module, s.url("myapp"), b)
	}
}

// upTo is the SQL of Graphile Worker's tables as one of its older versions leaves them.
func upTo(revision int) string {
	var b strings.Builder
	for _, file := range migrations.Wire() {
		if file.ID <= revision {
			b.WriteString(migrations.Render(file.SQL, migrations.DefaultSchema) + "\n")
		}
	}
	return b.String()
}

func everything() string {
	text := upTo(migrations.Newest)
	for _, file := range migrations.Own() {
		if file.Transactional() {
			text += migrations.Render(file.SQL, migrations.DefaultSchema) + "\n"
		}
	}
	return text
}

// readsTheView sees in the view the jobs of others.
func readsTheView(s *scene, b block) {
	s.exec("", b.text)
	s.exec("myapp", "select graphile_worker.add_job('seen')")
	s.within("myapp_stats", func(conn *pgx.Conn) {
		var task string
		if err := conn.QueryRow(s.t.Context(), "select task_identifier from graphile_worker.jobs").Scan(&task); err != nil || task != "seen" {
			s.t.Errorf("the role sees a job of task %q, %v", task, err)
		}
	})
}

// structure runs the query, and compares the columns that the page lists with those that there are.
func structure(s *scene, b block) {
	s.exec("myapp", b.text)
	listed := map[string]string{}
	for line := range strings.Lines(s.page) {
		if cells := strings.Split(line, "|"); len(cells) > 3 && strings.Contains(cells[2], "`") {
			listed[strings.Trim(cells[1], " `")] = strings.Trim(cells[2], " `")
		}
	}
	there := map[string]string{}
	for name := range listed {
		there[name] = s.value(`select format_type(atttypid, atttypmod) from pg_attribute
			where attrelid = 'graphile_worker._private_jobs'::regclass and attname = '` + name + "'")
	}
	if diff := cmp.Diff(there, listed); diff != "" || len(listed) < 9 {
		s.t.Errorf("columns of _private_jobs (-database +page):\n%s", diff)
	}
}

// insteadOfOwning tries each of the ways to let myapp install in a database that is not its own.
func insteadOfOwning(s *scene, b block) {
	expect := func(text string) { s.console(s.module, s.url("myapp"), block{text: text}) }
	for way := range strings.Lines(b.text) {
		s.exec("", dropSchema+"; alter database myapp owner to current_user; revoke create on database myapp from myapp")
		expect("$ backfill migrate\nbackfill: schema … lacks the rights to migrate it: …\n")
		s.exec("", way)
		expect("$ backfill migrate\n…\n$ backfill migrate --verify\n…\n")
	}
	s.exec("", dropSchema+"; alter database myapp owner to myapp")
}

func connectionIssues(s *scene, b block) {
	wrong := strings.Replace(s.url("myapp"), ":secret@", ":wrong@", 1)
	conn, err := pgx.Connect(s.t.Context(), wrong)
	if err == nil {
		conn.Close(s.t.Context())
	}
	needs.That(s.t, err != nil, "password on the test's server")
	s.console(s.module, s.url("myapp"), b)
}

// wrongColumn is what a mistake in a query looks like.
func wrongColumn(s *scene, b block) {
	s.sqlc()
	dir := s.t.TempDir()
	copyFolder(s.t, s.sql, dir)
	queries, err := os.ReadFile(filepath.Join(dir, "query.sql"))
	if err != nil {
		s.t.Fatal(err)
	}
	write(s.t, filepath.Join(dir, "query.sql"), strings.Replace(string(queries), "j.run_at", "j.runs_at", 1))
	s.console(dir, s.url("myapp"), b)
}

// workflow parses the workflow: it runs commands that the page's consoles run.
func workflow(s *scene, b block) {
	scalars, err := readYAML(b.text)
	if err != nil {
		s.t.Fatal(err)
	}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		s.t.Fatal(err)
	}
	known := []string{"go install github.com/sqlc-dev/sqlc/cmd/" + sqlcVersion(string(makefile))}
	for _, other := range readPage(s.t, s.page) {
		if other.language == "console" {
			for _, c := range commands(s.t, other) {
				known = append(known, c.line)
			}
		}
	}
	steps := 0
	for _, scalar := range scalars {
		path, value := scalar[0], scalar[1]
		if !strings.HasPrefix(path, "jobs/check/steps/") || !strings.HasSuffix(path, "/run") {
			continue
		}
		steps++
		if !slices.Contains(known, strings.TrimPrefix(value, "go tool ")) {
			s.t.Errorf("no console runs the step %q", value)
		}
	}
	if steps < 6 {
		s.t.Errorf("the workflow has %d steps that run something, of\n%q", steps, scalars)
	}
}
