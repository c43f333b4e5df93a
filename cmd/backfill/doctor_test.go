package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

func TestDoctor(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	dbtest.Run(t, db.Pool(), "select setval('graphile_worker.tasks_id_seq', 2147000000)")
	out, errs := command(t, exitProblem, "doctor", "--database-url", db.URL)
	says(t, out, "tasks_id_seq is at 2147000000 of 2147483647", "Migrate the schema to revision 20")
	says(t, errs, "findings")
	out, _ = command(t, exitProblem, "doctor", "--json", "--database-url", db.URL)
	var d admin.Diagnosis
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(d.Findings, func(f admin.Finding) bool { return f.Code == admin.SequenceNearEnd && f.Object == "tasks_id_seq" }) {
		t.Errorf("findings %+v", d.Findings)
	}
	for _, arguments := range [][]string{{"x"}, {"--schema", "pg_temp"}, {"--no-such-flag"}} {
		command(t, exitUsage, append([]string{"doctor", "--database-url", db.URL}, arguments...)...)
	}
}

func TestDoctorFixes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, errs := command(t, exitNothing, "doctor", "--fix", "--database-url", db.URL)
	says(t, errs, "nothing that can be put right")
	dbtest.Run(t, db.Pool(), "drop function graphile_worker.remove_job")
	_, errs = command(t, exitUnconfirmed, "doctor", "--fix", "--database-url", db.URL)
	says(t, errs, "remove_job is not there", `create or replace function "graphile_worker".remove_job(`, "token     ", "standard input is not a terminal")
	_, token, _ := strings.Cut(errs, "token     ")
	token, _, _ = strings.Cut(token, "\n")
	command(t, exitUsage, "doctor", "--fix", "--token", token, "--database-url", db.URL)
	out, _ := command(t, 0, "doctor", "--fix", "--token", token, "--reason", "dropped by hand", "--by", "ada", "--database-url", db.URL)
	says(t, out, "put right: 1 finding")
	_, errs = command(t, exitSkipped, "doctor", "--fix", "--token", token, "--reason", "again", "--database-url", db.URL)
	says(t, errs, "does not hold any more")
	out, _ = command(t, 0, "audit", "--database-url", db.URL)
	says(t, out, "ada", "fix", "dropped by hand")
	dbtest.Run(t, db.Pool(), "drop function graphile_worker.remove_job")
	out, _ = command(t, 0, "doctor", "--fix", "--yes", "--reason", "again", "--database-url", db.URL)
	says(t, out, "put right: 1 finding")
	command(t, exitUsage, "doctor", "--reason", "x", "--database-url", db.URL)
}

func TestCronTrigger(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	dbtest.Run(t, db.Pool(), `insert into graphile_worker.backfill_workers (id, host, pid, beats, tasks, crontab)
		values ('pool-0123456789abcdef01', 'web-3', 7, 5, '{report}', '[{"id": "nightly", "schedule": "0 4 * * *", "task": "report", "queue": "q"}]')`)
	out, _ := command(t, 0, "cron", "trigger", "nightly", "--reason", "x", "--id", "once", "--database-url", db.URL)
	says(t, out, "job 1 is enqueued")
	out, _ = command(t, 0, "cron", "trigger", "nightly", "--id", "once", "--database-url", db.URL)
	says(t, out, "job 1 is enqueued (by an earlier call")
	_, errs := command(t, exitProblem, "cron", "trigger", "weekly", "--database-url", db.URL)
	says(t, errs, "no Go worker that lives has the cron entry")
	command(t, exitUsage, "cron", "trigger", "--database-url", db.URL)
}
