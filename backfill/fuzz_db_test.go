package backfill_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Whatever the request: one that is valid leaves the rows that the contract's add_job leaves, on
// each of the ways to enqueue; and one that add_job refuses is refused before anything is sent.
// What is refused beyond that is what the documentation says.
func FuzzEnqueue(f *testing.F) {
	db := pgtest.New(f, pgtest.WithPoolSize(1))
	begins := fuzzWays(f, db)
	add := func(situation, way int, r backfill.Request) {
		f.Add(uint8(situation), uint8(way), r.Task, r.Queue, r.Key, string(r.KeyMode), string(r.Args), strings.Join(r.Flags, ","),
			r.MaxAttempts, int16(r.Priority), int64(r.Delay), r.RunAt.Unix(), r.RunAt.Nanosecond()/1000)
	}
	for i, r := range fuzzRequests {
		for situation := range situations {
			if r.Key != "" || situation == 0 {
				add(situation, i+situation, r)
			}
		}
	}
	f.Fuzz(func(t *testing.T, situation, way uint8, task, queue, key, mode, args, flags string, maxAttempts int, priority int16,
		delay, sec int64, usec int,
	) {
		r := backfill.Request{
			Task: task, Queue: queue, Key: key, KeyMode: backfill.KeyMode(mode), Args: raw(args), MaxAttempts: maxAttempts,
			Priority: backfill.Priority(priority), Delay: time.Duration(delay),
			RunAt: time.Unix(sec%(1<<47), int64(uint(usec)%1e6)*1000).UTC(),
		}
		if flags != "" {
			r.Flags = strings.Split(flags, ",")
		}
		specs, refusal := backfill.NewSpecs([]backfill.Request{r})
		if refusal != nil {
			wantReadable(t, refusal)
		}
		before := situations[int(situation)%len(situations)]
		shown := fmt.Sprintf("%+v with the args %q in situation %q", r, args, before)
		want, theirs := peerAdds(t, begins[0](t), before, &r)
		if refusal != nil {
			if theirs == nil && !stricter(t, begins[0](t), &r) {
				t.Errorf("%s: add_job accepts it, and we say: %v", shown, refusal)
			}
			return
		}
		tx := begins[int(way)%len(begins)](t)
		defer tx.rollback()
		err := arrange(tx, before, &r)
		if err == nil {
			err = tx.insert(specs)
		}
		if err != nil || theirs != nil {
			t.Fatalf("%s: valid, but the database says: %v; and to add_job: %v", shown, err, theirs)
		}
		if diff := cmp.Diff(want, fuzzRows(t, tx, &r)); diff != "" {
			t.Errorf("%s: rows (-add_job +ours):\n%s", shown, diff)
		}
	})
}

// situations are what becomes of a job with the key, which is there before; "" is none.
var situations = []string{
	"", "set attempts = 0", "set payload = '{}'", "set locked_by = 'pool-x', locked_at = now()", "set attempts = max_attempts", "set attempts = 1",
}

