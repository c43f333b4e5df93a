package main

import (
	"encoding/json"
	"slices"
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
