package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

func TestJobs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	dbtest.Run(t, db.Pool(), `select graphile_worker.add_job('sync', '{"n": 12345678901234567890.10, "password": "hunter22"}', queue_name := 'q') from generate_series(1, 5)`)
	dbtest.Run(t, db.Pool(), "update graphile_worker._private_jobs set attempts = 25, last_error = 'refused hunter22' where id = 3")
	base := []string{"--database-url", db.URL}
	list := func(code int, arguments ...string) (stdout, stderr string) {
		t.Helper()
		return command(t, code, append(append([]string{"jobs", "list"}, base...), arguments...)...)
	}
	out, errs := list(0, "--limit", "2")
	says(t, out, "ID  STATE  TASK", "5   due    sync  q", "\n4   due")
	_, cursor, _ := strings.Cut(strings.TrimSpace(errs), "there are more: ")
	out, errs = list(0, "--limit", "2", cursor)
	says(t, out, "3   failed  sync", "refused [redacted]", "\n2   due")
	says(t, errs, "there are more")
	out, errs = list(0, "--limit", "2", "--all-pages", "--json")
	var all admin.JobList
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all.Jobs) != 5 || all.Next != "" || errs != "" || strings.Contains(out, "hunter22") {
		t.Errorf("%v: %s%s", err, out, errs)
	}
	says(t, out, `"payload":{"n":12345678901234567890.10,"password":"[redacted]"}`)
	_, errs = list(exitNothing, "--task", "sync", "--state", "waiting")
	says(t, errs, `no job matches: state waiting, and task "sync"`)
	for _, arguments := range [][]string{
		{"x"},
		{"--state", "done"},
		{"--task", ""},
		{"--limit", "0"},
		{"--limit", "1001"},
		{"--cursor", ""},
		{"--cursor", "x"},
		{"--error-contains", ""},
		{"--payload-contains", "{"},
		{"--no-queue", "--queue", "q"},
		{"--run-at-from", "yesterday"},
		{"--min-priority", "99999"},
		{"--no-such-flag"},
	} {
		list(exitUsage, arguments...)
	}
	out, _ = command(t, 0, append([]string{"jobs", "show", "3"}, base...)...)
	says(t, out, "id            3", "state         failed", `args          {"n": 12345678901234567890.10, "password": "[redacted]"}`, "last error    refused [redacted]")
	_, errs = command(t, exitNothing, append([]string{"jobs", "show", "3000"}, base...)...)
	says(t, errs, "there is no job 3000")
	command(t, exitUsage, append([]string{"jobs", "show"}, base...)...)
	_, errs = command(t, exitProblem, "jobs", "list", "--database-url", pgtest.Empty(t).URL)
	says(t, errs, "Not known:", "has no table")
}

func TestLists(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	dbtest.Run(t, db.Pool(), `select graphile_worker.add_job('sync', queue_name := 'q' || i) from generate_series(1, 3) as i`)
	dbtest.Run(t, db.Pool(), "update graphile_worker._private_job_queues set locked_at = now() - interval '5 hours', locked_by = 'pool-1' where queue_name = 'q2'")
	dbtest.Run(t, db.Pool(), "insert into graphile_worker._private_known_crontabs values ('nightly', now(), null)")
	for _, c := range []struct {
		name, says string
		code       int
	}{
		{"queues", "(stale)", 0},
		{"queues --locked", "q2", 0},
		{"queues --limit 1 --all-pages", "q3", 0},
		{"queues --queue none", "no queue matches", exitNothing},
		{"workers", "there is no Go worker", exitNothing},
		{"locks", "pool-1     unknown", 0},
		{"cron list", "nightly", 0},
		{"queues x", "takes flags only", exitUsage},
		{"cron", "list", 0},
		{"cron x", "want list", exitUsage},
		{"queues --cursor !", "is none of this list", exitUsage},
	} {
		arguments := append(strings.Fields(c.name), "--database-url", db.URL)
		if c.name == "cron" || c.name == "cron x" {
			arguments = strings.Fields(c.name)
		}
		out, errs := command(t, c.code, arguments...)
		says(t, out+errs, c.says)
		if c.code != 0 || c.name == "cron" {
			continue
		}
		out, _ = command(t, 0, append(arguments, "--json")...)
		if !json.Valid([]byte(out)) || strings.Count(out, "\n") != 1 {
			t.Errorf("%s writes %s", c.name, out)
		}
	}
}

// A table fits into 100 columns, and nothing in it, nor in JSON, controls a terminal.
func TestListsArePlain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	written := 0
	for _, text := range append(dbtest.Hostile(), "csi \u009b31m", "rtl \u202e", "😀\x1b]0;title\x07") {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) || text == "" || len(text) > 100 {
			continue
		}
		written++
		dbtest.Run(t, db.Pool(), "select graphile_worker.add_job($1, to_json($1::text), queue_name := $1, job_key := $1, flags := array[$1])", text)
		dbtest.Run(t, db.Pool(), "update graphile_worker._private_jobs set last_error = $1 where key = $1", text)
		dbtest.Run(t, db.Pool(), "update graphile_worker._private_job_queues set locked_by = $1, locked_at = now() where queue_name = $1", text)
		dbtest.Run(t, db.Pool(), "insert into graphile_worker._private_known_crontabs values ($1, now())", text)
	}
	if written < 3 {
		t.Fatalf("%d texts", written)
	}
	for _, name := range []string{"jobs list", "queues", "locks", "cron list", "jobs show 1", "workers"} {
		for _, form := range []string{"", " --json"} {
			var out, errs bytes.Buffer
			run(t.Context(), append(strings.Fields("backfill "+name+form), "--database-url", db.URL), strings.NewReader(""), &out, &errs)
			for line := range strings.Lines(out.String() + errs.String()) {
				line = strings.TrimSuffix(line, "\n")
				if at := strings.IndexFunc(line, func(r rune) bool { return printable(r) != r }); at >= 0 {
					t.Errorf("%s%s writes %s", name, form, strconv.Quote(line))
				}
				if form == "" && out.Len() > 0 && name != "jobs show 1" && utf8.RuneCountInString(line) > tableWidth {
					t.Errorf("%s writes %d columns: %s", name, utf8.RuneCountInString(line), line)
				}
			}
			if form != "" && out.Len() > 0 && !json.Valid(out.Bytes()) {
				t.Errorf("%s writes no JSON: %s", name, out.String())
			}
		}
	}
}

