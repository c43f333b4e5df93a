package backfill_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "github.com/lib/pq"              // the driver "postgres"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/testutil/pgtest"
)

// sqlDriver is a driver for database/sql, with what turns on one of its modes.
type sqlDriver struct{ name, parameter string }

// The modes differ in what is sent: parameters apart from the statement, or written into it; of
// types that the server infers, or that the driver does.
var sqlDrivers = map[string]sqlDriver{
	"pgx":                  {"pgx", ""},
	"pgx simple protocol":  {"pgx", "default_query_exec_mode=simple_protocol"},
	"pq":                   {"postgres", ""},
	"pq binary parameters": {"postgres", "binary_parameters=yes"},
}

// pool returns connections to the database of a URL.
func (d sqlDriver) pool(t *testing.T, url string) *sql.DB {
	t.Helper()
	separator := " "
	if strings.Contains(url, "://") {
		separator = "&"
		if !strings.Contains(url, "?") {
			separator = "?"
		}
	}
	if !strings.Contains(url, "sslmode=") { // lib/pq's default is to require it
		url += separator + "sslmode=disable"
		separator = strings.ReplaceAll(separator, "?", "&")
	}
	if d.parameter != "" {
		url += separator + d.parameter
	}
	conns, err := sql.Open(d.name, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conns.Close() })
	return conns
}

// conn returns a connection that is nobody else's.
func (d sqlDriver) conn(t *testing.T, db *pgtest.Database) *sql.Conn {
	t.Helper()
	conn, err := d.pool(t, db.URL).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (d sqlDriver) beginSQL(t *testing.T, db *pgtest.Database, options *sql.TxOptions) *sql.Tx {
	t.Helper()
	tx, err := d.conn(t, db).BeginTx(context.Background(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() }) // of no effect behind a commit
	return tx
}

func (d sqlDriver) begin(t *testing.T, db *pgtest.Database, client *backfill.Client) transaction {
	t.Helper()
	tx := d.beginSQL(t, db, nil)
	return transaction{client.WithSQLTx(tx), tx.Commit, tx.Rollback}
}

// open begins a transaction in a database of its own.
func (d sqlDriver) open(t *testing.T) (*pgtest.Database, *backfill.Client, *sql.Tx) {
	t.Helper()
	db := pgtest.New(t)
	return db, newClient(t, db), d.beginSQL(t, db, nil)
}

func commit(t *testing.T, tx *sql.Tx) {
	t.Helper()
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

// Many jobs of one task, with and without a queue and keys: one statement each, the results in the
// order of the args.
func TestSQLTxMany(t *testing.T) {
	t.Parallel()
	for name, driver := range sqlDrivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, client, tx := driver.open(t)
			args := make([]mailArgs, 1500)
			for i := range args {
				args[i] = mailArgs{UserID: int64(i)}
			}
			keyed := &backfill.Task[mailArgs]{Name: "send_email", Key: func(a mailArgs) string { return strconv.FormatInt(a.UserID, 10) }}
			var jobs []*backfill.Job
			for task, opts := range map[*backfill.Task[mailArgs]][]backfill.EnqueueOption{
				mailTask: nil, {Name: "queued"}: {backfill.Queue("q")}, keyed: {backfill.Queue("q")},
			} {
				some, err := backfill.EnqueueMany(t.Context(), client.WithSQLTx(tx), task, args, opts...)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.IsSortedFunc(some, func(a, b *backfill.Job) int { return int(a.ID - b.ID) }) {
					t.Error("the ids are not in the order of the args")
				}
				jobs = append(jobs, some...)
			}
			commit(t, tx)
			var ids []int64
			var payloads []string
			for _, job := range jobs {
				ids, payloads = append(ids, job.ID), append(payloads, string(job.Args))
			}
			if right := get[int](t, db.Pool(), `select count(*) from unnest($1::bigint[], $2::text[]) as u(id, payload)
				join graphile_worker._private_jobs as j on j.id = u.id and j.payload::text = u.payload`, ids, payloads); right != len(jobs) || right != 4500 {
				t.Errorf("%d of %d jobs have their args", right, len(jobs))
			}
		})
	}
}

// keyedStates are jobs in the way of a key, by what has been done to them.
var keyedStates = map[string]string{
	"waiting": "", "tried": "attempts = 3, last_error = 'e'", "running": "attempts = 1, locked_at = now(), locked_by = 'w'", "failed": "attempts = max_attempts",
	"parked": "run_at = 'infinity'",
}

