package main

import (
	"bytes"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/testutil/pgtest"
)

// addLetter inserts a dead letter of the task mail. Columns are set to SQL.
func addLetter(t *testing.T, db *pgtest.Database, columns map[string]string) {
	t.Helper()
	row := map[string]string{
		"original_job_id": "100", "task_identifier": "'mail'", "payload": `'{"to":"<a@example.com>"}'`, "priority": "0", "max_attempts": "25", "attempts": "25",
		"failure_reason": "'exhausted'", "original_created_at": "'2026-01-01T00:00:00Z'", "original_run_at": "'2026-01-01T00:00:01Z'",
		"failed_at": "'2026-01-01T00:00:02Z'", "first_failed_at": "'2026-01-01T00:00:02Z'",
	}
	maps.Copy(row, columns)
	names := slices.Sorted(maps.Keys(row))
	var values []string
	for _, name := range names {
		values = append(values, row[name])
	}
	execute(t, connectTo(t, db.URL), "insert into graphile_worker.backfill_dlq ("+strings.Join(names, ", ")+") values ("+strings.Join(values, ", ")+")")
}

// answering is a terminal at which somebody writes an answer.
type answering struct{ io.Reader }

func (answering) Stat() (os.FileInfo, error) { return os.Stat(os.DevNull) }

