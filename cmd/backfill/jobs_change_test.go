package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// someJobs adds jobs 1 to 4: one that waits, one that failed for good, one of a Node worker, and one
// of another task.
func someJobs(t *testing.T, db *pgtest.Database) {
	t.Helper()
	execute(t, connectTo(t, db.URL), `select graphile_worker.add_job('mail', '{"to": "a"}', queue_name := 'q' || i) from generate_series(1, 3) as i;
		select graphile_worker.add_job('other');
		update graphile_worker._private_jobs set attempts = 25, last_error = 'declined' where id = 2;
		update graphile_worker._private_jobs set attempts = 1, locked_at = now(), locked_by = 'node-7' where id = 3`)
}

// rowsOf are the rows of a table.
func rowsOf(t *testing.T, db *pgtest.Database, table string) []string {
	t.Helper()
	return list(t, connectTo(t, db.URL), "select r::text from graphile_worker."+table+" as r order by id")
}

// Each verb says where it is and what it is about to do, changes jobs and no dead letter, and says
// what became of each, and who has those that it leaves.
func TestJobsChange(t *testing.T) {
	t.Parallel()
	const head = "database  …\nschema    graphile_worker\nplace     jobs\nfilter    task \"mail\"\n"
	const foreign = "3\tskipped: foreign, worker node-7: nobody can tell whether that worker lives, as of those of Node\n"
	for verb, want := range map[string]struct {
		more           []string
		skips, stdout  string
		ending, failed string
	}{
		"retry": {
			nil, "1 foreign, 1 waiting", "1\tskipped: waiting: it waits for its first attempt\n2\tretried\n" + foreign,
			"retried 1, skipped 2 (1 foreign, 1 waiting)\n", "retried",
		},
		"cancel": {
			nil, "1 failed, 1 foreign", "1\tcancelled\n2\tskipped: failed: it has failed for good: nothing runs it\n" + foreign,
			"cancelled 1, skipped 2 (1 failed, 1 foreign)\n", "cancelled",
		},
		"delete": {nil, "1 foreign", "1\tdeleted\n2\tdeleted\n" + foreign, "deleted 2, skipped 1 (1 foreign)\n", "deleted"},
		"reschedule": {
			[]string{"--in", "1h"},
			"1 failed, 1 foreign", "1\trescheduled\n2\tskipped: failed: it has failed for good: retry it\n" + foreign,
			"rescheduled 1, skipped 2 (1 failed, 1 foreign)\n", "rescheduled",
		},
	} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			someJobs(t, db)
			threeLetters(t, db)
			letters, jobs := rowsOf(t, db, "backfill_dlq"), rowsOf(t, db, "_private_jobs")
			arguments := append([]string{"jobs", verb, "--database-url", db.URL, "--task", "mail"}, want.more...)

			_, stderr := command(t, 5, arguments...)
			same(t, head+"matching  3\nto skip   "+want.skips+"\nbackfill: nothing was changed: standard input is not a terminal, so pass --yes\n", stderr)
			_, stderr = answered(t, "no\n", 5, arguments...)
			says(t, stderr, "To "+verb+" them, type yes: ")
			command(t, 4, append(arguments, "--dry-run")...)
			if diff := cmp.Diff(jobs, rowsOf(t, db, "_private_jobs")); diff != "" {
				t.Errorf("without a yes (-before +after):\n%s", diff)
			}

			stdout, stderr := answered(t, "yes\n", 4, append(arguments, "--by", "ada", "--reason", "cured")...)
			same(t, want.stdout, stdout)
			operation := list(t, connectTo(t, db.URL), "select max(id)::text from graphile_worker.backfill_operations")[0]
			same(t, head+"matching  3\nto skip   "+want.skips+"\nTo "+verb+" them, type yes: operation "+operation+"\n"+want.ending+
				"backfill: not all of them were "+want.failed+"\n", stderr)
			if diff := cmp.Diff(letters, rowsOf(t, db, "backfill_dlq")); diff != "" {
				t.Errorf("dead letters (-before +after):\n%s", diff)
			}
			after := rowsOf(t, db, "_private_jobs")
			if diff := cmp.Diff(jobs[2:], after[len(after)-2:]); diff != "" {
				t.Errorf("the job of Node's worker, and that of the other task (-before +after):\n%s", diff)
			}
			stdout, _ = command(t, 0, "audit", "--database-url", db.URL)
			says(t, stdout, "ada  "+verb+" ", " operation ", " cured\n")
			stdout, _ = command(t, 0, "bulk", "show", "--database-url", db.URL, operation)
			says(t, stdout, "state     done\n", "filter    task \"mail\"\n", "by        ada\n", foreign)
			stdout, _ = command(t, 0, "bulk", "list", "--database-url", db.URL)
			says(t, stdout, operation+"   done   "+verb)
		})
	}
}

