package pg_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/enqueue"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// promiseRig inserts on each way while things fail, and compares what callers were told with the
// rows.
type promiseRig struct {
	t     *testing.T
	admin *pgx.Conn // not through the proxy
	proxy *dbtest.Proxy
	pool  *pgxpool.Pool
	db    *sql.DB
	run   int
	told  map[string]int // how often callers were told what
}

// told is one caller's answer.
type told struct {
	want int // rows, if there was no error
	id   string
	err  error
}

func newPromiseRig(t *testing.T, isolation string) *promiseRig {
	t.Helper()
	database := pgtest.New(t)
	r := &promiseRig{t: t, admin: dbtest.Connect(t, database.URL), proxy: dbtest.NewProxy(t, database.URL), told: map[string]int{}}
	dbtest.Run(t, r.admin, "insert into graphile_worker._private_tasks (identifier) values ('known')")
	dbtest.Run(t, r.admin, "insert into graphile_worker._private_known_crontabs (identifier, known_since) values ('tick', now())")
	config, err := pgxpool.ParseConfig(r.proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 4
	config.ConnConfig.RuntimeParams["default_transaction_isolation"] = isolation
	if r.pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.pool.Close)
	r.db = stdlib.OpenDB(*config.ConnConfig)
	t.Cleanup(func() { _ = r.db.Close() })
	return r
}

// spec is one job of a caller.
func (r *promiseRig) spec(id, task, queue, key string) wire.Spec {
	return wire.Spec{Task: task, Queue: queue, Key: key, Payload: fmt.Appendf(nil, `{"caller":%q}`, id), MaxAttempts: 25}
}

// kinds are the calls that are sent differently. Each run has names and keys of its own beside
// those that are there.
func (r *promiseRig) kinds(id string) map[string][]wire.Spec {
	dedupe := r.spec(id, "known", "", "dedupe"+id)
	dedupe.KeyMode = wire.KeyUnsafeDedupe
	return map[string][]wire.Spec{
		"plain":    {r.spec(id, "known", "", "")},
		"new task": {r.spec(id, "task"+id, "", "")},
		"queued":   {r.spec(id, "known", "queue"+id, ""), r.spec(id, "known", "", "")},
		"keyed":    {r.spec(id, "known", "", "b"+id), r.spec(id, "known", "", "shared"), r.spec(id, "task"+id, "queue"+id, "a"+id)},
		"mixed":    {r.spec(id, "known", "", ""), r.spec(id, "known", "", "k"+id), dedupe, r.spec(id, "known", "", "")},
		"large": {
			r.spec(id, "known", "", ""), r.spec(id, "known", "", ""), r.spec(id, "known", "queue"+id, ""), r.spec(id, "known", "", "y"+id),
			r.spec(id, "known", "", "x"+id), r.spec(id, "known", "queue"+id, "z"+id),
		},
	}
}

// ways are the ways to insert one call.
func (r *promiseRig) ways() map[string]func(context.Context, []wire.Spec) error {
	inserter := pg.NewInserter(r.pool, schemaName, schema.WritesTables).WithPieces(2)
	function := pg.NewInserter(r.pool, schemaName, schema.CallsFunction).WithPieces(2)
	own := func(inserter *pg.Inserter, notify enqueue.Piggyback) func(context.Context, []wire.Spec) error {
		return func(ctx context.Context, specs []wire.Spec) error {
			jobs, _, err := inserter.InsertAll(ctx, specs, notify)
			if err == nil {
				r.checkJobs(jobs, specs)
			}
			return err
		}
	}
	var notifying sync.WaitGroup
	r.t.Cleanup(notifying.Wait)
	return map[string]func(context.Context, []wire.Spec) error{
		"pool": own(inserter, nil),
		"notify": own(inserter, func() func() {
			notifying.Add(1)
			return notifying.Done
		}),
		"function": own(function, nil),
		"tx": func(ctx context.Context, specs []wire.Spec) error {
			return r.inTx(ctx, func(tx pgx.Tx) ([]*wire.Job, error) { return inserter.InsertTx(ctx, tx, specs) })
		},
		"function, tx": func(ctx context.Context, specs []wire.Spec) error {
			return r.inTx(ctx, func(tx pgx.Tx) ([]*wire.Job, error) { return function.InsertTx(ctx, tx, specs) })
		},
		"sql": func(ctx context.Context, specs []wire.Spec) error { return r.inSQLTx(ctx, inserter, specs) },
	}
}

