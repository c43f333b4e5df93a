package pg_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// beatRig is a worker's store whose new connections are refused from some moment on.
func beatRig(t *testing.T, change func(config *pgxpool.Config, refuse func() bool)) (r *rig, refuse *atomic.Bool) {
	t.Helper()
	refuse = new(atomic.Bool)
	db := pgtest.New(t).Pool()
	config := db.Config()
	change(config, refuse.Load)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return rigWith(t, db, pg.SettingsOf(pool, schemaName)), refuse
}

func (r *rig) beat(number int64) worker.Beaten {
	r.t.Helper()
	answer, err := r.store.Beat(r.t.Context(), worker.Beat{WorkerID: r.id, Write: true, Number: number})
	if err != nil {
		r.t.Fatalf("heartbeat %d: %v", number, err)
	}
	if !answer.Alive || dbtest.Get[int64](r.t, r.pool, "select beats from graphile_worker.backfill_workers where id = $1", r.id) != number {
		r.t.Errorf("heartbeat %d is answered by %+v", number, answer)
	}
	return answer
}

// A session whose life time is over goes on while there is no other: the worker lives.
func TestHeartbeatsOutliveTheLifeOfTheirSession(t *testing.T) {
	t.Parallel()
	dialer := net.Dialer{}
	r, refuse := beatRig(t, func(config *pgxpool.Config, refuse func() bool) {
		config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			if refuse() {
				return nil, errors.New("no route to host")
			}
			return dialer.DialContext(ctx, network, address)
		}
	})
	first := r.beat(1)
	pg.ExpirePulse(r.store)
	second := r.beat(2)
	if second.Session == first.Session {
		t.Error("the session outlives its life time")
	}
	pg.ExpirePulse(r.store)
	refuse.Store(true)
	if third := r.beat(3); third.Session != second.Session || !third.Locked {
		t.Errorf("without a new connection the heartbeat is answered by %+v", third)
	}
}

// Where the server takes no more connections, one of the worker's others proves that it lives. Each
// such heartbeat is a session of its own, so nobody is judged by a free lock meanwhile.
func TestHeartbeatsGoOnWhenTheServerIsFull(t *testing.T) {
	t.Parallel()
	r, refuse := beatRig(t, func(config *pgxpool.Config, refuse func() bool) {
		config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
			if refuse() {
				c.Database = "no_such_database" // the server answers with a fatal error, as when it is full
			}
			return nil
		}
	})
	refuse.Store(true)
	first := r.beat(1)
	if second := r.beat(2); first.Locked || second.Locked || second.Session == first.Session {
		t.Errorf("heartbeats without a session are answered by %+v and %+v", first, second)
	}
	refuse.Store(false)
	if third := r.beat(3); !third.Locked {
		t.Errorf("afterwards by %+v", third)
	}
}

// A heartbeat that waits for the worker's row keeps its session, and the lock with it. What it may
// have written is told.
func TestHeartbeatThatWaitsKeepsItsSession(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.beat(1)
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "select from graphile_worker.backfill_workers where id = $1 for update", r.id)
	answer, err := r.store.Beat(t.Context(), worker.Beat{WorkerID: r.id, Write: true, Number: 2})
	if sqlstate.Of(err) != sqlstate.LockNotAvailable || !answer.Locked {
		t.Errorf("the heartbeat is answered by %+v, %v", answer, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if third := r.beat(3); third.Session != first.Session {
		t.Errorf("the session changed from %d to %d", first.Session, third.Session)
	}
}

// A worker starts, and comes back, whoever holds the rows of dead ones.
func TestRegisterWaitsForNoDeadWorker(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	old := rigOn(t, r.pool, schemaName)
	for _, id := range []string{r.id, old.id} {
		dbtest.Run(t, r.pool, `update graphile_worker.backfill_workers
			set dead_at = now() - interval '2 days', rescued_at = now() where id = $1`, id)
	}
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	dbtest.Run(t, tx, "select from graphile_worker.backfill_workers for update")
	err = r.store.Register(r.quick(), worker.Registration{ID: wire.NewWorkerID(), Former: r.id, Tasks: []string{"a", "b"}})
	if err != nil {
		t.Error(err)
	}
}

// A store knows since when all of its connections are in use. That the database makes none is
// another thing.
func TestStoreThatIsFull(t *testing.T) {
	t.Parallel()
	dialer := net.Dialer{}
	r, refuse := beatRig(t, func(config *pgxpool.Config, refuse func() bool) {
		config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			if refuse() {
				<-ctx.Done() // no answer
				return nil, ctx.Err()
			}
			return dialer.DialContext(ctx, network, address)
		}
	})
	full := func() time.Time {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := r.store.Unlocked(ctx, []worker.Peer{{ID: r.id}}); err == nil {
			t.Error("there was a connection")
		}
		return r.store.Sessions().Full
	}
	giveBack, err := r.store.Exhaust(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	first := full()
	if again := full(); first.Before(before) || !again.Equal(first) {
		t.Errorf("it is full since %v, and since %v", first, again)
	}
	giveBack()
	if _, err := r.store.Unlocked(t.Context(), []worker.Peer{{ID: r.id}}); err != nil || !r.store.Sessions().Full.IsZero() {
		t.Errorf("a connection came back, and it is full since %v: %v", r.store.Sessions().Full, err)
	}
	refuse.Store(true)
	r.store.DropConnections()
	if since := full(); !since.IsZero() {
		t.Errorf("there is room and no server, and it is full since %v", since)
	}
}