// No filter never means all, and nothing that matches is an exit code. Nothing connects to the
// database for a wrong usage.
func TestJobsChangeUsage(t *testing.T) {
	t.Parallel()
	const nowhere = "postgres://me:secret@127.0.0.1:1/nowhere"
	for want, arguments := range map[string][]string{
		"delete all jobs? Select some":     {"delete"},
		"--all and flags that select some": {"delete", "--all", "--task", "a"},
		"is not the number of a job":       {"retry", "postgres://me:secret@host/db"},
		"--per-second: want":               {"cancel", "1", "--per-second", "-1"},
		"nothing to change":                {"reschedule", "1"},
		"--run-at and --in":                {"reschedule", "1", "--in", "1h", "--run-at", "2026-11-29T14:00:00Z"},
		"a text is empty":                  {"delete", "--queue", ""},
		"edit takes the number of one job": {"edit", "--payload", "{}"},
		"--payload or --payload-file":      {"edit", "1"},
		"--dry-run changes nothing":        {"delete", "1", "--dry-run", "--yes"},
	} {
		_, stderr := command(t, 2, append([]string{"jobs", arguments[0], "--database-url", nowhere}, arguments[1:]...)...)
		says(t, stderr, want)
		if strings.Contains(stderr, "secret") {
			t.Errorf("%q repeats a password: %s", arguments, stderr)
		}
	}
	db := pgtest.New(t)
	for _, flags := range [][]string{nil, {"--yes"}, {"--dry-run"}} {
		_, stderr := command(t, 3, append([]string{"jobs", "delete", "--database-url", db.URL, "--task", "mail", "7"}, flags...)...)
		says(t, stderr, `filter    id 7, and task "mail"`, "no job matches\n")
	}
	command(t, 0, "jobs", "delete", "--database-url", db.URL, "7", "--yes", "--allow-none")
}

// An edit replaces the args of one job, if it is as it was seen.
func TestJobsEdit(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	someJobs(t, db)
	stdout, stderr := command(t, 0, "jobs", "edit", "--database-url", db.URL, "1", "--payload", `{"to": "b"}`, "--if-revision", "0", "--by", "ada")
	same(t, "job 1 is edited\n", stdout)
	same(t, "database  …\nschema    graphile_worker\nplace     jobs\nfilter    id 1\n", stderr)
	if got := list(t, connectTo(t, db.URL), "select payload::text from graphile_worker._private_jobs where id = 1")[0]; got != `{"to": "b"}` {
		t.Errorf("the payload is %s", got)
	}
	_, stderr = command(t, 4, "jobs", "edit", "--database-url", db.URL, "1", "--payload", `{}`, "--if-revision", "1")
	says(t, stderr, "changed: it was changed since it was seen")
	_, stderr = command(t, 4, "jobs", "edit", "--database-url", db.URL, "3", "--payload", `{}`)
	says(t, stderr, "foreign, worker node-7")
	command(t, 3, "jobs", "edit", "--database-url", db.URL, "99", "--payload", `{}`)
	command(t, 2, "jobs", "edit", "--database-url", db.URL, "1", "--payload", `{"a": "[redacted]"}`)
}

