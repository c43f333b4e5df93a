package interop_test

import (
	"testing"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// On a database that Node alone has installed and uses, the doctor finds nothing: no table of ours
// is missed there, and each version's functions are known. Then it finds what is wrong.
func TestDoctorOnNodesDatabase(t *testing.T) {
	t.Parallel()
	for _, name := range []string{newest, older, oldest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.db = pgtest.Empty(t)
			node := startPackage(f, name)
			node.work(bodies{"sync": ""}, nil)
			for range 10 {
				node.add("sync", full, map[string]any{"queueName": "q"})
			}
			dbtest.Run(t, f.db.Pool(), "insert into graphile_worker._private_known_crontabs (identifier, known_since) values ('taken out', now() - interval '1 year')")
			operator, err := admin.Open(f.db.URL)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(operator.Close)
			diagnose := func() (found []admin.FindingCode) {
				t.Helper()
				d, err := operator.Doctor(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, finding := range d.Findings {
					if finding.Code != admin.SettingUnsafe { // the servers of tests are fast and not safe
						t.Logf("%s: %s", finding.Code, finding.Text)
						found = append(found, finding.Code)
					}
				}
				for _, missing := range d.Missing {
					t.Errorf("missing: %+v", missing)
				}
				return found
			}
			for range 3 {
				if found := diagnose(); len(found) > 0 {
					t.Errorf("found %v", found)
				}
			}
			dbtest.Run(t, f.db.Pool(), `select graphile_worker.add_job('other', job_key := 'k', max_attempts := 1)`)
			dbtest.Run(t, f.db.Pool(), `update graphile_worker._private_jobs set attempts = 1, last_error = 'x' where key = 'k'`)
			if found := diagnose(); len(found) != 1 || found[0] != admin.FailedKeys {
				t.Errorf("found %v", found)
			}
		})
	}
}
