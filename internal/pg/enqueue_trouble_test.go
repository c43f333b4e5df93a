package pg_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// troubleKinds are calls that are sent in different ways.
func troubleKinds(id string) map[string][]wire.Spec {
	spec := func(queue, key string) wire.Spec {
		return wire.Spec{Task: "a", Queue: queue, Key: key, Payload: []byte("{}"), MaxAttempts: 25}
	}
	return map[string][]wire.Spec{
		"plain": {spec("", "")}, "several": {spec("", ""), spec("", "")}, "queued": {spec("q"+id, ""), spec("", "")},
		"keyed": {spec("", "k"+id)}, "large": {spec("", ""), spec("", ""), spec("", "l"+id), spec("", "")},
	}
}

// poolWith returns a pool on a database whose settings are changed.
func poolWith(t *testing.T, url string, change func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	change(config)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.ClosePool(pool) }) // which waits for a lost connection no longer than a second
	return pool
}

// insertPiggyback inserts as a client does that has its notification sent along.
func insertPiggyback(ctx context.Context, inserter *pg.Inserter, specs []wire.Spec) error {
	done := make(chan struct{}, 100)
	sent := 0
	_, _, err := inserter.InsertAll(ctx, specs, func() func() {
		sent++
		return func() { done <- struct{}{} }
	})
	for range sent {
		<-done
	}
	return err
}

// A trigger that drops rows is an error at once, and not a conflict to be waited out; the rest of
// the call is not inserted.
func TestTriggerThatDropsRows(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"true", "new.priority = 7"} {
		for way, insert := range inserts {
			db := pgtest.New(t)
			dbtest.Run(t, db.Pool(), `create function public.drop_it() returns trigger language plpgsql as
				$$ begin if `+which+` then return null; end if; return new; end $$`)
			dbtest.Run(t, db.Pool(), "create trigger drop_it before insert on graphile_worker._private_jobs for each row execute function public.drop_it()")
			spec := wire.Spec{Task: "a", Payload: []byte("{}"), MaxAttempts: 25}
			dropped, keyed, dedupe, queued := spec, spec, spec, spec
			dropped.Priority, keyed.Priority, dedupe.Priority, queued.Priority = 7, 7, 7, 7
			keyed.Key, dedupe.Key, dedupe.KeyMode, queued.Queue = "k", "d", wire.KeyUnsafeDedupe, "q"
			for _, specs := range [][]wire.Spec{{dropped}, {spec, dropped}, {spec, queued}, {spec, keyed}, {spec, dedupe}, {keyed}} {
				_, err := insert(t.Context(), db, specs)
				dbtest.Mentions(t, err, "a trigger on", "_private_jobs", "dropped")
				if _, rejected := errors.AsType[*wire.RejectedError](err); !rejected && !strings.HasSuffix(way, "tx") && !strings.HasSuffix(way, "sql") {
					t.Errorf("%s: not rejected: %v", way, err)
				}
				if strings.Contains(fmt.Sprint(err), "tries") {
					t.Errorf("%s: it was tried again: %v", way, err)
				}
			}
			if rows := storedRows(t, db.Pool()); len(rows) != 0 {
				t.Errorf("%s: rows %v", way, rows)
			}
		}
	}
}

