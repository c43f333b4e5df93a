package schema_test

import (
	"errors"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/migrations"
	"github.com/backfillhq/go/testutil/pgtest"
)

// callEveryFunction runs the body of each function once, in any schema.
func callEveryFunction(t *testing.T, conn *pgx.Conn, schema string) {
	t.Helper()
	for _, sql := range []string{
		"select id from graphile_worker.add_job('a')",
		"select id from graphile_worker.add_job('a', job_key => 'k', queue_name => 'q')",
		"select id from graphile_worker.add_job('a', job_key => 'k', queue_name => 'q', job_key_mode => 'unsafe_dedupe')",
		"select id from graphile_worker.add_jobs(array(select json_populate_recordset(null::graphile_worker.job_spec, '[{\"identifier\":\"b\"}]')))",
		"select count(*) from graphile_worker.reschedule_jobs(array[1], run_at => now())",
		"select count(*) from graphile_worker.permanently_fail_jobs(array[1], 'no')",
		"select count(*) from graphile_worker.complete_jobs(array[1])",
		"select id from graphile_worker.remove_job('k')",
		"select count(*) from graphile_worker.jobs where queue_name is null",
	} {
		if n := dbtest.Get[int](t, conn, migrations.Render(sql, schema)); n == 0 {
			t.Errorf("%s: 0", sql)
		}
	}
	dbtest.Run(t, conn, migrations.Render("select graphile_worker.force_unlock_workers(array['x'])", schema))
}

// sqlState returns the SQLSTATE of an error, "" for nil.
func sqlState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func TestNotifications(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t).URL
	conn := dbtest.Connect(t, url)
	heard := dbtest.Listen(t, url)
	for _, test := range []struct {
		call  string
		count string // Of the only notification; "" for none, "empty" for one without payload.
	}{
		{"add_job('a')", "1"},
		{"add_job('a', run_at => now() + interval '1 day', job_key => 'k')", "1"},
		{"add_job('a', job_key => 'k')", "1"},
		{"add_job('a', job_key => 'd', job_key_mode => 'unsafe_dedupe')", "1"},
		{"add_job('a', job_key => 'd', job_key_mode => 'unsafe_dedupe')", ""},
		{"add_jobs(array_fill(('a',null,null,null,null,null,null,null)::graphile_worker.job_spec, array[3]))", "3"},
		{"add_jobs('{}')", "empty"},
		{"reschedule_jobs(array(select id from graphile_worker._private_jobs), run_at => now())", ""},
		{"permanently_fail_jobs(array(select max(id) from graphile_worker._private_jobs))", ""},
		{"complete_jobs(array(select max(id) from graphile_worker._private_jobs))", ""},
		{"force_unlock_workers('{pool-x}')", ""},
		{"remove_job('k')", "-1"},
		{"remove_job('k')", ""},
		{"remove_job(null)", ""},
	} {
		dbtest.Run(t, conn, "select graphile_worker."+test.call)
		got := heard.Take(t)
		switch {
		case test.count == "":
			if len(got) != 0 {
				t.Errorf("%s notified %q, want nothing", test.call, got)
			}
		case len(got) != 1:
			t.Errorf("%s notified %q, want one", test.call, got)
		case test.count == "empty":
			if got[0] != "jobs:insert " {
				t.Errorf("%s notified %q, want an empty payload", test.call, got)
			}
		case !regexp.MustCompile(`^jobs:insert \{"r":[0-9.e-]+,"count":` + test.count + `\}$`).MatchString(got[0]):
			t.Errorf("%s notified %q, want count %s", test.call, got, test.count)
		}
	}
	// PostgreSQL folds equal notifications of one transaction.
	dbtest.Run(t, conn, "begin; select graphile_worker.add_job('a'); select graphile_worker.add_job('a'); commit")
	if got := heard.Take(t); len(got) != 2 {
		t.Errorf("two adds in a transaction notified %q, want two", got)
	}
	dbtest.Run(t, conn, "update graphile_worker._private_jobs set key = 'running', locked_at = now() where id = (select min(id) from graphile_worker._private_jobs)")
	dbtest.Run(t, conn, "select graphile_worker.remove_job('running')")
	if got := heard.Take(t); len(got) != 0 {
		t.Errorf("remove_job of a running job notified %q, want nothing", got)
	}
}