// answered runs backfill with an answer.
func answered(t *testing.T, answer string, wantCode int, arguments ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), append([]string{"backfill"}, arguments...), answering{strings.NewReader(answer)}, &out, &errs); code != wantCode {
		t.Fatalf("backfill %q: exit code %d, want %d\n%s%s", arguments, code, wantCode, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// same fails the test unless a text is as it should be. What is another in each run is written as
// …: the database, its server and its role.
func same(t *testing.T, want, got string) {
	t.Helper()
	got = regexp.MustCompile(`(?m)^database  .*$`).ReplaceAllString(got, "database  …")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// threeLetters inserts dead letters 1 to 3, the last of which is requeued.
func threeLetters(t *testing.T, db *pgtest.Database) {
	t.Helper()
	addLetter(t, db, map[string]string{"queue_name": "'q'", "job_key": "'k'", "last_error": "'first line\nsecond\x1b[31m'", "notes": "'see 12'"})
	addLetter(t, db, map[string]string{"failure_reason": "'permanent'", "failed_at": "'2026-01-02T00:00:00Z'"})
	addLetter(t, db, map[string]string{"requeued_job_id": "55", "task_identifier": "'other'", "requeued_count": "1", "last_requeued_at": "'2026-01-03T00:00:00Z'"})
}

func TestDLQList(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, stderr := command(t, 0, "dlq", "list", "--database-url", db.URL, "--queue", "q")
	same(t, "no dead letters: queue \"q\"\n", stderr)
	threeLetters(t, db)
	stdout, stderr := command(t, 0, "dlq", "list", "--database-url", db.URL)
	same(t, `ID  FAILED AT             TASK  REASON     ATTEMPTS  QUEUE  KEY  REQUEUED AS  LAST ERROR
2   2026-01-02T00:00:00Z  mail  permanent  25/25                              
1   2026-01-01T00:00:02Z  mail  exhausted  25/25     q      k                 first line second [31m
`, stdout)
	same(t, "", stderr)
	stdout, stderr = command(t, 0, "dlq", "list", "--database-url", db.URL, "--requeued", "--limit", "2")
	same(t, `ID  FAILED AT             TASK   REASON     ATTEMPTS  QUEUE  KEY  REQUEUED AS  LAST ERROR
2   2026-01-02T00:00:00Z  mail   permanent  25/25                              
3   2026-01-01T00:00:02Z  other  exhausted  25/25                 job 55       
`, stdout)
	same(t, "there are more: --page=820540802000000.3\n", stderr)
	stdout, stderr = command(t, 0, "dlq", "list", "--database-url", db.URL, "--requeued", "--page=820540802000000.3", "--json")
	same(t, `{"id":1,"job_id":100,"task":"mail","args":{"to":"<a@example.com>"},"queue":"q","key":"k","priority":0,"attempts":25,"max_attempts":25,`+
		`"reason":"exhausted","last_error":"first line\nsecond\u001b[31m","failed_at":"2026-01-01T00:00:02Z","failures":1,"first_error":"",`+
		`"first_failed_at":"2026-01-01T00:00:02Z","created_at":"2026-01-01T00:00:00Z","run_at":"2026-01-01T00:00:01Z","requeues":0,"notes":"see 12"}`+"\n", stdout)
	same(t, "", stderr)
}

func TestDLQShow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	threeLetters(t, db)
	stdout, _ := command(t, 0, "dlq", "show", "--database-url", db.URL, "1")
	same(t, `id            1
job           100
task          mail
queue         q
key           k
priority      0
attempts      25 of 25
reason        exhausted
failed at     2026-01-01T00:00:02Z
failures      1
first failed  2026-01-01T00:00:02Z
created at    2026-01-01T00:00:00Z
was due at    2026-01-01T00:00:01Z
requeues      0
notes         see 12
last error    first line
              second [31m
args          {"to":"<a@example.com>"}
`, stdout)
	stdout, _ = command(t, 0, "dlq", "show", "--database-url", db.URL, "3", "--json")
	says(t, stdout, `{"id":3,"job_id":100,"task":"other"`, `"requeued_at":"2026-01-03T00:00:00Z","requeued_job_id":55}`)
	_, stderr := command(t, 3, "dlq", "show", "--database-url", db.URL, "4")
	says(t, stderr, "get dead letter 4: there is no such dead letter")
}

// A requeue says where it is, what it is about to do, and what became of each; its exit code is 0
// only if all were requeued.
func TestDLQRequeue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	threeLetters(t, db)
	addLetter(t, db, map[string]string{"job_key": "'k'", "failed_at": "'2026-01-04T00:00:00Z'"})
	addLetter(t, db, map[string]string{"max_attempts": "0", "failed_at": "'2026-01-05T00:00:00Z'"})
	const head = "database  …\nschema    graphile_worker\nplace     dead letters\n"

	stdout, stderr := command(t, 0, "dlq", "requeue", "--database-url", db.URL, "--task", "mail", "--reason", "permanent", "--dry-run")
	same(t, "2\twould be requeued\n", stdout)
	same(t, head+"filter    task \"mail\", and reason permanent\nwould be requeued: 1\n", stderr)
	if n := list(t, connectTo(t, db.URL), "select count(*)::text from graphile_worker._private_jobs"); n[0] != "0" {
		t.Errorf("a dry run has made %s jobs", n[0])
	}

	stdout, stderr = answered(t, "yes\n", 4, "dlq", "requeue", "--database-url", db.URL, "--notes", "fixed", "--task", "mail", "--task", "other")
	same(t, "1\trequeued as job 5\n2\trequeued as job 6\n4\tskipped: job 5 has its key\n5\tskipped: the database refuses the job: "+ // one by one, after a batch
		"new row for relation \"_private_jobs\" violates check constraint \"jobs_max_attempts_check\" (SQLSTATE 23514)\n", stdout)
	same(t, head+"filter    task \"mail\" or \"other\"\nmatching  4\nTo requeue them, type yes: operation 1\n"+
		"requeued 2, skipped 2 (1 key_held, 1 refused)\nbackfill: not all of them were requeued\n", stderr)
	if notes := list(t, connectTo(t, db.URL), "select coalesce(notes, '-') from graphile_worker.backfill_dlq order by id"); strings.Join(notes, " ") != "fixed fixed - - -" {
		t.Errorf("notes: %q", notes)
	}

	stdout, stderr = command(t, 4, "dlq", "requeue", "--database-url", db.URL, "--yes", "--json", "1", "--id", "4", "77")
	same(t, `{"id":4,"outcome":"skipped","why":"key_held","job_id":5}
{"id":1,"outcome":"skipped","why":"requeued","job_id":5}
{"id":77,"outcome":"skipped","why":"gone"}
`, stdout)
	same(t, head+"filter    id 1 or 77 or 4\noperation 2\nrequeued 0, skipped 3 (1 gone, 1 key_held, 1 requeued)\nbackfill: not all of them were requeued\n", stderr)
}

// A deletion acts on dead letters, and on no job.
func TestDLQDelete(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	threeLetters(t, db)
	conn := connectTo(t, db.URL)
	execute(t, conn, "select graphile_worker.add_job('mail', '{}', queue_name := 'q', job_key := 'k')")
	jobs := "select j::text from graphile_worker._private_jobs j order by id"
	before := list(t, conn, jobs)
	stdout, stderr := command(t, 0, "dlq", "delete", "--database-url", db.URL, "--all", "--yes", "--per-second", "1000")
	same(t, "1\tdeleted\n2\tdeleted\n", stdout)
	same(t, "database  …\nschema    graphile_worker\nplace     dead letters\nfilter    all\noperation 1\ndeleted 2\n", stderr)
	if diff := cmp.Diff(before, list(t, conn, jobs)); diff != "" {
		t.Errorf("jobs (-before +after):\n%s", diff)
	}
	if left := list(t, conn, "select id::text from graphile_worker.backfill_dlq"); strings.Join(left, " ") != "3" {
		t.Errorf("left are %q, want the one that is requeued", left)
	}
}

// Without a yes nothing is changed, whether nobody can be asked, or somebody says no. Nothing
// that matches is an exit code, and so it is of a number that is no dead letter's.
func TestDLQWithoutAYesOrAMatch(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	threeLetters(t, db)
	rows := "select d::text from graphile_worker.backfill_dlq d order by id"
	before := list(t, connectTo(t, db.URL), rows)
	for _, verb := range []string{"requeue", "delete"} {
		stdout, stderr := command(t, 5, "dlq", verb, "--database-url", db.URL, "--all")
		same(t, "", stdout)
		same(t, "database  …\nschema    graphile_worker\nplace     dead letters\nfilter    all\nmatching  2\n"+
			"backfill: nothing was changed: standard input is not a terminal, so pass --yes\n", stderr)
		for _, answer := range []string{"no\n", "\n", "", "y\n", "yes please\n"} {
			_, stderr = answered(t, answer, 5, "dlq", verb, "--database-url", db.URL, "--all")
			says(t, stderr, "To "+verb+" them, type yes: ", "backfill: nothing was changed\n")
		}
		for _, arguments := range [][]string{{"--task", "nothing"}, {"77"}, {"1", "--task", "other"}} {
			arguments = append([]string{"dlq", verb, "--database-url", db.URL}, arguments...)
			_, stderr = command(t, 3, append(arguments, "--yes")...)
			says(t, stderr, "filter    ", "backfill: no dead letter matches\n")
			command(t, 3, arguments...) // nobody is asked
			command(t, 3, append(arguments, "--dry-run")...)
			stdout, stderr = command(t, 0, append(arguments, "--yes", "--allow-none")...)
			says(t, stderr, "no dead letter matches\n")
		}
		same(t, "1\tskipped: the other flags do not match it\n", stdout)
	}
	if diff := cmp.Diff(before, list(t, connectTo(t, db.URL), rows)); diff != "" {
		t.Errorf("dead letters (-before +after):\n%s", diff)
	}
}

// arriving is a terminal at which somebody takes a while to answer.
type arriving struct {
	answering

	meanwhile func()
}

func (a arriving) Read(p []byte) (int, error) {
	a.meanwhile()
	return a.answering.Read(p)
}

// What fails between the question and the answer was not shown, and is left alone.
func TestDLQBetweenQuestionAndAnswer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, verb := range []string{"requeue", "delete"} {
		execute(t, connectTo(t, db.URL), "truncate graphile_worker.backfill_dlq restart identity")
		threeLetters(t, db)
		var out, errs bytes.Buffer
		in := arriving{answering{strings.NewReader("yes\n")}, func() {
			addLetter(t, db, map[string]string{"failed_at": "now()"})
			execute(t, connectTo(t, db.URL), "update graphile_worker.backfill_dlq set failed_at = now() where id = 1")
		}}
		if code := run(t.Context(), []string{"backfill", "dlq", verb, "--database-url", db.URL, "--task", "mail"}, in, &out, &errs); code != 0 {
			t.Fatalf("%s: exit code %d: %s%s", verb, code, &out, &errs)
		}
		left := list(t, connectTo(t, db.URL), "select id::text from graphile_worker.backfill_dlq where requeued_job_id is null order by id")
		if diff := cmp.Diff([]string{"1", "4"}, left); diff != "" {
			t.Errorf("%s: left (-want +got):\n%s", verb, diff)
		}
	}
}

