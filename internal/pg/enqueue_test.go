package pg_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

const schemaName = "graphile_worker"

// stored is a job's row with names instead of ids, and times relative to the transaction's.
type stored struct {
	Task, Queue, Payload, Key, LastError, Flags string
	Priority, Attempts, MaxAttempts, Revision   int
	RunAt                                       string
	Locked                                      bool
}

func storedRows(t *testing.T, pool *pgxpool.Pool) []stored {
	t.Helper()
	rows, err := pool.Query(t.Context(), `select t.identifier, coalesce(q.queue_name, '-'), j.payload::text, coalesce(j.key, '-'),
		coalesce(j.last_error, '-'), coalesce(j.flags::text, '-'), j.priority, j.attempts, j.max_attempts, j.revision,
		case when j.run_at < '2100-01-01' and j.run_at > now() - interval '1 hour' then 'now' else j.run_at::text end, j.locked_at is not null
		from graphile_worker._private_jobs j join graphile_worker._private_tasks t on t.id = j.task_id
		left join graphile_worker._private_job_queues q on q.id = j.job_queue_id order by j.id`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stored])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// The states in which a keyed job can be found, as SQL on a database whose job has the key 'k'.
var keyedStates = map[string]string{
	"none":     "select 1",
	"unlocked": "select graphile_worker.add_job('old', '{\"a\":1}', 'oldq', '2101-01-01', 7, 'k', 3, array['f'])",
	"array":    "select graphile_worker.add_job('old', '[{\"a\":1}]', job_key := 'k', run_at := '2101-01-01')",
	"failed once": `with j as (select * from graphile_worker.add_job('old', '{}', job_key := 'k', run_at := '2101-01-01'))
		select graphile_worker.reschedule_jobs(array[id], attempts := 2) from j`,
	"exhausted": `with j as (select * from graphile_worker.add_job('old', '{}', job_key := 'k', run_at := '2101-01-01'))
		select graphile_worker.permanently_fail_jobs(array[id], 'gone') from j`,
	"locked": "select graphile_worker.add_job('old', '{}', job_key := 'k', run_at := '2101-01-01')",
}

// prepareKeyed brings a database into a state. The lock is set by hand: a job cannot be locked in
// the statement that adds it.
func prepareKeyed(t *testing.T, pool *pgxpool.Pool, state string) {
	t.Helper()
	dbtest.Run(t, pool, keyedStates[state])
	if state == "failed once" {
		dbtest.Run(t, pool, "update graphile_worker._private_jobs set attempts = 2, last_error = 'once'")
	}
	if state == "exhausted" {
		dbtest.Run(t, pool, "update graphile_worker._private_jobs set attempts = max_attempts, last_error = 'gone'")
	}
	if state == "locked" {
		dbtest.Run(t, pool, "update graphile_worker._private_jobs set locked_at = now(), locked_by = 'pool-x', attempts = 1")
	}
}

// Contract section 4.2, case by case: what our statements leave equals what add_job leaves.
func TestKeyedInsertsEqualAddJob(t *testing.T) {
	t.Parallel()
	modes := []wire.KeyMode{wire.KeyReplace, wire.KeyPreserveRunAt, wire.KeyUnsafeDedupe}
	payloads := []string{`{"b": 2}`, `[{"b": 2}]`}
	for state := range keyedStates {
		for _, mode := range modes {
			t.Run(state+", "+string(mode), func(t *testing.T) {
				t.Parallel()
				for _, payload := range payloads {
					theirs := pgtest.New(t).Pool()
					prepareKeyed(t, theirs, state)
					dbtest.Run(t, theirs, `select graphile_worker.add_job('new', $1::json, 'q', '2102-02-02', 9, 'k', -2, array['g', 'h'], $2)`, payload, string(mode))
					want := storedRows(t, theirs)
					for way, insert := range inserts {
						db := pgtest.New(t)
						prepareKeyed(t, db.Pool(), state)
						jobs, err := insert(t.Context(), db, []wire.Spec{{
							Task: "new", Payload: []byte(payload), Queue: "q", Key: "k", KeyMode: mode, Priority: -2, MaxAttempts: 9,
							RunAt: time.Date(2102, 2, 2, 0, 0, 0, 0, time.UTC), Flags: []string{"h", "g"},
						}})
						if err != nil {
							t.Fatalf("%s: %v", way, err)
						}
						if diff := cmp.Diff(want, storedRows(t, db.Pool())); diff != "" {
							t.Errorf("%s, %s: rows (-add_job +ours):\n%s", way, payload, diff)
						}
						wantReturned(t, db.Pool(), jobs[0], strings.HasPrefix(way, byFunction), payload)
					}
				}
			})
		}
	}
}