var fuzzRequests = []backfill.Request{
	{Task: "t"},
	{Task: strings.Repeat("é", 128), Queue: strings.Repeat("€", 128), Key: strings.Repeat("😀", 512), Args: raw(`[{"a":1}]`)},
	{Task: strings.Repeat("é", 129), Flags: []string{"a", "b", "a"}},
	{Task: "t", Queue: strings.Repeat("q", 129), MaxAttempts: 32767, Priority: -32768},
	{Task: "t", Key: strings.Repeat("k", 513), KeyMode: backfill.PreserveRunAt},
	{Task: "t", Key: "k", KeyMode: backfill.PreserveRunAt, MaxAttempts: 32768, Args: raw(`[1, 1e5]`)},
	{Task: "t", Key: "k", KeyMode: "other", MaxAttempts: -1},
	{Task: "t", Key: "k", KeyMode: backfill.UnsafeDedupe, Args: raw(` [ "\\u0000" ] `)},
	{Task: "t", Args: raw(`["\u0000", "\ud800"]`)},
	{Task: "t", Key: "k", KeyMode: backfill.PreserveRunAt, Args: raw(`["\ud83d\ude00"]`), Queue: "q", Flags: []string{`"`, `\{},'`}},
	{Task: "t", Key: "k", Args: raw(`["\ud800"]`)},
	{Task: "t", Key: "k", Args: raw(`["\ud800x", "\ud800\ud800\udc00"]`)},
	{Task: "t", Key: "k", Args: raw(`[{"\udc00": []}]`)},
	{Task: "t", Key: "k", Args: raw(`["\udc00\ud800", "\ud83d\n\ude00"]`), Queue: "q"},
	{Task: "t", Key: "k", Args: raw(`[1e131071, 0.001e131074, 1e-16383, -0.0, 0e131072, 0E+140000]`)},
	{Task: "t", Key: "k", Args: raw(`[1e131072]`), Queue: "q"},
	{Task: "t", Key: "k", Args: raw(`[1e-16384]`), MaxAttempts: 1},
	{Task: "t", Key: "k", Args: raw(`[0e2000000000]`), Priority: 1},
	{Task: "t", Key: "k", Args: raw(`[1e9223372036854775808]`), Priority: 1},
	{Task: "t", Key: "k", Args: raw(`{"a": ["\ud800", 1e131072, "\u0000"]}`)},
	{Task: "", Delay: time.Hour},
	{Task: "a\x00", Queue: "\xff", Key: "\xed\xa0\x80", Args: raw("{"), Flags: []string{"", "\x00"}},
	{Task: "NULL", Queue: `{"\`, Key: "NULL", Delay: 1<<63 - 1},
	{Task: "t", RunAt: time.Date(-4713, 11, 24, 0, 0, 0, 0, time.UTC), Priority: 32767},
	{Task: "t", RunAt: time.Date(294277, 1, 1, 0, 0, 0, 0, time.UTC)},
	{Task: "t", RunAt: time.Date(294276, 12, 31, 23, 59, 59, 999999000, time.UTC), Key: "k", KeyMode: backfill.PreserveRunAt},
	{Task: "t", Delay: -1, RunAt: time.Unix(0, 0)},
}

// fuzzTx is a transaction, and one way to enqueue in it.
type fuzzTx struct {
	scalar   func(sql string, args ...any) (string, error)
	insert   func(specs []wire.Spec) error
	rollback func()
}

// fuzzWays begin transactions: to write the tables, to call backfill_enqueue, and to write the
// tables through database/sql.
func fuzzWays(f *testing.F, db *pgtest.Database) []func(*testing.T) fuzzTx {
	f.Helper()
	pool := db.Pool()
	conns, err := sql.Open("pgx", db.URL)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { conns.Close() })
	conns.SetMaxOpenConns(1)
	inserter := pg.NewInserter(pool, "graphile_worker", schema.WritesTables)
	return []func(*testing.T) fuzzTx{
		func(t *testing.T) fuzzTx { t.Helper(); return fuzzPgx(t, pool, inserter) },
		func(t *testing.T) fuzzTx {
			t.Helper()
			return fuzzPgx(t, pool, pg.NewInserter(pool, "graphile_worker", schema.CallsFunction))
		},
		func(t *testing.T) fuzzTx {
			t.Helper()
			tx, err := conns.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			return fuzzTx{
				scalar: func(sql string, args ...any) (value string, err error) {
					return value, tx.QueryRowContext(t.Context(), sql, args...).Scan(&value)
				},
				insert:   func(specs []wire.Spec) error { _, err := inserter.InsertSQLTx(t.Context(), tx, specs); return err },
				rollback: func() { _ = tx.Rollback() },
			}
		},
	}
}

func fuzzPgx(t *testing.T, pool *pgxpool.Pool, inserter *pg.Inserter) fuzzTx {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return fuzzTx{
		scalar:   func(sql string, args ...any) (string, error) { return fuzzScalar(t, tx, sql, args...) },
		insert:   func(specs []wire.Spec) error { _, err := inserter.InsertTx(t.Context(), tx, specs); return err },
		rollback: func() { _ = tx.Rollback(context.Background()) },
	}
}

// fuzzScalar returns a value that is text; "" for NULL. Values are sent as they are, and refused by
// the server or not at all.
func fuzzScalar(t *testing.T, tx pgx.Tx, sql string, args ...any) (string, error) {
	t.Helper()
	var value *string
	if err := tx.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil || value == nil {
		return "", err
	}
	return *value, nil
}

// arrange puts the database into a situation.
func arrange(tx fuzzTx, situation string, r *backfill.Request) error {
	if situation == "" || r.Key == "" {
		return nil
	}
	const add = "select id::text from graphile_worker.add_job('before', '[0]', 'before', '2040-01-01Z', 9, $1::text, 3, array['old'])"
	if _, err := tx.scalar(add, r.Key); err != nil {
		return err
	}
	_, err := tx.scalar("with x as (update graphile_worker._private_jobs "+situation+" where key = $1 returning id) select id::text from x", r.Key)
	return err
}

// peerAdds does what a request says by the contract's add_job, and returns the rows or the refusal.
func peerAdds(t *testing.T, tx fuzzTx, situation string, r *backfill.Request) (rows string, refusal error) {
	t.Helper()
	defer tx.rollback()
	err := arrange(tx, situation, r)
	if err == nil {
		day, micros := dayOf(r.RunAt)
		_, err = tx.scalar(`select id::text from graphile_worker.add_job(identifier => $1::text, payload => nullif($2::text, '')::json,
			queue_name => nullif($3::text, ''), run_at => `+runAtSQL+`, max_attempts => nullif($7::bigint, 0)::int,
			job_key => nullif($8::text, ''), priority => $9::int, flags => $10::text[], job_key_mode => nullif($11::text, ''))`,
			r.Task, string(r.Args), r.Queue, !r.RunAt.IsZero(), day, micros, r.MaxAttempts, r.Key, int16(r.Priority), r.Flags,
			string(r.KeyMode), r.Delay.Microseconds())
	}
	if err == nil {
		return fuzzRows(t, tx, r), nil
	}
	wantCode(t, err)
	return "", err
}

// runAtSQL computes run_at without losing a microsecond, which a product of an interval would in
// the far future.
const runAtSQL = `case when $4::boolean then (timestamp 'epoch' + make_interval(days => $5::int) + $6::bigint * interval '1 microsecond') at time zone 'UTC'
	else now() + $12::bigint * interval '1 microsecond' end`

func dayOf(t time.Time) (day, micros int64) {
	const daily = 24 * 60 * 60
	second := (t.Unix()%daily + daily) % daily
	return (t.Unix() - second) / daily, second*1e6 + int64(t.Nanosecond()/1000)
}

// wantCode checks that a refusal is one of the contract's (section 4.3), or what PostgreSQL says of
// the values of a type.
func wantCode(t *testing.T, err error) {
	t.Helper()
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		t.Fatalf("not a refusal: %v", err)
	}
	switch pgErr.Code {
	case "23514", "22003", "GWBKM": // the contract's
	case "22021", "22008", "22P02", "22P05": // encoding, time, JSON, JSON that jsonb cannot hold
	default:
		t.Errorf("refused with %v", pgErr)
	}
}

// stricter reports whether the documentation says that a request is refused which add_job takes.
func stricter(t *testing.T, tx fuzzTx, r *backfill.Request) bool {
	t.Helper()
	defer tx.rollback()
	if r.Task == "" || r.MaxAttempts < 0 || r.Delay < 0 || r.Delay > 0 && !r.RunAt.IsZero() || r.Key == "" && r.KeyMode != "" || slices.Contains(r.Flags, "") {
		return true
	}
	if !json.Valid(r.Args) || r.Key == "" {
		return false
	}
	_, err := tx.scalar("select ($1::text)::jsonb::text", string(r.Args)) // as it must be for an array to be merged
	return err != nil && strings.HasPrefix(strings.TrimSpace(string(r.Args)), "[")
}

// fuzzRows shows all jobs, with the time from now in place of a run_at that depends on it.
func fuzzRows(t *testing.T, tx fuzzTx, r *backfill.Request) string {
	t.Helper()
	rows, err := tx.scalar(`select string_agg(json_build_array(t.identifier, q.queue_name, j.payload::text,
		case when j.run_at = '2040-01-01Z' or $1::boolean then j.run_at::text else (j.run_at - now())::text end, j.attempts, j.max_attempts,
		j.priority, j.flags::text, j.key, j.revision, j.last_error, j.locked_by, j.is_available)::text, E'\n' order by j.id)
		from graphile_worker._private_jobs as j join graphile_worker._private_tasks as t on t.id = j.task_id
		left join graphile_worker._private_job_queues as q on q.id = j.job_queue_id`, !r.RunAt.IsZero())
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// wantReadable checks that an error can be shown and stored, whatever it quotes.
func wantReadable(t *testing.T, err error) {
	t.Helper()
	if text := err.Error(); !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		t.Errorf("an error that cannot be shown: %q", text)
	}
}