// enqueueOverKeys enqueues with each key mode over a job in each state, and returns the results.
func enqueueOverKeys(t *testing.T, db *pgtest.Database, client *backfill.Client, e backfill.Enqueuer) map[string]*backfill.Job {
	t.Helper()
	at, later := time.Date(2040, 1, 2, 3, 4, 5, 678901000, time.UTC), time.Date(2050, 1, 1, 0, 0, 0, 1000, time.UTC)
	results := map[string]*backfill.Job{}
	for _, mode := range []backfill.KeyMode{backfill.Replace, backfill.PreserveRunAt, backfill.UnsafeDedupe} {
		for state, change := range keyedStates {
			key := string(mode) + " " + state
			old := backfill.Request{Task: "old", Args: raw(`[{"é": "\"1\""}]`), Key: key, RunAt: at, Queue: "q", Flags: []string{"f"}, Priority: 3}
			jobs, err := client.Enqueue(t.Context(), old)
			if err != nil {
				t.Fatal(err)
			}
			if change != "" {
				exec(t, db.Pool(), "update graphile_worker._private_jobs set "+change+" where id = $1", jobs[0].ID)
			}
			jobs, err = e.Enqueue(t.Context(), backfill.Request{Task: "new", Args: raw(`[2]`), Key: key, KeyMode: mode, RunAt: later, MaxAttempts: 9})
			if err != nil {
				t.Fatal(err)
			}
			results[key] = jobs[0]
		}
	}
	return results
}

// The key modes do over every driver what they do without a transaction.
func TestSQLTxKeyModes(t *testing.T) {
	t.Parallel()
	const rows = `select string_agg(concat_ws('|', t.identifier, j.job_queue_id is null, j.payload, j.run_at, j.attempts, j.max_attempts,
		j.last_error, j.key, j.locked_by, j.revision, j.flags, j.priority), e'\n' order by j.id)
		from graphile_worker._private_jobs as j join graphile_worker._private_tasks as t on t.id = j.task_id`
	plain := pgtest.New(t)
	client := newClient(t, plain)
	want := enqueueOverKeys(t, plain, client, client)
	lines := func(db *pgtest.Database) string {
		sorted := strings.Split(get[string](t, db.Pool(), rows), "\n") // states come in any order
		slices.Sort(sorted)
		return strings.Join(sorted, "\n")
	}
	wantRows := lines(plain)
	if strings.Count(wantRows, "\n") != 18 { // two modes insert a second job for two of five states
		t.Fatalf("without a transaction the rows are\n%s", wantRows)
	}
	for name, driver := range sqlDrivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, client, tx := driver.open(t)
			got := enqueueOverKeys(t, db, client, client.WithSQLTx(tx))
			commit(t, tx)
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(backfill.Job{}, "ID", "CreatedAt")); diff != "" {
				t.Errorf("results (-without transaction +with):\n%s", diff)
			}
			if diff := cmp.Diff(wantRows, lines(db)); diff != "" {
				t.Errorf("rows (-without transaction +with):\n%s", diff)
			}
		})
	}
}

// Times, to the microsecond and to PostgreSQL's ends, and payloads arrive as they were, whatever
// the session says.
func TestSQLTxValues(t *testing.T) {
	t.Parallel()
	times := []time.Time{
		time.Date(2040, 1, 2, 3, 4, 5, 678901000, time.FixedZone("", 5*3600+1800)),
		time.Date(1999, 12, 31, 23, 59, 59, 999999000, time.UTC),
		time.Date(-4713, 11, 24, 0, 0, 0, 0, time.UTC),
		time.Date(294276, 12, 31, 23, 59, 59, 999999000, time.UTC),
	}
	payloads := []string{
		`{"a":  1, "a": "\u0000 \\u0000 \\ ' \" {,} 日本 🐘 $1 ? "}`,
		`"` + strings.Repeat("é", 1<<20) + `"`,
	}
	for name, driver := range sqlDrivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, client, tx := driver.open(t)
			if _, err := tx.ExecContext(t.Context(), "set local timezone = 'Asia/Kathmandu'"); err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"", "k"} {
				for i, at := range times {
					request := backfill.Request{Task: "t", Args: raw(payloads[i%2]), RunAt: at}
					if key != "" {
						request.Key = key + strconv.Itoa(i)
					}
					jobs, err := client.WithSQLTx(tx).Enqueue(t.Context(), request)
					if err != nil {
						t.Fatal(err)
					}
					if !jobs[0].RunAt.Equal(at) || string(jobs[0].Args) != payloads[i%2] {
						t.Errorf("run_at %v, want %v; %d bytes of args, want %d", jobs[0].RunAt, at, len(jobs[0].Args), len(payloads[i%2]))
					}
				}
			}
			commit(t, tx)
			for i, at := range times {
				if n := get[int](t, db.Pool(), "select count(*) from graphile_worker._private_jobs where run_at = $1 and payload::text = $2", at, payloads[i%2]); n != 2 {
					t.Errorf("%d rows have run_at %v and their payload, want 2", n, at)
				}
			}
		})
	}
}

// sqlState is what errors of every driver have.
func sqlState(err error) string {
	if state, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err); ok {
		return state.SQLState()
	}
	return ""
}