// wantReturned checks that the job which an insert returned is the row that it left; without its
// payload, if it is not the one that was sent and must not be given out.
func wantReturned(t *testing.T, pool *pgxpool.Pool, job *wire.Job, hidden bool, sent string) {
	t.Helper()
	var want wire.Job
	var flags []string
	err := pool.QueryRow(t.Context(), `select j.id, t.identifier, j.payload, coalesce(q.queue_name, ''), coalesce(j.key, ''), j.priority,
		j.attempts, j.max_attempts, j.revision, j.run_at, j.created_at, (select array_agg(f order by f) from jsonb_object_keys(j.flags) f)
		from graphile_worker._private_jobs j join graphile_worker._private_tasks t on t.id = j.task_id
		left join graphile_worker._private_job_queues q on q.id = j.job_queue_id where j.id = $1`, job.ID).
		Scan(&want.ID, &want.Task, &want.Payload, &want.Queue, &want.Key, &want.Priority, &want.Attempt, &want.MaxAttempts,
			&want.Revision, &want.RunAt, &want.CreatedAt, &flags)
	if err != nil {
		t.Fatal(err)
	}
	want.Flags = flags
	if hidden && string(want.Payload) != sent {
		want.Payload = nil
	}
	if diff := cmp.Diff(&want, job, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("returned job (-row +returned):\n%s", diff)
	}
}

// Keyless jobs: the rows of add_job, in order, on every path, with and without queues, for one and
// for many.
func TestKeylessInsertsEqualAddJob(t *testing.T) {
	t.Parallel()
	theirs := pgtest.New(t).Pool()
	dbtest.Run(t, theirs, `select graphile_worker.add_job('a')`)
	dbtest.Run(t, theirs, `select graphile_worker.add_job('b', '{"x": "\u0000", "x":  1}', run_at := '2102-02-02 03:04:05.678901Z', priority := -32768)`)
	dbtest.Run(t, theirs, `select graphile_worker.add_job('a', 'null', 'q', max_attempts := 32767, flags := array['y', 'x', 'y'])`)
	dbtest.Run(t, theirs, `select graphile_worker.add_job('a', '[1, 2]', 'q')`)
	want := storedRows(t, theirs)
	specs := []wire.Spec{
		{Task: "a", Payload: []byte("{}"), MaxAttempts: 25},
		{
			Task: "b", Payload: []byte(`{"x": "\u0000", "x":  1}`), MaxAttempts: 25, Priority: -32768,
			RunAt: time.Date(2102, 2, 2, 3, 4, 5, 678901000, time.UTC),
		},
		{Task: "a", Payload: []byte("null"), Queue: "q", MaxAttempts: 32767, Flags: []string{"y", "x", "y"}},
		{Task: "a", Payload: []byte("[1, 2]"), Queue: "q", MaxAttempts: 25},
	}
	for way, insert := range inserts {
		for _, together := range []bool{true, false} {
			db := pgtest.New(t)
			var jobs []*wire.Job
			var err error
			if together {
				jobs, err = insert(t.Context(), db, specs)
			}
			for i := 0; i < len(specs) && !together && err == nil; i++ {
				var one []*wire.Job
				one, err = insert(t.Context(), db, specs[i:i+1])
				jobs = append(jobs, one...)
			}
			if err != nil {
				t.Fatalf("%s: %v", way, err)
			}
			if diff := cmp.Diff(want, storedRows(t, db.Pool())); diff != "" {
				t.Errorf("%s, together %v: rows (-add_job +ours):\n%s", way, together, diff)
			}
			for i, job := range jobs {
				wantReturned(t, db.Pool(), job, false, string(specs[i].Payload))
			}
		}
	}
}

