package pg

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/worker"
)

// Channels of notifications. They belong to the database, not to the schema (contract section 3).
const (
	channelJobs    = "jobs:insert"
	channelMigrate = "worker:migrate"
	channelPing    = "backfill:ping"
	channelCancel  = "backfill:cancel"
	channelAsk     = "backfill:ask"
)

const listenStatements = `
listen "` + channelJobs + `";
listen "` + channelMigrate + `";
listen "` + channelPing + `";
listen "` + channelCancel + `";
listen "` + channelAsk + `"`

// overlap is how long a listener that is replaced is still read beside its successor.
const overlap = 100 * time.Millisecond

// Listen implements worker.Store. A connection at the end of its life, as the application's pool
// has it, is replaced by one that listens before the old one stops.
func (s *Store) Listen(ctx context.Context, ready func(), on func(worker.Notification)) error {
	conn, err := s.listener.listen(ctx)
	if err != nil {
		return err
	}
	defer func() { closeConn(ctx, conn) }()
	ready()
	for {
		if err := receive(ctx, conn, s.settings.lifetime(), on); err != nil {
			return err
		}
		next, err := s.listener.listen(ctx)
		if err != nil {
			return err
		}
		_ = receive(ctx, conn, overlap, on)
		closeConn(ctx, conn)
		conn = next
	}
}

func (s *sessions) listen(ctx context.Context) (*pgx.Conn, error) {
	conn, err := s.connectListener(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect listener: %w", err)
	}
	listening, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	if _, err := conn.PgConn().Exec(listening, listenStatements).ReadAll(); err != nil {
		closeConn(ctx, conn)
		return nil, fmt.Errorf("listen: %w", err)
	}
	return conn, nil
}

var errLifeOver = errors.New("the connection's life time is over")

// receive hands on notifications until the connection's life is over, and returns nil then.
func receive(ctx context.Context, conn *pgx.Conn, life time.Duration, on func(worker.Notification)) error {
	waiting, cancel := context.WithTimeoutCause(ctx, life, errLifeOver)
	defer cancel()
	for {
		notification, err := conn.WaitForNotification(waiting)
		if err != nil {
			if ctx.Err() == nil && errors.Is(context.Cause(waiting), errLifeOver) {
				return nil
			}
			return fmt.Errorf("wait for notification: %w", err)
		}
		if n, ok := understand(notification); ok {
			on(n)
		}
	}
}

// lifetime is how long a connection may live, as the application's pool has it; 10 years if it has
// no limit.
func (s Settings) lifetime() time.Duration {
	const unlimited = 10 * 365 * 24 * time.Hour
	return cmp.Or(max(0, s.config.MaxConnLifetime), unlimited) + rand.N(max(1, s.config.MaxConnLifetimeJitter))
}

// understand reads a notification as the contract's section 3 has it. ok is false for those that
// mean nothing to do.
func understand(notification *pgconn.Notification) (n worker.Notification, ok bool) {
	switch notification.Channel {
	case channelJobs:
		var body struct{ Count *int }
		if err := json.Unmarshal([]byte(notification.Payload), &body); err == nil && body.Count != nil && *body.Count <= 0 {
			return n, false
		}
		return worker.Notification{Kind: worker.NotifyJobs}, true
	case channelMigrate:
		var body struct{ Breaking bool }
		if err := json.Unmarshal([]byte(notification.Payload), &body); err == nil && !body.Breaking {
			return n, false
		}
		return worker.Notification{Kind: worker.NotifyMigrate}, true
	case channelPing:
		return worker.Notification{Kind: worker.NotifyPing, Payload: notification.Payload}, true
	case channelCancel:
		return worker.Notification{Kind: worker.NotifyCancel}, true
	case channelAsk:
		return worker.Notification{Kind: worker.NotifyAsk, Payload: notification.Payload}, true
	default:
		return n, false
	}
}

// Answer implements worker.Store.
func (s *Store) Answer(ctx context.Context, channel, text string) error {
	return s.queries.Notify(ctx, query.NotifyParams{Channel: channel, Payload: text})
}

// Ping implements worker.Store. A server that takes no writes is an error: its listener would hear
// of jobs that nobody can claim there.
func (s *Store) Ping(ctx context.Context, payload string) error {
	sent := time.Now()
	answer, err := s.queries.Ping(ctx, query.PingParams{Channel: channelPing, Payload: payload})
	if err != nil {
		return err
	}
	if answer.ReadOnly {
		return errReadOnly
	}
	s.sessions.clock.measure(sent, time.Now(), time.UnixMicro(answer.NowUs))
	return nil
}
