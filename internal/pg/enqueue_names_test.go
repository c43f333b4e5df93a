package pg_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// A name belongs to the transaction that adds it, as with the contract's add_job: who enqueues to
// the same new name meanwhile waits for its end, and adds the name if it was rolled back. With
// names that are there, nobody waits.
func TestNewNameOfAnOpenTransaction(t *testing.T) {
	t.Parallel()
	for end, want := range map[string][]int{"commit": {1, 2}, "rollback": {2}} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			rig := newNamesRig(t)
			one, other := rig.begin(t), rig.begin(t)
			rig.mustInsert(t, one, "new", "q", 1)
			done := make(chan error, 1)
			go func() { done <- rig.insert(t, other, "new", "q", 2) }()
			dbtest.WaitBlocked(t, rig.observer, other.Conn().PgConn().PID())
			dbtest.Run(t, one, end)
			if err := errors.Join(<-done, other.Commit(t.Context())); err != nil {
				t.Fatal(err)
			}
			rig.want(t, want...)
			one, other = rig.begin(t), rig.begin(t)
			rig.mustInsert(t, one, "new", "q", 3)
			rig.mustInsert(t, other, "new", "q", 4)
		})
	}
}

// Two transactions that add two names in opposite order are a deadlock, of which the server ends
// one: it can be repeated as a whole, the other goes on, and both leave their jobs.
func TestNewNamesInOppositeOrder(t *testing.T) {
	t.Parallel()
	for kind, names := range map[string][2][2]string{"tasks": {{"a", ""}, {"b", ""}}, "queues": {{"t", "a"}, {"t", "b"}}} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			rig := newNamesRig(t)
			dbtest.Run(t, rig.observer, "insert into graphile_worker._private_tasks (identifier) values ('t')")
			one, other := rig.begin(t), rig.begin(t)
			a, b := names[0], names[1]
			rig.mustInsert(t, one, a[0], a[1], 1)
			rig.mustInsert(t, other, b[0], b[1], 2)
			ended := make(chan error, 1)
			go func() { ended <- errors.Join(rig.insert(t, one, b[0], b[1], 3), one.Commit(t.Context())) }()
			dbtest.WaitBlocked(t, rig.observer, one.Conn().PgConn().PID())
			errOther := errors.Join(rig.insert(t, other, a[0], a[1], 4), other.Commit(t.Context()))
			errOne := <-ended
			if (errOne == nil) == (errOther == nil) {
				t.Fatalf("want one of two to be ended: %v; %v", errOne, errOther)
			}
			victim, err := int16(1), errOne
			if errOther != nil {
				victim, err = 2, errOther
			}
			if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "40P01" {
				t.Fatalf("not a deadlock: %v", err)
			}
			again := rig.begin(t)
			rig.mustInsert(t, again, names[victim-1][0], names[victim-1][1], victim)
			rig.mustInsert(t, again, names[2-victim][0], names[2-victim][1], victim+2)
			if err := again.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			rig.want(t, 1, 2, 3, 4)
		})
	}
}

// Names that are known burn no identity values, of which there are 2^31: a keyed enqueue and the
// second try of a keyless one name all that they need, and so does a worker that starts.
func TestKnownNamesBurnNoIDs(t *testing.T) {
	t.Parallel()
	for way, insert := range inserts {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			spec := func(task, queue, key string, mode wire.KeyMode) wire.Spec {
				return wire.Spec{Task: task, Queue: queue, Key: key, KeyMode: mode, Payload: []byte("{}"), MaxAttempts: 1}
			}
			for range 2 {
				for _, specs := range [][]wire.Spec{
					{spec("a", "a", "k", wire.KeyReplace)},
					{spec("a", "a", "k", wire.KeyUnsafeDedupe)},
					{spec("a", "a", "", ""), spec("b", "b", "", "")}, // of which some are new, the first time
					{spec("a", "", "", ""), spec("c", "", "", "")},
					{spec("d", "", "", "")},
				} {
					if _, err := insert(t.Context(), db, specs); err != nil {
						t.Fatal(err)
					}
				}
				rigOn(t, db.Pool(), schemaName)
			}
			if _, err := insert(t.Context(), db, []wire.Spec{spec("last", "last", "", "")}); err != nil {
				t.Fatal(err)
			}
			for table, want := range map[string]int{"tasks": 5, "job_queues": 3} {
				ids := dbtest.Get[[]int32](t, db.Pool(), "select array_agg(id order by id) from graphile_worker._private_"+table)
				if len(ids) != want || int(ids[len(ids)-1]-ids[0]) != want-1 {
					t.Errorf("the %s have the ids %v, want %d without a gap", table, ids, want)
				}
			}
		})
	}
}

// namesRig is a database without names.
type namesRig struct {
	db       *pgtest.Database
	inserter *pg.Inserter
	observer *pgx.Conn
}

func newNamesRig(t *testing.T) *namesRig {
	t.Helper()
	db := pgtest.New(t)
	return &namesRig{db, pg.NewInserter(db.Pool(), schemaName, schema.WritesTables), dbtest.Connect(t, db.URL)}
}

// begin begins a transaction on a connection of its own.
func (r *namesRig) begin(t *testing.T) pgx.Tx {
	t.Helper()
	tx, err := dbtest.Connect(t, r.db.URL).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func (r *namesRig) insert(t *testing.T, tx pgx.Tx, task, queue string, priority int16) error {
	t.Helper()
	_, err := r.inserter.InsertTx(t.Context(), tx, []wire.Spec{
		{Task: task, Queue: queue, Payload: []byte("{}"), MaxAttempts: 1, Priority: priority},
	})
	return err
}

func (r *namesRig) mustInsert(t *testing.T, tx pgx.Tx, task, queue string, priority int16) {
	t.Helper()
	if err := r.insert(t, tx, task, queue, priority); err != nil {
		t.Fatal(err)
	}
}

// want compares the jobs, which are told apart by their priorities.
func (r *namesRig) want(t *testing.T, priorities ...int) {
	t.Helper()
	got := dbtest.Get[[]int](t, r.observer, "select coalesce(array_agg(priority::int order by priority), '{}') from graphile_worker.jobs")
	if diff := cmp.Diff(priorities, got); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
}