// Connections that are alive and read-only, as after a switch-over, are replaced: nothing was
// inserted on them, so the call goes through on a new one.
func TestReadOnlyConnectionsAreReplaced(t *testing.T) {
	t.Parallel()
	for kind := range troubleKinds("") {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			admin := dbtest.Connect(t, db.URL)
			name := pgx.Identifier{dbtest.Get[string](t, admin, "select current_database()")}.Sanitize()
			pool := poolWith(t, db.URL, func(config *pgxpool.Config) { config.MaxConns = 3 })
			inserter := pg.NewInserter(pool, schemaName, schema.WritesTables).WithPieces(2)
			if err := insertPiggyback(t.Context(), inserter, troubleKinds("0")[kind]); err != nil {
				t.Fatal(err)
			}
			pool.Reset()
			dbtest.Run(t, admin, "alter database "+name+" set default_transaction_read_only = on")
			var held []*pgxpool.Conn
			for range 3 {
				conn, err := pool.Acquire(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				held = append(held, conn)
			}
			for _, conn := range held {
				conn.Release()
			}
			dbtest.Run(t, admin, "alter database "+name+" reset default_transaction_read_only")
			for i := range 4 {
				if err := insertPiggyback(t.Context(), inserter, troubleKinds(fmt.Sprint(i))[kind]); err != nil {
					t.Errorf("call %d: %v", i, err)
				}
			}
			dbtest.Run(t, admin, "alter database "+name+" set default_transaction_read_only = on")
			pool.Reset()
			err := insertPiggyback(t.Context(), inserter, troubleKinds("x")[kind])
			if _, rejected := errors.AsType[*wire.RejectedError](err); !rejected {
				t.Errorf("not rejected: %v", err)
			}
			dbtest.Mentions(t, err, "25006", "target_session_attrs=read-write")
		})
	}
}