// An empty value is an error, and never all. Nothing connects to the database for it.
func TestDLQUsage(t *testing.T) {
	t.Parallel()
	const nowhere = "postgres://me:secret@127.0.0.1:1/nowhere"
	for want, arguments := range map[string][]string{
		"requeue all dead letters? Select some":     {"requeue"},
		"delete all dead letters? Select some":      {"delete", "--yes"},
		"--all and flags that select some":          {"delete", "--all", "--task", "t"},
		"--task is empty":                           {"delete", "--task", ""},
		"--queue is empty":                          {"list", "--queue", ""},
		"--key is empty":                            {"requeue", "--key", "k", "--key", ""},
		"--error-contains is empty":                 {"delete", "--error-contains", ""},
		"--failed-after: want a time":               {"list", "--failed-after", ""},
		"--failed-before: want a time":              {"delete", "--failed-before", "yesterday"},
		"--limit: want 1 to 1000":                   {"list", "--limit", "1001"},
		"--per-second: want a number":               {"delete", "--all", "--per-second", "0"},
		"takes the number of one dead letter":       {"show"},
		"argument is not the number":                {"requeue", "postgres://me:secret@host/db"},
		"list takes flags only":                     {"list", "postgres://me:secret@host/db"},
		"unknown command of dlq: want list, show, ": {"purge"},
		"not defined: -notes":                       {"delete", "--notes", "n"},
		"pg_":                                       {"list", "--schema", "pg_x"},
	} {
		arguments = append([]string{"dlq"}, arguments...)
		if arguments[1] != "purge" {
			arguments = append(arguments, "--database-url", nowhere)
		}
		stdout, stderr := command(t, 2, arguments...)
		says(t, stderr, want)
		if strings.Contains(stdout+stderr, "secret") {
			t.Errorf("%q: the password is told: %s%s", arguments, stdout, stderr)
		}
	}
	db := pgtest.New(t)
	for want, arguments := range map[string][]string{
		`the reason "gone" is none`:     {"list", "--reason", "gone"},
		`the reason "" is none`:         {"delete", "--reason", "", "--yes"},
		"ids: 0 is no id":               {"requeue", "--id", "0"},
		"notes: a text has 10001 bytes": {"requeue", "--all", "--yes", "--notes", strings.Repeat("n", 10_001)},
		"the page \"x\" is none":        {"list", "--page", "x"},
	} {
		_, stderr := command(t, 2, append([]string{"dlq", arguments[0], "--database-url", db.URL}, arguments[1:]...)...)
		says(t, stderr, want)
	}
	stdout, _ := command(t, 0, "help", "dlq", "requeue")
	says(t, stdout, "--allow-none", "Exit codes", "--error-contains", "backfill dlq requeue")
	stdout, _ = command(t, 0, "dlq")
	says(t, stdout, "list", "show", "requeue", "delete")
}

