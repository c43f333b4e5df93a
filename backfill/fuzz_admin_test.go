package backfill_test

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Whatever operators ask for: the admin methods leave the jobs that the contract's functions leave,
// and refuse before anything is sent what these refuse, and beyond that what the documentation
// says.
func FuzzAdmin(f *testing.F) {
	pool := pgtest.New(f, pgtest.WithPoolSize(1)).Pool()
	client, err := backfill.NewClient(f.Context(), pool, backfill.WithLogger(quiet))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(client.Close)
	for i, text := range []string{
		"", "k", "pool-x", "pool-x.1", "gone", strings.Repeat("é", 512), strings.Repeat("é", 513), strings.Repeat("x", 10_001), "a\x00", "\xff", "%", ".",
	} {
		for operation := range adminOperations {
			f.Add(uint8(operation), text, uint8(i), int64(1<<i), i-5, i-9, int16(i)) // attempts from -1, max_attempts from -1
		}
	}
	for _, year := range []int{-4713, 294276, 294277} { // the first and the last that there is, or not
		f.Add(uint8(1), "", uint8(1), time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).Unix(), 0, 0, int16(0))
	}
	for _, n := range []int{32767, 32768, 1 << 31} {
		f.Add(uint8(1), "", uint8(4), int64(0), n, 0, int16(0))
		f.Add(uint8(1), "", uint8(8), int64(0), 0, n, int16(0))
	}
	f.Fuzz(func(t *testing.T, operation uint8, text string, fields uint8, sec int64, attempts, maxAttempts int, priority int16) {
		in := adminInput{text: text}
		at := time.Unix(sec%(1<<47), 0).UTC()
		for i, set := range []func(){
			func() { in.change.RunAt = &at },
			func() { in.change.Priority = (*backfill.Priority)(&priority) },
			func() { in.change.Attempts = &attempts },
			func() { in.change.MaxAttempts = &maxAttempts },
		} {
			if fields>>i&1 != 0 {
				set()
			}
		}
		in.ids = resetJobs(t, pool)
		op := adminOperations[int(operation)%len(adminOperations)]
		want, theirs := "", error(nil)
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if theirs = op.theirs(t, tx, in); theirs == nil {
				want = adminRows(t, tx)
			}
			return errRollback
		})
		if !errors.Is(err, errRollback) {
			t.Fatal(err)
		}
		err = op.ours(t.Context(), client, in)
		_, sent := errors.AsType[*pgconn.PgError](err)
		switch {
		case sent:
			t.Errorf("%s of %+v: sent, and refused by the database: %v; and to the contract's function: %v", op.name, in, err, theirs)
		case err != nil:
			if wantReadable(t, err); theirs == nil && !op.stricter(in) {
				t.Errorf("%s of %+v: the contract's function takes it, and we say: %v", op.name, in, err)
			}
		case theirs != nil:
			t.Errorf("%s of %+v: done, where the contract's function says: %v", op.name, in, theirs)
		default:
			if diff := cmp.Diff(want, adminRows(t, pool)); diff != "" {
				t.Errorf("%s of %+v: rows (-contract +ours):\n%s", op.name, in, diff)
			}
		}
	})
}

var errRollback = errors.New("rolled back on purpose")

type adminInput struct {
	text   string
	ids    []int64
	change backfill.RescheduleChange
}

// adminOperation is a method, and what the contract has for it.
type adminOperation struct {
	name     string
	ours     func(context.Context, *backfill.Client, adminInput) error
	theirs   func(*testing.T, pgx.Tx, adminInput) error
	stricter func(adminInput) bool // refused as documented
}