func TestEnqueueCommand(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	stdout, _ := command(t, 0, "enqueue", "--database-url", db.URL, "mail", `{"to":"a"}`, "--queue", "q", "--key", "k", "--priority", "-3", "--max-tries", "2", "--id", "x")
	same(t, "job 1 is enqueued\n", stdout)
	stdout, _ = command(t, 0, "enqueue", "--database-url", db.URL, "mail", `{"to":"a"}`, "--id", "x")
	same(t, "job 1 is enqueued (by an earlier call with this id)\n", stdout)
	got := list(t, connectTo(t, db.URL), "select concat_ws(' ', payload, key, priority, max_attempts, revision) from graphile_worker._private_jobs")
	if diff := cmp.Diff([]string{`{"to":"a"} k -3 2 0`}, got); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
	for want, arguments := range map[string][]string{
		"enqueue takes the name of a task": {}, "args": {"mail", "{"}, "without a key": {"mail", "{}", "--key-mode", "replace"}, "--priority": {"mail", "--priority", "99999"},
	} {
		_, stderr := command(t, 2, append([]string{"enqueue", "--database-url", db.URL}, arguments...)...)
		says(t, stderr, want)
	}
}

// A process that is killed while it deletes jobs has deleted each once; another one goes on.
func TestBulkResume(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	execute(t, connectTo(t, db.URL), "select graphile_worker.add_job('mail') from generate_series(1, 1000)")
	child := exec.Command(os.Args[0], "jobs", "delete", "--yes", "--by", "ada", "--per-second", "200", "--task", "mail", "--database-url", db.URL)
	child.Env = append(os.Environ(), asCommand+"=1")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	items := func() string {
		return list(t, connectTo(t, db.URL), "select count(*)::text from graphile_worker.backfill_operation_items")[0]
	}
	dbtest.Until(t, func() bool { return items() != "0" })
	_ = child.Process.Kill()
	_ = child.Wait()
	stdout, _ := command(t, 0, "bulk", "list", "--database-url", db.URL)
	says(t, stdout, "1   running  delete")
	stdout, _ = command(t, 0, "bulk", "stop", "--database-url", db.URL, "1")
	says(t, stdout, "operation 1 is stopped")
	execute(t, connectTo(t, db.URL), "update graphile_worker.backfill_operations set per_second = 0")
	_, stderr := command(t, 0, "bulk", "resume", "--database-url", db.URL, "1")
	says(t, stderr, "deleted 1000\n")
	if n := items(); n != "1000" {
		t.Errorf("%s items, want 1000", n)
	}
	_, stderr = command(t, 2, "bulk", "resume", "--database-url", db.URL, "1")
	says(t, stderr, "operation 1 is done")
	command(t, 3, "bulk", "stop", "--database-url", db.URL, "77")
	command(t, 3, "bulk", "show", "--database-url", db.URL, "77")
}

// An interrupt leaves an operation running, and says how to go on; at a terminal it can be stopped.
func TestBulkInterrupted(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string][]string{
		"":        {"operation 1 is left running", "backfill bulk resume 1", "backfill bulk stop 1"},
		"stop\n":  {"operation 1 is stopped", "backfill bulk resume 1"},
		"leave\n": {"operation 1 is left running"},
	} {
		db := pgtest.New(t)
		execute(t, connectTo(t, db.URL), "select graphile_worker.add_job('mail') from generate_series(1, 1000)")
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer cancel()
			dbtest.UntilWithin(t, time.Minute, func() bool {
				return dbtest.Get[bool](t, db.Pool(), "select exists (select from graphile_worker.backfill_operation_items)")
			})
		}()
		var out, errs bytes.Buffer
		var in interface{ Read([]byte) (int, error) } = strings.NewReader("")
		if answer != "" {
			in = answering{strings.NewReader(answer)}
		}
		code := run(ctx, []string{"backfill", "jobs", "delete", "--yes", "--per-second", "50", "--all", "--database-url", db.URL}, in, &out, &errs)
		if code != 1 {
			t.Errorf("exit code %d: %s", code, errs.String())
		}
		says(t, errs.String(), want...)
	}
}