// contexts makes a file of contexts, for this test.
func contexts(t *testing.T, text string) {
	t.Helper()
	folder := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", folder)
	for _, name := range []string{"DATABASE_URL", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE", "PGPASSWORD", "PGHOSTADDR"} {
		t.Setenv(name, "")
	}
	path := filepath.Join(folder, "backfill", "config.toml")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Reads may use a default context; a change names the database, and production's name is typed (X108).
func TestContexts(t *testing.T) {
	db := pgtest.New(t, pgtest.WithSchema("jobs"))
	dbtest.Run(t, db.Pool(), `select jobs.add_job('sync', '{"iban": "DE02", "password": "hunter22", "n": 1}')`)
	contexts(t, `
default = "staging"
[context.staging]
url_env = "STAGING_URL"
schema = "jobs"
redact = ["IBAN"]
[context.prod]
url_command = ["printenv", "STAGING_URL"]
schema = "jobs"
colour = "red"
production = true
`)
	t.Setenv("STAGING_URL", db.URL)
	out, _ := command(t, 0, "jobs", "show", "1")
	says(t, out, `{"iban": "[redacted]", "password": "[redacted]", "n": 1}`)
	out, _ = command(t, 0, "jobs", "show", "1", "--context", "prod")
	says(t, out, `{"iban": "DE02", "password": "[redacted]", "n": 1}`)
	_, errs := command(t, exitUsage, "pause", "sync")
	says(t, errs, "pause changes something, so the default context is not taken: pass --context staging")
	command(t, 0, "pause", "--list")
	_, errs = command(t, 0, "pause", "sync", "--context", "staging")
	says(t, errs, "context   staging\n", "schema    jobs")
	command(t, 0, "resume", "sync", "--database-url", db.URL, "--schema", "jobs")
	for _, arguments := range [][]string{
		{"pause", "sync"}, {"pause", "sync", "--confirm", "staging"}, {"migrate"}, {"unlock", "pool-1", "--force", "--reason", "r"}, {"dlq", "delete", "--all", "--yes"},
	} {
		_, errs := command(t, exitUnconfirmed, append(arguments, "--context", "prod")...)
		says(t, errs, "context   prod (production)\n", "nothing was changed")
	}
	if n := dbtest.Get[int](t, db.Pool(), "select count(*)::int from jobs.backfill_pauses"); n != 0 {
		t.Errorf("%d pauses", n)
	}
	command(t, 0, "pause", "sync", "--context", "prod", "--confirm", "prod")
	command(t, 0, "migrate", "--context", "prod", "--confirm", "prod")
	command(t, exitNothing, "dlq", "delete", "--all", "--yes", "--context", "prod", "--confirm", "prod")
	command(t, 0, "migrate", "--verify", "--context", "prod")
	for _, arguments := range [][]string{{"--context", "none"}, {"--context", ""}, {"--context", "prod", "--database-url", db.URL}} {
		command(t, exitUsage, append([]string{"jobs", "list"}, arguments...)...)
	}
	t.Setenv("STAGING_URL", "")
	_, errs = command(t, exitUsage, "jobs", "list")
	says(t, errs, "STAGING_URL, which is not set")
	_, errs = command(t, exitUsage, "jobs", "list", "--context", "prod")
	says(t, errs, "url_command of the context prod")
}

// A file that is wrong stops the command.
func TestContextsAreStrict(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	for text, want := range map[string]string{
		"[context.a]\nurl = \"postgres://u:hunter22@h/d\"":    "context.a.url is not known",
		"[context.a]\nproduction = true":                      "want url_env",
		"[context.a]\nurl_env = \"A\"\nurl_command = [\"x\"]": "want url_env",
		"[context.a]\nurl_env = \"A\"\ncolour = \"pink\"":     `the colour "pink" is none`,
		"default = \"b\"\n[context.a]\nurl_env = \"A\"":       `the default context "b" is not there`,
		"[context.a]\nurl_env = \"A\"":                        "no database is named: pass --context with one of a",
		"[context":                                            "config.toml",
		"[context.\"a\\u001b[31m\"]\nurl_env = \"A\"":         "cannot be typed",
	} {
		contexts(t, text)
		out, errs := command(t, exitUsage, "jobs", "list")
		says(t, errs, want)
		if strings.Contains(out+errs, "hunter22") {
			t.Errorf("a secret is repeated: %s%s", out, errs)
		}
	}
	contexts(t, "[context.a]\nurl_env = \"A\"")
	path := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "backfill", "config.toml")
	if err := os.Chmod(path, 0o622); err != nil {
		t.Fatal(err)
	}
	_, errs := command(t, exitUsage, "jobs", "list")
	says(t, errs, "others may write")
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "pwsh"} {
		if out, _ := command(t, 0, "completion", shell); len(out) < 100 {
			t.Errorf("%s: %s", shell, out)
		}
	}
	out, _ := command(t, 0, "jobs", "--generate-shell-completion")
	says(t, out, "list", "show")
}