var adminOperations = []adminOperation{
	{
		"FailJobs",
		func(ctx context.Context, c *backfill.Client, in adminInput) error {
			_, err := c.FailJobs(ctx, in.text, in.ids...)
			return err
		},
		func(t *testing.T, tx pgx.Tx, in adminInput) error {
			t.Helper()
			return call(t, tx, "permanently_fail_jobs($1::bigint[], nullif($2::text, ''))", in.ids, in.text)
		},
		func(in adminInput) bool { return utf8.RuneCountInString(in.text) > 10_000 },
	},
	{
		"RescheduleJobs",
		func(ctx context.Context, c *backfill.Client, in adminInput) error {
			_, err := c.RescheduleJobs(ctx, in.change, in.ids...)
			return err
		},
		func(t *testing.T, tx pgx.Tx, in adminInput) error {
			t.Helper()
			r := in.change
			day, micros := int64(0), int64(0)
			if r.RunAt != nil {
				day, micros = dayOf(*r.RunAt)
			}
			return call(t, tx, `reschedule_jobs($1::bigint[], case when $2 then (timestamp 'epoch' + make_interval(days => $3::int)
				+ $4::bigint * interval '1 microsecond') at time zone 'UTC' end, $5::int, $6::bigint::int, $7::bigint::int)`,
				in.ids, r.RunAt != nil, day, micros, (*int16)(r.Priority), r.Attempts, r.MaxAttempts)
		},
		func(in adminInput) bool {
			return in.change.RunAt == nil && in.change.Priority == nil && in.change.Attempts == nil && in.change.MaxAttempts == nil || in.change.Attempts != nil && *in.change.Attempts < 0
		},
	},
	{
		"RemoveJob",
		func(ctx context.Context, c *backfill.Client, in adminInput) error {
			_, err := c.RemoveJob(ctx, in.text)
			return err
		},
		func(t *testing.T, tx pgx.Tx, in adminInput) error {
			t.Helper()
			return call(t, tx, "remove_job($1::text)", in.text)
		},
		func(in adminInput) bool { return in.text == "" || utf8.RuneCountInString(in.text) > 512 },
	},
	{
		"ForceUnlock",
		func(ctx context.Context, c *backfill.Client, in adminInput) error {
			_, err := c.ForceUnlock(ctx, in.text, "pool-y")
			return err
		},
		func(t *testing.T, tx pgx.Tx, in adminInput) error {
			t.Helper()
			return call(t, tx, "force_unlock_workers(array[$1::text, 'pool-y'])", in.text)
		},
		func(adminInput) bool { return false },
	},
	{ // not the contract's: what its documentation says
		"UnlockWorker",
		func(ctx context.Context, c *backfill.Client, in adminInput) error {
			_, err := c.UnlockWorker(ctx, in.text)
			return err
		},
		func(t *testing.T, tx pgx.Tx, in adminInput) error {
			t.Helper()
			id := unlockToken.ReplaceAllString(in.text, "pool-x")
			_, err := tx.Exec(t.Context(), `update graphile_worker._private_jobs set locked_at = null, locked_by = null,
				attempts = case when locked_by = $1 then attempts else attempts - 1 end
				where locked_by = $1 or locked_by = $1 || '.1.1k'`, id)
			return err
		},
		func(in adminInput) bool { // nothing is locked by anybody else
			id := unlockToken.ReplaceAllString(in.text, "pool-x")
			return id != "pool-x" && id != "pool-xy" && id != "pool-y"
		},
	},
	{
		"CompleteJobs",
		func(ctx context.Context, c *backfill.Client, in adminInput) error {
			_, err := c.CompleteJobs(ctx, in.ids...)
			return err
		},
		func(t *testing.T, tx pgx.Tx, in adminInput) error {
			t.Helper()
			return call(t, tx, "complete_jobs($1::bigint[])", in.ids)
		},
		func(adminInput) bool { return false },
	},
}

// unlockToken matches what locked_by says of the jobs and queues of the worker that resetJobs has
// registered.
var unlockToken = regexp.MustCompile(`^pool-x\.[0-9a-f]+(\.[0-9]{1,9}k?)?$`)

// call calls a function of the contract.
func call(t *testing.T, tx pgx.Tx, function string, args ...any) error {
	t.Helper()
	_, err := tx.Exec(t.Context(), "select count(*) from graphile_worker."+function, args...)
	return err
}

// resetJobs makes jobs in every state: free, tried, exhausted, locked by Node, by Go, and long ago.
func resetJobs(t *testing.T, pool *pgxpool.Pool) []int64 {
	t.Helper()
	if _, err := pool.Exec(t.Context(), "delete from graphile_worker._private_jobs"); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(),
		"insert into graphile_worker.backfill_workers (id) values ('pool-x') on conflict do nothing"); err != nil {
		t.Fatal(err)
	}
	rows, err := pool.Query(t.Context(), `
		insert into graphile_worker._private_jobs as j (task_id, run_at, key, attempts, locked_by, locked_at)
		select 1, '2040-01-01Z', v.key, v.attempts, v.locked_by, now() - v.age
		from (values ('k', 0, null, null::interval), (null, 3, null, null), (null, 25, null, null), ('l', 1, 'pool-x', '1 minute'),
			('g', 1, 'pool-x.1.1k', '1 minute'), ('n', 1, 'pool-xy', '1 minute'), ('s', 1, 'pool-y', '5 hours')) as v(key, attempts, locked_by, age)
		returning j.id`)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// adminRows shows all jobs.
func adminRows(t *testing.T, db querier) string {
	t.Helper()
	return get[string](t, db, `select coalesce(string_agg(json_build_array(j.id, j.key, j.run_at, j.priority, j.attempts, j.max_attempts,
		j.last_error, j.locked_by, j.revision)::text, E'\n' order by j.id), '') from graphile_worker._private_jobs as j`)
}