func (r *promiseRig) checkJobs(jobs []*wire.Job, specs []wire.Spec) {
	if len(jobs) != len(specs) {
		r.t.Errorf("%d jobs for %d specs", len(jobs), len(specs))
	}
	for _, job := range jobs {
		if job == nil || job.ID == 0 {
			r.t.Errorf("a job without an id: %+v", job)
		}
	}
}

// inTx is the application's side: a call that failed is rolled back; a commit may fail in any way.
func (r *promiseRig) inTx(ctx context.Context, insert func(pgx.Tx) ([]*wire.Job, error)) error {
	tx, err := r.pool.Begin(ctx)
	if err != nil {
		return &wire.NotEnqueuedError{Err: err}
	}
	if _, err := insert(tx); err != nil {
		_ = tx.Rollback(context.Background())
		return &wire.NotEnqueuedError{Err: err}
	}
	return pg.CommitOutcome(tx.Commit(ctx))
}

func (r *promiseRig) inSQLTx(ctx context.Context, inserter *pg.Inserter, specs []wire.Spec) error {
	tx, err := r.db.BeginTx(ctx, nil)
	if err != nil {
		return &wire.NotEnqueuedError{Err: err}
	}
	if _, err := inserter.InsertSQLTx(ctx, tx, specs); err != nil {
		_ = tx.Rollback()
		return &wire.NotEnqueuedError{Err: err}
	}
	return pg.CommitOutcome(tx.Commit())
}

// callers are a number of calls at once, which fold into batches.
func (r *promiseRig) callers(ctx context.Context, keyed bool) []told {
	intake := enqueue.NewIntake(pg.NewInserter(r.pool, schemaName, schema.WritesTables), 2,
		enqueue.NewNudger(func(context.Context, int) error { return nil }, func(error) {}))
	answers := make([]told, 4)
	var wait sync.WaitGroup
	for i := range answers {
		r.run++
		answers[i].id = fmt.Sprint(r.run)
		key := ""
		if keyed {
			key = "k" + answers[i].id
		}
		answers[i].want = 2
		specs := []wire.Spec{r.spec(answers[i].id, "known", "", key), r.spec(answers[i].id, "known", "q", "")}
		wait.Go(func() { _, answers[i].err = intake.Insert(ctx, specs) })
	}
	wait.Wait()
	intake.Close()
	return answers
}

// check compares answers with the rows, once no session is at work.
func (r *promiseRig) check(what string, answers ...told) {
	r.t.Helper()
	dbtest.Until(r.t, func() bool {
		return dbtest.Get[bool](r.t, r.admin, `select not exists (select from pg_stat_activity where datname = current_database()
			and backend_type = 'client backend' and pid <> pg_backend_pid() and state <> 'idle')`)
	})
	for _, answer := range answers {
		rows := dbtest.Get[int](r.t, r.admin, "select count(*)::int from graphile_worker._private_jobs where payload->>'caller' = $1", answer.id)
		_, rejected := errors.AsType[*wire.RejectedError](answer.err)
		_, blocked := errors.AsType[*wire.BlockedError](answer.err)
		_, unsent := errors.AsType[*wire.NotEnqueuedError](answer.err)
		switch {
		case answer.err == nil:
			r.told["nil"]++
			if rows != answer.want {
				r.t.Errorf("%s: no error, and %d rows of %d", what, rows, answer.want)
			}
		case rejected, blocked, unsent:
			r.told["none"]++
			if rows != 0 {
				r.t.Errorf("%s: %v; and %d rows of %d", what, answer.err, rows, answer.want)
			}
		default:
			r.told["unknown"]++
			if !strings.Contains(answer.err.Error(), "may or may not have been enqueued") {
				r.t.Errorf("%s: the error does not say that the outcome is unknown: %v", what, answer.err)
			}
			if rows != 0 && rows != answer.want {
				r.t.Errorf("%s: %v; and %d rows of %d", what, answer.err, rows, answer.want)
			}
		}
	}
}