// The same while many calls at once replace them: that one of them has made a new connection does
// not say that another one's is new.
func TestReadOnlyConnectionsOfManyCalls(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	admin := dbtest.Connect(t, db.URL)
	name := pgx.Identifier{dbtest.Get[string](t, admin, "select current_database()")}.Sanitize()
	pool := poolWith(t, db.URL, func(config *pgxpool.Config) { config.MaxConns = 20 })
	inserter := pg.NewInserter(pool, schemaName, schema.WritesTables)
	for range 10 {
		pool.Reset()
		dbtest.Run(t, admin, "alter database "+name+" set default_transaction_read_only = on")
		var held []*pgxpool.Conn
		for range 20 {
			conn, err := pool.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, conn)
		}
		for _, conn := range held {
			conn.Release()
		}
		dbtest.Run(t, admin, "alter database "+name+" reset default_transaction_read_only")
		var calls sync.WaitGroup
		for i := range 8 {
			calls.Go(func() {
				for range 3 {
					if _, _, err := inserter.InsertAll(t.Context(), troubleKinds(fmt.Sprint(i))["plain"], nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		calls.Wait()
	}
}

// A pool that resets its connections loses prepared statements: inserts go on.
func TestStatementsThatAreGone(t *testing.T) {
	t.Parallel()
	for _, reset := range []string{"discard all", "deallocate all"} {
		for kind := range troubleKinds("") {
			db := pgtest.New(t)
			pool := poolWith(t, db.URL, func(config *pgxpool.Config) {
				config.MaxConns = 2
				config.AfterRelease = func(conn *pgx.Conn) bool {
					_, err := conn.Exec(context.Background(), reset)
					return err == nil
				}
			})
			inserter := pg.NewInserter(pool, schemaName, schema.WritesTables).WithPieces(2)
			for i := range 6 {
				if err := insertPiggyback(t.Context(), inserter, troubleKinds(fmt.Sprint(i))[kind]); err != nil {
					t.Errorf("%s, %s, call %d: %v", reset, kind, i, err)
				}
			}
		}
	}
}

// A sequence that is behind its table is named, with the statement that puts it right.
func TestSequenceBehindItsTable(t *testing.T) {
	t.Parallel()
	for way, insert := range inserts {
		db := pgtest.New(t)
		spec := func(n string) []wire.Spec {
			return []wire.Spec{{Task: "task" + n, Queue: "queue" + n, Payload: []byte("{}"), MaxAttempts: 25}}
		}
		if _, err := insert(t.Context(), db, spec("0")); err != nil {
			t.Fatal(err)
		}
		for i, table := range []string{"_private_tasks", "_private_job_queues", "_private_jobs"} {
			dbtest.Run(t, db.Pool(), "select setval(pg_get_serial_sequence('graphile_worker."+table+"', 'id'), 1, false)")
			_, err := insert(t.Context(), db, spec(fmt.Sprint(i+1)))
			dbtest.Mentions(t, err, "23505", table+".id", "setval")
			_, remedy, _ := strings.Cut(fmt.Sprint(err), "run: ")
			dbtest.Run(t, db.Pool(), remedy)
			if _, err := insert(t.Context(), db, spec(fmt.Sprint(i+1))); err != nil {
				t.Errorf("%s: after %q: %v", way, remedy, err)
			}
		}
	}
}

// A pool whose connections are all in use is named as the reason, and nothing was sent.
func TestPoolInUse(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, pgtest.WithPoolSize(1))
	inserter := pg.NewInserter(db.Pool(), schemaName, schema.WritesTables)
	conn, err := inserter.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	why := errors.New("why")
	for kind, specs := range troubleKinds("") {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, why)
		_, _, err := inserter.InsertAll(ctx, specs, nil)
		cancel()
		if _, unsent := errors.AsType[*wire.NotEnqueuedError](err); !unsent || !errors.Is(err, why) || !errors.Is(err, ctx.Err()) {
			t.Errorf("%s: %v", kind, err)
		}
		dbtest.Mentions(t, err, "the jobs were not enqueued", "all 1 connections of the pool have been in use", "WithTx")
	}
}

// A server that does not answer ends a call that has no deadline, and frees its place in the pool.
func TestServerThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	var waiting sync.WaitGroup
	for kind := range troubleKinds("") { //nolint:paralleltest // all wait at once
		waiting.Go(func() {
			t.Run(kind, func(t *testing.T) {
				db := pgtest.New(t)
				proxy := dbtest.NewProxy(t, db.URL)
				pool := poolWith(t, proxy.URL, func(config *pgxpool.Config) { config.MaxConns = 1 })
				inserter := pg.NewInserter(pool, schemaName, schema.WritesTables).WithPieces(2)
				if err := insertPiggyback(t.Context(), inserter, troubleKinds("0")[kind]); err != nil {
					t.Fatal(err)
				}
				proxy.Arm(1, dbtest.Freeze)
				err := insertPiggyback(context.Background(), inserter, troubleKinds("1")[kind])
				dbtest.Mentions(t, err, "not ", "enqueued: ", "the database did not answer within 10s")
				wantOurLimit(t, err)
				if err := insertPiggyback(context.Background(), inserter, troubleKinds("2")[kind]); err != nil {
					t.Errorf("the next call: %v", err)
				}
			})
		})
	}
	waiting.Wait()
}

// If the server does not even answer the preparation of statements, nothing was sent: the error
// says so, and nothing else.
func TestServerThatPreparesNothing(t *testing.T) {
	t.Parallel()
	for kind := range troubleKinds("") {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			proxy := dbtest.NewProxy(t, pgtest.New(t).URL)
			pool := poolWith(t, proxy.URL, func(config *pgxpool.Config) { config.MaxConns = 1 })
			inserter := pg.NewInserter(pool, schemaName, schema.WritesTables).WithPieces(2)
			if err := pool.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, end := context.WithCancelCause(context.Background())
			proxy.Arm(1, dbtest.Freeze)
			done := make(chan error, 1)
			go func() { done <- insertPiggyback(ctx, inserter, troubleKinds("1")[kind]) }()
			dbtest.Until(t, func() bool { return proxy.Met() != 0 })
			end(pg.ErrNoAnswer)
			err := <-done
			if _, unsent := errors.AsType[*wire.NotEnqueuedError](err); !unsent || strings.Contains(err.Error(), "may or may not") {
				t.Error(err)
			}
			wantOurLimit(t, err)
		})
	}
}

// A server that does not answer a transaction of InTx: the error tells which jobs there can be.
func TestTransactionThatGetsNoAnswer(t *testing.T) {
	t.Parallel()
	var waiting sync.WaitGroup
	for step, want := range map[string]string{"begin": "not enqueued", "commit": "may or may not"} { //nolint:paralleltest // all wait at once
		waiting.Go(func() {
			t.Run(step, func(t *testing.T) {
				proxy := dbtest.NewProxy(t, pgtest.New(t).URL)
				inserter := pg.NewInserter(poolWith(t, proxy.URL, func(*pgxpool.Config) {}), schemaName, schema.WritesTables)
				conn, err := inserter.Acquire(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer inserter.Release(context.Background(), conn, nil)
				if step == "begin" {
					proxy.Arm(1, dbtest.Freeze)
				}
				tx, err := inserter.Begin(context.Background(), conn)
				if err == nil {
					proxy.Arm(1, dbtest.Freeze)
					err = inserter.Commit(context.Background(), tx)
				}
				dbtest.Mentions(t, err, want, "the database did not answer within 10s")
				wantOurLimit(t, err)
			})
		})
	}
	waiting.Wait()
}

// wantOurLimit wants the error of a deadline. The caller did not cancel anything.
func wantOurLimit(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		t.Errorf("%v: deadline exceeded: %v, canceled: %v", err, errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled))
	}
}