// An operator's role may do it all. Others are told which command lets them; a worker's changes no records.
func TestDLQRoles(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	threeLetters(t, db)
	operator, worker, reader, web := newLogin(t, db), newLogin(t, db), newLogin(t, db), newLogin(t, db)
	command(t, 0, "migrate", "--database-url", db.URL, "--operator-role", operator.name, "--worker-role", worker.name, "--reader-role", reader.name, "--enqueue-role", web.name)
	for _, role := range []login{worker, reader, web} {
		for _, verb := range []string{"requeue", "delete"} {
			_, stderr := command(t, 1, "dlq", verb, "--database-url", role.url, "--all", "--yes")
			says(t, stderr, "may not change jobs, and record that", "backfill migrate --operator-role "+shellWord(role.name))
		}
	}
	stdout, _ := command(t, 0, "dlq", "list", "--database-url", reader.url)
	says(t, stdout, "exhausted")
	_, stderr := command(t, 1, "dlq", "list", "--database-url", web.url)
	says(t, stderr, "needs the right to select")
	command(t, 0, "dlq", "requeue", "--database-url", operator.url, "--yes", "1")
	command(t, 0, "dlq", "delete", "--database-url", operator.url, "--yes", "2")
	for _, arguments := range [][]string{
		{"enqueue", "mail"},
		{"jobs", "reschedule", "--all", "--yes", "--in", "1h"},
		{"pause", "mail"},
		{"resume", "mail"},
		{"jobs", "cancel", "--all", "--yes"},
		{"audit"},
		{"bulk", "list"},
		{"bulk", "show", "1"},
	} {
		command(t, 0, append(arguments, "--database-url", operator.url)...)
	}
	refused(t, connectTo(t, operator.url), "delete from graphile_worker.backfill_audit", "update graphile_worker.backfill_audit set reason = ''")
	if stdout, _ = command(t, 1, "doctor", "--database-url", db.URL); strings.Contains(stdout, "was given the rights") { // the test's server is unsafe
		t.Errorf("doctor finds:\n%s", stdout)
	}
}

// All servers that a URL names are told: it may be any of them.
func TestEchoNamesAllServers(t *testing.T) {
	t.Parallel()
	config, err := pgx.ParseConfig("postgres://me:secret@one:5432,two:5433/app?sslmode=prefer")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "one:5432 or two:5433", servers(config))
}