// everyPosition lets each message of what callers do meet each fault.
func (r *promiseRig) everyPosition(what string, faults []dbtest.Fault, do func(context.Context) []told) {
	r.t.Helper()
	r.check(what, do(r.t.Context())...) // prepares statements
	messages := 0
	for met := byte('?'); met != 0; {
		messages++
		met = r.meet(what, messages, dbtest.Cut, hang, do)
	}
	if messages < 4 {
		r.t.Errorf("%s: only %d messages", what, messages)
	}
	for position := 1; position <= messages; position++ {
		if slices.Contains(faults, dbtest.Kill) {
			r.meet(what, position, dbtest.Kill, hang, do)
		}
		if slices.Contains(faults, dbtest.Freeze) {
			r.meet(what, position, dbtest.Freeze, 60*time.Millisecond, do)
		}
	}
}

// meet lets one message meet a fault, and returns its type; 0 if there were not so many.
func (r *promiseRig) meet(what string, position int, fault dbtest.Fault, limit time.Duration, do func(context.Context) []told) byte {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), limit)
	defer cancel()
	r.proxy.Arm(position, fault)
	answers := do(ctx)
	met := r.proxy.Disarm()
	r.check(fmt.Sprintf("%s, %v at message %d (%c)", what, fault, position, max(met, ' ')), answers...)
	return met
}

// hang ends a test that has failed already.
const hang = time.Minute

// What a caller is told about its jobs is true, whichever message between client and server is
// lost, and however: rows are there if there was no error, none is there if it was refused or not
// sent, and otherwise the error says that nobody knows.
func TestOutcomeIsTrueAtEveryMessage(t *testing.T) {
	t.Parallel()
	cut := []dbtest.Fault{dbtest.Cut}
	for way, kinds := range map[string]map[string][]dbtest.Fault{
		"pool": {
			"plain": dbtest.Faults, "new task": cut, "queued": dbtest.Faults, "keyed": cut, "mixed": cut, "large": dbtest.Faults,
		},
		"notify":       {"plain": dbtest.Faults, "new task": cut},
		"function":     {"mixed": dbtest.Faults, "large": cut},
		"tx":           {"new task": cut, "large": cut},
		"function, tx": {"mixed": cut},
		"sql":          {"mixed": cut},
	} {
		for kind, faults := range kinds {
			t.Run(way+", "+kind, func(t *testing.T) {
				t.Parallel()
				r := newPromiseRig(t, "read committed")
				insert := r.ways()[way]
				r.everyPosition(way+", "+kind, faults, func(ctx context.Context) []told {
					r.run++
					id := fmt.Sprint(r.run)
					specs := r.kinds(id)[kind]
					return []told{{want: len(specs), id: id, err: insert(ctx, specs)}}
				})
				if r.told["nil"] == 0 || r.told["unknown"] == 0 {
					t.Errorf("not every kind of answer was seen: %v", r.told)
				}
			})
		}
	}
}

// The same for calls that are folded into batches.
func TestOutcomeOfBatchesIsTrueAtEveryMessage(t *testing.T) {
	t.Parallel()
	cut := []dbtest.Fault{dbtest.Cut}
	for name, keyed := range map[string]bool{"keyless": false, "keyed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newPromiseRig(t, "read committed")
			r.everyPosition(name, cut, func(ctx context.Context) []told { return r.callers(ctx, keyed) })
		})
	}
}