// What is refused says why. Before anything is sent, the transaction goes on; what the server
// refuses ends it, or what came since a savepoint.
func TestSQLTxRefusals(t *testing.T) {
	t.Parallel()
	for name, driver := range sqlDrivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, client, tx := driver.open(t)
			if _, err := db.Pool().Exec(t.Context(), "alter table graphile_worker._private_jobs add constraint odd check (priority <> 13)"); err != nil {
				t.Fatal(err)
			}
			exec(t, db.Pool(), `insert into graphile_worker._private_jobs (task_id, payload, key) values (0, '["\u0000"]', 'node''s')`)
			e := client.WithSQLTx(tx)
			statement := func(sql string) {
				t.Helper()
				if _, err := tx.ExecContext(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			try := func(requests ...backfill.Request) error { _, err := e.Enqueue(t.Context(), requests...); return err }
			nul := raw(`["\u0000"]`)
			wantError(t, try(backfill.Request{Task: "t", Key: strings.Repeat("é", 513)}), `in transaction: enqueue: request 0 (task "t"): key has 513 characters`)
			wantError(t, try(backfill.Request{Task: "t", Key: "k", Args: nul}), `args contain \u0000, which PostgreSQL cannot merge`)
			statement("savepoint s")
			for _, refusal := range []struct {
				state, text string
				last        backfill.Request
			}{
				{"23514", `violates check constraint "odd"`, backfill.Request{Task: "t", Priority: 13}},
				{"23514", `violates check constraint "odd"`, backfill.Request{Task: "t", Priority: 13, Key: "k", Queue: "new"}},
				{"22P05", "unsupported Unicode escape sequence", backfill.Request{Task: "t", Key: "node's", Args: raw(`[1]`)}},
			} {
				err := try(backfill.Request{Task: "t"}, refusal.last)
				wantError(t, err, "in transaction: enqueue: ")
				wantError(t, err, refusal.text)
				if sqlState(err) != refusal.state {
					t.Errorf("%v: SQLSTATE %q, want %s", err, sqlState(err), refusal.state)
				}
				wantError(t, try(backfill.Request{Task: "t"}), "current transaction is aborted")
				statement("rollback to s")
			}
			if err := try(backfill.Request{Task: "t", Key: "k"}); err != nil {
				t.Fatal(err)
			}
			commit(t, tx)
			wantJobs(t, db, 1) // the other has a task without a name
		})
	}
}

// A SERIALIZABLE transaction that conflicts fails with the state that callers repeat transactions
// for, and does nothing; one that does not conflict commits.
func TestSQLTxSerializable(t *testing.T) {
	t.Parallel()
	for name, driver := range sqlDrivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client := newClient(t, db)
			try := func(first func(), request backfill.Request) error {
				tx := driver.beginSQL(t, db, &sql.TxOptions{Isolation: sql.LevelSerializable})
				defer tx.Rollback()
				if _, err := tx.ExecContext(t.Context(), "select"); err != nil { // takes the snapshot
					t.Fatal(err)
				}
				first()
				if _, err := client.WithSQLTx(tx).Enqueue(t.Context(), request); err != nil {
					return err
				}
				return tx.Commit()
			}
			for _, keyed := range []backfill.Request{
				{Task: "a", Key: "a"},
				{Task: "a", Key: "b", KeyMode: backfill.UnsafeDedupe},
				{Task: "new task", Key: "c", Queue: "new queue"},
				{Task: "newer task"},
			} {
				err := try(func() {
					if _, err := client.Enqueue(t.Context(), keyed); err != nil {
						t.Fatal(err)
					}
				}, keyed)
				wantError(t, err, "could not serialize access")
				if sqlState(err) != "40001" {
					t.Errorf("%v: SQLSTATE %q, want 40001", err, sqlState(err))
				}
				if err := try(func() {}, keyed); err != nil {
					t.Errorf("again: %v", err)
				}
			}
			wantJobs(t, db, 5)
		})
	}
}

// What the server refuses for lack of rights is explained over every driver.
func TestSQLTxWithoutRights(t *testing.T) {
	t.Parallel()
	for name, driver := range sqlDrivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, client, tx := driver.open(t)
			needs.That(t, get[bool](t, db.Pool(), "select rolsuper or rolcreaterole from pg_roles where rolname = current_user"),
				"role that may create roles: ALTER ROLE … CREATEROLE")
			role := `"backfill_test_` + db.URL[len(db.URL)-8:] + `"` // lives as long as the transaction
			for _, sql := range []string{"create role " + role, "set local role " + role} {
				if _, err := tx.ExecContext(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			_, err := client.WithSQLTx(tx).Enqueue(t.Context(), backfill.Request{Task: "t"})
			wantError(t, err, "permission denied")
			wantError(t, err, "backfill migrate --enqueue-role ")
		})
	}
}