// TestOperators is what section 1.5 says about locked jobs: three are handed to each function, one
// free, one locked, one locked for more than four hours.
func TestOperators(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, call string
		returned   []int64
		want       string
	}{
		{
			"complete", "select array_agg(id order by id) from graphile_worker.complete_jobs('{1,2,3,99}')",
			[]int64{1, 3},
			"2: 3/25 - k2 pool-x old -",
		},
		{
			"fail", "select array_agg(id order by id) from graphile_worker.permanently_fail_jobs('{1,2,3,99}')",
			[]int64{1, 3},
			"1: 25/25 Manually marked as failed k1 - new -, 2: 3/25 - k2 pool-x old -, 3: 25/25 Manually marked as failed k3 pool-y new -",
		},
		{
			"fail with a reason", "select array_agg(id order by id) from graphile_worker.permanently_fail_jobs('{1}', 'why')",
			[]int64{1},
			"1: 25/25 why k1 - new -, 2: 3/25 - k2 pool-x old -, 3: 3/25 - k3 pool-y old -",
		},
		{
			"reschedule", "select array_agg(id order by id) from graphile_worker.reschedule_jobs('{1,2,3}', '" + newRunAt + "', 5, 40, 30)",
			[]int64{1, 3},
			"1: 40/30 - k1 - new future5, 2: 3/25 - k2 pool-x old -, 3: 40/30 - k3 pool-y new future5",
		},
		{
			"reschedule nothing", "select array_agg(id order by id) from graphile_worker.reschedule_jobs('{1,2,3}')",
			[]int64{1, 3},
			"1: 3/25 - k1 - new -, 2: 3/25 - k2 pool-x old -, 3: 3/25 - k3 pool-y new -",
		},
		{
			"remove free", "select array[id] from graphile_worker.remove_job('k1')",
			[]int64{1},
			"2: 3/25 - k2 pool-x old -, 3: 3/25 - k3 pool-y old -",
		},
		{
			"remove locked", "select array[id] from graphile_worker.remove_job('k2')",
			[]int64{2},
			"1: 3/25 - k1 - old -, 2: 25/25 - - pool-x new -, 3: 3/25 - k3 pool-y old -",
		},
		{
			"remove stale", "select array[id] from graphile_worker.remove_job('k3')",
			[]int64{3},
			"1: 3/25 - k1 - old -, 2: 3/25 - k2 pool-x old -",
		},
		{
			"remove none", "select array_agg(id) filter (where id is not null) || count(*) from graphile_worker.remove_job('none')",
			[]int64{1},
			"1: 3/25 - k1 - old -, 2: 3/25 - k2 pool-x old -, 3: 3/25 - k3 pool-y old -",
		},
		{
			"unlock", "select array[1] from graphile_worker.force_unlock_workers('{pool-x,nobody}')",
			[]int64{1},
			"1: 3/25 - k1 - old -, 2: 3/25 - k2 - old -, 3: 3/25 - k3 pool-y old -",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn := dbtest.Installed(t)
			dbtest.Run(t, conn, "select graphile_worker.add_job('a', queue_name => 'q' || i, job_key => 'k' || i) from generate_series(1, 3) as i")
			dbtest.Run(t, conn, "update graphile_worker._private_jobs set attempts = 3, updated_at = '"+oldTouch+"'")
			for _, table := range []string{"_private_jobs", "_private_job_queues"} {
				dbtest.Run(t, conn, "update graphile_worker."+table+" set locked_at = now() - interval '3 hours 59 minutes', locked_by = 'pool-x' where id = 2")
				dbtest.Run(t, conn, "update graphile_worker."+table+" set locked_at = now() - interval '4 hours 1 minute', locked_by = 'pool-y' where id = 3")
			}
			if got := dbtest.Get[[]int64](t, conn, test.call); !slices.Equal(got, test.returned) {
				t.Errorf("returned %v, want %v", got, test.returned)
			}
			got := dbtest.Get[string](t, conn, `
				select string_agg(concat(id, ': ', attempts, '/', max_attempts, ' ', coalesce(last_error, '-'), ' ', coalesce(key, '-'), ' ',
					case when locked_at is null then '-' else locked_by end, ' ', case updated_at when '`+oldTouch+`' then 'old' else 'new' end, ' ',
					case run_at when '`+newRunAt+`' then 'future' || priority else '-' end), ', ' order by id)
				from graphile_worker._private_jobs`)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("jobs (-want +got):\n%s", diff)
			}
			queues := dbtest.Get[string](t, conn, "select string_agg(concat(id, coalesce(locked_by, '-'), is_available), ' ' order by id) from graphile_worker._private_job_queues")
			want := "1-t 2pool-xf 3pool-yf"
			if test.name == "unlock" {
				want = "1-t 2-t 3pool-yf"
			}
			if queues != want {
				t.Errorf("queues = %s, want %s", queues, want)
			}
		})
	}
}

// TestStrangersSeeNothing is section 1.4: without a policy, rows are the owner's only.
func TestStrangersSeeNothing(t *testing.T) {
	t.Parallel()
	conn := dbtest.Installed(t)
	dbtest.Run(t, conn, "select graphile_worker.add_job('a')")
	role := dbtest.NewRole(t, conn)
	dbtest.Run(t, conn, "grant usage on schema graphile_worker to "+role)
	dbtest.Run(t, conn, "grant all on all tables in schema graphile_worker to "+role)
	dbtest.Run(t, conn, "grant all on all sequences in schema graphile_worker to "+role)
	dbtest.Run(t, conn, "set role "+role)
	if n := dbtest.Get[int](t, conn, "select count(*) from graphile_worker._private_jobs"); n != 0 {
		t.Errorf("a stranger sees %d jobs", n)
	}
	if n := dbtest.Get[int](t, conn, "select count(*) from graphile_worker.jobs"); n != 1 {
		t.Errorf("a stranger sees %d jobs through the view, want 1", n)
	}
	_, err := conn.Exec(t.Context(), "select graphile_worker.add_job('b')")
	if got := sqlState(err); got != "42501" {
		t.Errorf("add_job by a stranger: SQLSTATE %q, want 42501: %v", got, err)
	}
}
