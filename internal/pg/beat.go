package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/host"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/worker"
)

// beatTimeout is how long a heartbeat may go unanswered before it is sent again over another
// connection. A network that drops what it does not know any more is over in 2 seconds so.
const beatTimeout = 2 * time.Second

// A session whose life time is over is replaced. If there is no connection within replaceWithin, it
// goes on, and connectAgain later there is another try.
const replaceWithin, connectAgain = 4 * time.Second, time.Minute

// pulse is the session of a worker's heartbeats. The advisory lock that it holds ends with it, so
// that others see at once that it is gone; while it is held, it proves little: a connection that is
// half open keeps it (R28).
type pulse struct {
	conn    *pgx.Conn // nil: none
	queries *query.Queries
	session int    // its number
	id      string // of the worker whose lock it is to hold
	locked  bool
	expires time.Time
}

// pulseSettings are those of this session alone: a heartbeat that is lost with the server's memory
// does no harm, and a standby that does not answer must not stop the fleet's hearts.
const pulseSettings = `select pg_catalog.set_config('synchronous_commit', 'off', %[1]t), pg_catalog.set_config('lock_timeout', '1s', %[1]t)`

var pulseSession, pulseTransaction = fmt.Sprintf(pulseSettings, false), fmt.Sprintf(pulseSettings, true)

// Beat implements worker.Store.
func (s *Store) Beat(ctx context.Context, beat worker.Beat) (answer worker.Beaten, err error) {
	said := false // that there is a session lock, in a heartbeat that may have been written
	for first := true; ; first = false {
		if answer, err = s.beat(ctx, beat); err == nil {
			return answer, nil
		}
		said = said || s.pulse.locked
		if sqlstate.Of(err) == sqlstate.LockNotAvailable {
			break // somebody has locked the row or the table: another session would wait as well
		}
		s.stopPulse(ctx)
		if !first || ctx.Err() != nil {
			break
		}
	}
	return worker.Beaten{Locked: said}, fmt.Errorf("heartbeat: %w", err)
}

func (s *Store) beat(ctx context.Context, beat worker.Beat) (worker.Beaten, error) {
	p := &s.pulse
	if p.conn == nil || time.Now().After(p.expires) {
		if err := s.startPulse(ctx, beat.WorkerID); err != nil {
			return s.beatWithout(ctx, beat, err)
		}
	}
	if p.id != beat.WorkerID {
		p.id, p.locked = beat.WorkerID, false // what it holds is the lock of an id that is dead
	}
	return s.beatOver(ctx, beat, p.queries)
}

// beatWithout sends a heartbeat without a new session. An old one goes on. Where there is none, and
// the server answers but takes no more connections, one of the worker's others proves as well that
// it lives.
func (s *Store) beatWithout(ctx context.Context, beat worker.Beat, refused error) (worker.Beaten, error) {
	p := &s.pulse
	if p.conn != nil {
		p.expires = time.Now().Add(connectAgain)
		return s.beatOver(ctx, beat, p.queries)
	}
	if _, answered := errors.AsType[*pgconn.PgError](refused); !answered {
		return worker.Beaten{}, refused
	}
	p.session++
	answer, err := s.beatOver(ctx, beat, s.queries)
	if err != nil {
		return answer, refused
	}
	return answer, nil
}