// R17: inserting notifies nobody inside the transaction.
func TestInsertsDoNotNotify(t *testing.T) {
	t.Parallel()
	for way, insert := range inserts {
		db := pgtest.New(t)
		l := dbtest.Listen(t, db.URL)
		specs := []wire.Spec{
			{Task: "a", Payload: []byte("{}"), MaxAttempts: 25},
			{Task: "a", Payload: []byte("{}"), MaxAttempts: 25, Key: "k", Queue: "q"},
			{Task: "a", Payload: []byte("{}"), MaxAttempts: 25, Key: "d", KeyMode: wire.KeyUnsafeDedupe},
		}
		for _, some := range [][]wire.Spec{specs, specs[:1], specs[1:2]} {
			if _, err := insert(t.Context(), db, some); err != nil {
				t.Fatal(err)
			}
		}
		if got := l.Take(t); len(got) != 0 {
			t.Errorf("%s: notifications %q", way, got)
		}
	}
}

// Equal keys in one call: as if enqueued one after the other; the last wins, and both results
// point to it.
func TestEqualKeysInOneCall(t *testing.T) {
	t.Parallel()
	spec := func(payload, key string, mode wire.KeyMode) wire.Spec {
		return wire.Spec{Task: "a", Payload: []byte(payload), Key: key, KeyMode: mode, MaxAttempts: 25}
	}
	for way, insert := range inserts {
		db := pgtest.New(t)
		jobs, err := insert(t.Context(), db, []wire.Spec{
			spec(`{"n":1}`, "x", wire.KeyReplace), spec(`{"n":2}`, "y", wire.KeyReplace), spec(`{"n":3}`, "x", wire.KeyReplace),
			{Task: "a", Payload: []byte(`{"n":4}`), MaxAttempts: 25},
			spec(`[1]`, "list", wire.KeyPreserveRunAt), spec(`[2]`, "list", wire.KeyPreserveRunAt),
			spec(`{"n":5}`, "once", wire.KeyUnsafeDedupe), spec(`{"n":6}`, "once", wire.KeyUnsafeDedupe),
		})
		if err != nil {
			t.Fatalf("%s: %v", way, err)
		}
		var got []string
		for _, job := range jobs {
			got = append(got, fmt.Sprintf("%s %s %d", job.Key, strings.ReplaceAll(string(job.Payload), " ", ""), job.Revision))
		}
		want := []string{
			`x {"n":3} 1`, `y {"n":2} 0`, `x {"n":3} 1`, ` {"n":4} 0`, `list [1,2] 1`, `list [1,2] 1`, `once {"n":5} 1`, `once {"n":5} 1`,
		}
		if strings.HasPrefix(way, byFunction) { // not what was sent last
			want[4], want[5], want[6], want[7] = "list  1", "list  1", "once  1", "once  1"
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: results (-want +got):\n%s", way, diff)
		}
		if jobs[0] != jobs[2] || jobs[0].ID == jobs[1].ID {
			t.Errorf("%s: equal keys are not one job", way)
		}
	}
}

// Contract section 4.4, peer issue 580: workers take keyed jobs in a tight loop while they are
// re-added; no request is lost.
func TestKeyedInsertsAgainstClaims(t *testing.T) {
	t.Parallel()
	for _, access := range accesses {
		t.Run(fmt.Sprint(access), func(t *testing.T) {
			t.Parallel()
			keyedInsertsAgainstClaims(t, access)
		})
	}
}