// A bulk call whose process is cut off or stopped does not keep the names that it has added: others
// could not enqueue until the server finds out.
func TestBulkCallCutOff(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	proxy := dbtest.NewProxy(t, db.URL)
	inserter := pg.NewInserter(poolWith(t, proxy.URL, func(*pgxpool.Config) {}), schemaName, schema.WritesTables).WithPieces(2)
	if err := insertPiggyback(t.Context(), inserter, troubleKinds("0")["large"]); err != nil { // prepares the statements
		t.Fatal(err)
	}
	proxy.ArmAfter("new_task", dbtest.Freeze)
	defer proxy.Disarm()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // or our own limit would end the connection
	defer cancel()
	done := make(chan error, 1)
	specs := troubleKinds("1")["large"]
	specs[0].Task = "new_task"
	go func() { done <- insertPiggyback(ctx, inserter, specs) }()
	dbtest.Until(t, func() bool { return proxy.Met() != 0 })
	client := dbtest.Connect(t, db.URL)
	dbtest.Run(t, client, "set lock_timeout = '20s'")
	dbtest.Run(t, client, "select graphile_worker.add_job('new_task')")
	cancel()
	if err := <-done; err == nil {
		t.Error("it does not know that it was cut off")
	}
}

// The role that a transaction has at the moment decides how it enqueues, and is named in a refusal.
func TestTransactionWithAnotherRole(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"pgx", "sql"} {
		db := pgtest.New(t)
		admin := dbtest.Connect(t, db.URL)
		role := dbtest.NewRole(t, admin)
		plain := dbtest.Get[string](t, admin, "select rolname from pg_roles where quote_ident(rolname) = $1", role)
		inserter := pg.NewInserter(db.Pool(), schemaName, schema.WritesTables)
		insert := roleInserts[way](t, db, inserter)
		specs := []wire.Spec{{Task: "a", Payload: []byte("{}"), MaxAttempts: 25}, {Task: "a", Key: "k", Payload: []byte("{}"), MaxAttempts: 25}}
		if err := insert(specs, "", "set local role "+role); err == nil {
			t.Errorf("%s: a role without rights enqueues", way)
		} else {
			dbtest.Mentions(t, err, "42501", plain, schema.GrantCommand(schemaName, plain, schema.EnqueueRole))
		}
		if _, err := schema.GrantRole(t.Context(), admin, plain, schema.EnqueueRole, schema.Options{Schema: schemaName}); err != nil {
			t.Fatal(err)
		}
		// The role changes within a transaction, too.
		if err := insert(specs, "reset role", "set local role "+role, "reset role", "set local role "+role); err != nil {
			t.Errorf("%s: %v", way, err)
		}
		if rows := storedRows(t, db.Pool()); len(rows) != 5 {
			t.Errorf("%s: %d rows, want 4 keyless ones and a keyed one", way, len(rows))
		}
	}
}