// beatOver sends a heartbeat, and reads the others'.
func (s *Store) beatOver(ctx context.Context, beat worker.Beat, over *query.Queries) (answer worker.Beaten, err error) {
	p := &s.pulse
	ctx, cancel := worker.WithPatience(ctx, beatTimeout)
	defer cancel()
	defer func() {
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
	}()
	if !p.locked && over == p.queries && !s.sessions.shared.Load() {
		p.locked, err = p.queries.TryLockSession(ctx, query.TryLockSessionParams{SchemaName: s.settings.Schema, ID: p.id})
		if err != nil {
			return answer, fmt.Errorf("lock: %w", err)
		}
	}
	sent := time.Now()
	rows, err := over.Beat(ctx, query.BeatParams{
		ID: beat.WorkerID, Write: beat.Write, Beats: beat.Number, Locked: p.locked, Running: orNone(beat.Running),
		Forbidden: orNone(beat.Forbidden), Stopping: beat.Stopping, Emptying: beat.Emptying,
	})
	if err != nil {
		return answer, err
	}
	if len(rows) > 0 {
		s.sessions.clock.measure(sent, time.Now(), time.UnixMicro(rows[0].NowUs))
		answer.Server = rows[0].ServerStartedUs
	}
	answer.Session = p.session
	for _, row := range rows {
		answer.Crashes = row.Crashes
		if row.ID == beat.WorkerID {
			answer.Alive, answer.Locked = !row.Dead && row.Written == beat.Write, row.Locked || beat.Write && p.locked
			continue
		}
		answer.Peers = append(answer.Peers, worker.Peer{
			ID: row.ID, Beats: row.Beats, Locked: row.Locked, Dead: row.Dead, Rescued: row.Rescued,
			Emptying: row.Emptying, Trying: row.Trying,
			Host: row.Host, Process: host.Process{Machine: row.Machine, PID: int(row.Pid), Start: row.ProcessStart},
		})
	}
	return answer, nil
}

// orNone keeps the driver from sending NULL for an empty list.
func orNone[T any](list []T) []T { return append([]T{}, list...) }

// startPulse makes a new session for heartbeats, in place of one that there may be. That one stays
// if there is no connection.
func (s *Store) startPulse(ctx context.Context, workerID string) error {
	p := &s.pulse
	connecting, cancel := ctx, context.CancelFunc(func() {})
	if p.conn != nil {
		connecting, cancel = context.WithTimeout(ctx, replaceWithin)
	}
	conn, err := s.sessions.connect(connecting)
	cancel()
	if err != nil {
		return err
	}
	s.stopPulse(ctx)
	p.conn, p.queries = conn, query.New(renderer{s.sessions.over(conn, pulseTransaction), s.claims.texts})
	p.session++
	p.id = workerID
	p.expires = time.Now().Add(s.settings.lifetime())
	if s.sessions.shared.Load() {
		return nil // a lock would stay in a session of somebody else
	}
	ctx, cancel = worker.WithPatience(ctx, beatTimeout)
	defer cancel()
	if _, err := conn.PgConn().Exec(ctx, pulseSession).ReadAll(); err != nil {
		s.stopPulse(ctx)
		return fmt.Errorf("set session parameters: %w", err)
	}
	// The server may not have seen yet that the session before this one has ended. Who looks at the
	// lock holds it for a moment, too.
	err = p.queries.LockSession(ctx, query.LockSessionParams{SchemaName: s.settings.Schema, ID: p.id})
	if err != nil && sqlstate.Of(err) != sqlstate.LockNotAvailable {
		s.stopPulse(ctx)
		return fmt.Errorf("lock: %w", err)
	}
	p.locked = err == nil
	return nil
}

// stopPulse ends the session of the heartbeats.
func (s *Store) stopPulse(ctx context.Context) {
	if s.pulse.conn != nil {
		closeConn(ctx, s.pulse.conn)
	}
	s.pulse.conn, s.pulse.queries, s.pulse.locked = nil, nil, false
}

// Unlocked implements worker.Store. Each lock is looked at in a statement of its own, which holds
// it for no longer than that. Behind a transaction pooler no lock is known to be free: the server
// may have restarted without our connections to the pooler having noticed, and then all are.
func (s *Store) Unlocked(ctx context.Context, peers []worker.Peer) (ids []string, err error) {
	if s.sessions.shared.Load() {
		return nil, nil
	}
	for _, peer := range peers {
		free, err := s.queries.SessionUnlocked(ctx, query.SessionUnlockedParams{SchemaName: s.settings.Schema, ID: peer.ID})
		if err != nil {
			return nil, fmt.Errorf("look at the session lock of worker %s: %w", peer.ID, err)
		}
		if free {
			ids = append(ids, peer.ID)
		}
	}
	return ids, nil
}

// Declare implements worker.Store.
func (s *Store) Declare(ctx context.Context, workerID string, beats int64) (bool, error) {
	rows, err := s.queries.DeclareDead(ctx, query.DeclareDeadParams{ID: workerID, Beats: beats})
	if err != nil {
		return false, fmt.Errorf("declare worker %s dead: %w", workerID, err)
	}
	return rows > 0, nil
}
