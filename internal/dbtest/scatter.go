package dbtest

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// scatter writes rows of any combination of columns that the tables allow, as no client does.
const scatter = `
select setseed(0.25);
insert into graphile_worker._private_tasks (identifier) values ('a'), ('b'), ('c'), (E'esc\x1b[31m');
insert into graphile_worker._private_job_queues (queue_name, locked_at, locked_by)
values ('q', null, null), ('r', now(), 'pool-1'), (E'bell\x07', '-infinity', null), ('gone', null, null);
insert into graphile_worker._private_jobs
  (task_id, job_queue_id, payload, priority, run_at, attempts, max_attempts, last_error, created_at, updated_at, key, locked_at, locked_by, revision, flags)
select one((select array_agg(id) from graphile_worker._private_tasks) || 99999),
       one(array[null, null, null]::int[] || (select array_agg(id) from graphile_worker._private_job_queues) || 99999),
       one(array['{}', '{"n": 1, "password": "hunter22"}', '{"n": 1.0, "t": "\ud83d\ude00"}', '"\u0000"', '"\ud83d"', '[1,{"n":[2]}]', '1e999999', 'null', '12345678901234567890.00',
                 repeat('[', 1000) || repeat(']', 1000), '{"n":1,"x":"' || repeat('x', 5000) || '"}', '{"n":1,"x":"' || repeat('x', 40000) || '"}',
                 case when i % 20 = 0 then '{"n":1,"x":"' || repeat('x', 1000000) || '"}' else '{}' end])::json,
       one(array[-32768, -1, 0, 5, 32767])::smallint,
       one(array['infinity', '-infinity', '1970-01-01', '9999-12-31', '294276-12-31', '4713-01-01 BC', 'now', 'now'])::timestamptz,
       one(array[-5, 0, 0, 1, 25, 32767])::smallint, one(array[1, 25, 32767])::smallint,
       one(array[null, null, '', 'timed out', 'refused hunter22 here', repeat('é', 30000)]),
       one(array['infinity', '1970-01-01', 'now'])::timestamptz, one(array['-infinity', '9999-12-31', 'now'])::timestamptz,
       case when random() < 0.5 then 'k' || i end,
       l.at, case when l.at is not null then one(array[null, 'pool-1', 'backfill-suspect.x', '0123456789abcdef.3k', '']) end,
       one(array[-1, 0, 2147483647]), one(array[null, null, '{}', '{"f": true, "g": false}', '["f"]', '"f"', '7', 'null'])::jsonb
  from generate_series(1, 600) as i
  cross join lateral (select one(array[null, null, null, 'now', 'infinity', '-infinity', '1970-01-01'])::timestamptz as at where i > 0) as l;
delete from graphile_worker._private_job_queues where queue_name = 'gone';`

// Scatter fills empty tables of jobs with 600 rows of any combination of columns that they allow, the same ones each time.
func Scatter(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	for _, sql := range []string{
		"create function pg_temp.one(anyarray) returns anyelement language sql volatile as 'select $1[1 + floor(random() * cardinality($1))::int]'",
		strings.ReplaceAll(scatter, "one(", "pg_temp.one("),
	} {
		if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatalf("%v:\n%s", err, sql)
		}
	}
}