// A cron tick whose outcome is unknown is sent again: its job is there once.
func TestTickIsTrueAtEveryMessage(t *testing.T) {
	t.Parallel()
	r := newPromiseRig(t, "read committed")
	store, err := pg.Open(t.Context(), pg.SettingsOf(r.pool, schemaName))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	at := time.Now().Truncate(time.Minute)
	r.everyPosition("tick", []dbtest.Fault{dbtest.Cut}, func(ctx context.Context) []told {
		r.run++
		at = at.Add(time.Minute)
		id := fmt.Sprint(r.run)
		specs := []wire.Spec{r.spec(id, "known", "queue"+id, "")}
		if _, err := store.Tick(ctx, at, []string{"tick"}, specs); err != nil {
			dbtest.Until(t, func() bool {
				_, err := store.Tick(t.Context(), at, []string{"tick"}, specs)
				return err == nil
			})
		}
		return []told{{want: 1, id: id}}
	})
}

// refuse has the server raise an error at the nth row that is inserted, or at the nth commit.
func (r *promiseRig) refuse(code string, n int, atCommit bool) {
	r.t.Helper()
	dbtest.Run(r.t, r.admin, "create sequence if not exists public.rows_seen; select setval('public.rows_seen', 1, false)")
	dbtest.Run(r.t, r.admin, fmt.Sprintf(`create or replace function public.refuse() returns trigger language plpgsql as $$
		begin if nextval('public.rows_seen') = %d then raise exception 'injected' using errcode = '%s'; end if; return new; end $$`, n, code))
	dbtest.Run(r.t, r.admin, "drop trigger if exists refuse on graphile_worker._private_jobs")
	trigger := "create trigger refuse before insert or update on graphile_worker._private_jobs for each row execute function public.refuse()"
	if atCommit {
		trigger = "create constraint trigger refuse after insert or update on graphile_worker._private_jobs deferrable initially deferred " +
			"for each row execute function public.refuse()"
	}
	dbtest.Run(r.t, r.admin, trigger)
}

// The same when the server ends a transaction: at any of its rows or at its commit, with an error
// after which the client tries again or with one after which it does not, at every isolation
// level.
func TestOutcomeIsTrueAtEveryServerError(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"read committed", "repeatable read", "serializable"} {
		t.Run(isolation, func(t *testing.T) {
			t.Parallel()
			r := newPromiseRig(t, isolation)
			for way, insert := range r.ways() {
				for _, code := range []string{"40001", "40P01", "P0001"} {
					for _, atCommit := range []bool{false, true} {
						for _, n := range []int{1, 2, 4} {
							for kind := range r.kinds("") {
								r.refuse(code, n, atCommit)
								r.run++
								id := fmt.Sprint(r.run)
								specs := r.kinds(id)[kind]
								err := insert(t.Context(), specs)
								what := fmt.Sprintf("%s, %s, %s at row %d (at commit: %v)", way, kind, code, n, atCommit)
								r.check(what, told{want: len(specs), id: id, err: err})
								if own := !strings.Contains(way, "tx") && way != "sql"; own && code != "P0001" && err != nil {
									t.Errorf("%s: not tried again: %v", what, err)
								}
							}
						}
					}
				}
			}
			r.refuse("P0001", -1, false)
			for _, keyed := range []bool{false, true} {
				for _, n := range []int{1, 3, 6, 9} {
					for _, code := range []string{"40001", "P0001"} {
						r.refuse(code, n, true)
						r.check(fmt.Sprintf("batches, %s at commit, row %d", code, n), r.callers(t.Context(), keyed)...)
					}
				}
			}
			if r.told["nil"] == 0 || r.told["none"] == 0 {
				t.Errorf("not every kind of answer was seen: %v", r.told)
			}
		})
	}
}