func keyedInsertsAgainstClaims(t *testing.T, access schema.Access) {
	t.Helper()
	db := pgtest.New(t, pgtest.WithPoolSize(8))
	inserter := pg.NewInserter(db.Pool(), schemaName, access)
	const callers, each = 3, 60
	stop := make(chan struct{})
	seen := map[string]bool{}
	var working, inserting sync.WaitGroup
	r := rigOn(t, db.Pool(), schemaName)
	working.Go(func() {
		for last := false; ; {
			select {
			case <-stop:
				last = true // everything is committed: the next claim that finds nothing has seen it all
			default:
			}
			jobs := r.try(20, 20).Jobs
			for _, job := range jobs {
				seen[string(job.Payload)] = true
			}
			for len(jobs) > 0 && len(endings["complete"](r, jobs...).Busy) == len(jobs) { // again
			}
			if last && len(jobs) == 0 {
				return
			}
		}
	})
	for caller := range callers {
		inserting.Go(func() {
			for n := range each {
				// Arrays merge: an element that was accepted and then superseded would be lost,
				// and must not be.
				jobs, err := insertUnblocked(t, inserter, []wire.Spec{{
					Task: "a", Payload: fmt.Appendf(nil, "[%d]", caller*each+n), Key: "k", MaxAttempts: 25,
				}})
				if err != nil || len(jobs) != 1 || jobs[0] == nil || jobs[0].ID == 0 {
					t.Errorf("insert: %v, %v", jobs, err)
				}
			}
		})
	}
	inserting.Wait()
	close(stop)
	working.Wait()
	all := map[string]bool{}
	for payload := range seen {
		for element := range strings.SplitSeq(strings.Trim(strings.ReplaceAll(payload, " ", ""), "[]"), ",") {
			all[element] = true
		}
	}
	if len(all) != callers*each {
		t.Errorf("%d of %d requests were run", len(all), callers*each)
	}
}

// insertUnblocked inserts again as long as a row is locked for longer than an insert waits.
func insertUnblocked(t *testing.T, inserter *pg.Inserter, specs []wire.Spec) ([]*wire.Job, error) {
	t.Helper()
	for {
		jobs, _, err := inserter.InsertAll(t.Context(), specs, nil)
		if _, blocked := errors.AsType[*wire.BlockedError](err); !blocked {
			return jobs, err
		}
	}
}

// Ten clients insert the same new names at once.
func TestNewNamesAtOnce(t *testing.T) {
	t.Parallel()
	for _, access := range accesses {
		t.Run(fmt.Sprint(access), func(t *testing.T) {
			t.Parallel()
			newNamesAtOnce(t, access)
		})
	}
}

func newNamesAtOnce(t *testing.T, access schema.Access) {
	t.Helper()
	db := pgtest.New(t, pgtest.WithPoolSize(10))
	inserter := pg.NewInserter(db.Pool(), schemaName, access)
	var wait sync.WaitGroup
	for range 10 {
		wait.Go(func() {
			var specs []wire.Spec
			for i := range 50 {
				specs = append(specs, wire.Spec{
					Task: fmt.Sprint("task", i%7), Queue: fmt.Sprint("queue", i), Payload: []byte("{}"), MaxAttempts: 25,
				})
			}
			if _, err := insertUnblocked(t, inserter, specs); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if n := dbtest.Get[int](t, db.Pool(), `select count(*)::int from graphile_worker.jobs where queue_name = 'queue' || substring(queue_name from 6)`); n != 500 {
		t.Errorf("%d jobs, want 500", n)
	}
}

// A refusal by the server is told from an unknown outcome, and leaves nothing.
func TestRejectedInserts(t *testing.T) {
	t.Parallel()
	for _, access := range accesses {
		t.Run(fmt.Sprint(access), func(t *testing.T) {
			t.Parallel()
			rejectedInserts(t, access)
		})
	}
}

func rejectedInserts(t *testing.T, access schema.Access) {
	t.Helper()
	db := pgtest.New(t)
	inserter := pg.NewInserter(db.Pool(), schemaName, access)
	for _, specs := range [][]wire.Spec{
		{{Task: "a", Payload: []byte("{"), MaxAttempts: 25}},
		{{Task: "a", Payload: []byte("{}"), MaxAttempts: 25, Queue: "q"}, {Task: "a", Payload: []byte("{}"), Key: "k", MaxAttempts: 0}},
	} {
		_, _, err := inserter.InsertAll(t.Context(), specs, nil)
		if _, rejected := errors.AsType[*wire.RejectedError](err); !rejected {
			t.Errorf("%v is not a RejectedError", err)
		}
	}
	if got := storedRows(t, db.Pool()); len(got) != 0 {
		t.Errorf("rows were left: %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := inserter.InsertAll(ctx, []wire.Spec{{Task: "a", Payload: []byte("{}"), MaxAttempts: 25}}, nil)
	if _, unsent := errors.AsType[*wire.NotEnqueuedError](err); !unsent {
		t.Errorf("with a context that has ended: %v", err)
	}
}