// roleInserts run statements in a transaction and insert after each, except after an empty one.
var roleInserts = map[string]func(*testing.T, *pgtest.Database, *pg.Inserter) func(specs []wire.Spec, statements ...string) error{
	"pgx": func(t *testing.T, db *pgtest.Database, inserter *pg.Inserter) func([]wire.Spec, ...string) error {
		t.Helper()
		return func(specs []wire.Spec, statements ...string) error {
			return pgx.BeginFunc(t.Context(), db.Pool(), func(tx pgx.Tx) error {
				return eachRole(statements, func(text string) error {
					_, err := tx.Exec(t.Context(), text)
					return err
				}, func() error {
					_, err := inserter.InsertTx(t.Context(), tx, specs)
					return err
				})
			})
		}
	},
	"sql": func(t *testing.T, db *pgtest.Database, inserter *pg.Inserter) func([]wire.Spec, ...string) error {
		t.Helper()
		conn, err := sql.Open("pgx", db.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return func(specs []wire.Spec, statements ...string) error {
			tx, err := conn.BeginTx(t.Context(), nil)
			if err != nil {
				return err
			}
			err = eachRole(statements, func(text string) error {
				_, err := tx.ExecContext(t.Context(), text)
				return err
			}, func() error {
				_, err := inserter.InsertSQLTx(t.Context(), tx, specs)
				return err
			})
			if err != nil {
				return errors.Join(err, tx.Rollback())
			}
			return tx.Commit()
		}
	},
}

func eachRole(statements []string, exec func(string) error, insert func() error) error {
	for _, sql := range statements {
		if sql == "" {
			continue
		}
		if err := exec(sql); err != nil {
			return err
		}
		if err := insert(); err != nil {
			return err
		}
	}
	return nil
}

// An error of the transaction itself is the reason that the caller gets, and what to do about it is
// about the transaction.
func TestTransactionThatCannotEnqueue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	inserter := pg.NewInserter(db.Pool(), schemaName, schema.WritesTables)
	conn, err := sql.Open("pgx", db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	specs := []wire.Spec{{Task: "a", Payload: []byte("{}"), MaxAttempts: 25}}
	for statement, want := range map[string][]string{
		"set transaction read only": {"25006", "the transaction is read-only"},
		"select 1 / 0":              {"25P02"},
	} {
		tx, err := db.Pool().Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = tx.Exec(t.Context(), statement) // one of them fails
		_, err = inserter.InsertTx(t.Context(), tx, specs)
		dbtest.Mentions(t, err, want...)
		_ = tx.Rollback(t.Context())

		sqlTx, err := conn.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = sqlTx.ExecContext(t.Context(), statement)
		_, err = inserter.InsertSQLTx(t.Context(), sqlTx, specs)
		dbtest.Mentions(t, err, want...)
		_ = sqlTx.Rollback()
	}
}

// A call whose connection ends while its statements are prepared has enqueued nothing, and says so.
func TestPrepareThatFails(t *testing.T) {
	t.Parallel()
	var waiting sync.WaitGroup
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec} { //nolint:paralleltest // all wait at once
		for kind := range troubleKinds("") {
			for _, fault := range []dbtest.Fault{dbtest.Cut, dbtest.Freeze} {
				waiting.Go(func() {
					t.Run(fmt.Sprintf("%v %s %v", mode, kind, fault), func(t *testing.T) {
						db := pgtest.New(t)
						proxy := dbtest.NewProxy(t, db.URL)
						prepared, patience := false, 250*time.Millisecond
						for position := 1; position < 200; position++ {
							pool := poolWith(t, proxy.URL, func(config *pgxpool.Config) { config.ConnConfig.DefaultQueryExecMode = mode })
							if err := pool.Ping(t.Context()); err != nil {
								t.Fatal(err)
							}
							ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
							if fault == dbtest.Freeze {
								ctx, cancel = context.WithTimeout(t.Context(), patience)
							}
							proxy.Arm(position, fault)
							err := insertPiggyback(ctx, pg.NewInserter(pool, schemaName, schema.WritesTables).WithPieces(2), troubleKinds(fmt.Sprint(position))[kind])
							cancel()
							met := proxy.Disarm()
							pool.Close()
							// Parameters, or what is in front of them: a statement without a name, or the begin of a
							// large call.
							if met == 'B' || met == 'Q' || met == 'P' && prepared || met == 0 && err == nil {
								break
							}
							prepared = prepared || met == 'Z'
							if met == 0 { // the time was over before the fault
								position--
								patience *= 2
								continue
							}
							if _, unsent := errors.AsType[*wire.NotEnqueuedError](err); !unsent {
								t.Errorf("message %d (%c): %v", position, met, err)
							}
						}
						if !prepared && kind != "large" && fault == dbtest.Cut {
							t.Error("nothing was prepared")
						}
					})
				})
			}
		}
	}
	waiting.Wait()
}
