package pg

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/worker"
)

// Channels of notifications. They belong to the database, not to the schema (contract section 3).
const (
	channelJobs    = "jobs:insert"
	channelMigrate = "worker:migrate"
	channelPing    = "backfill:ping"
)

// Listen implements worker.Store.
func (s *Store) Listen(ctx context.Context, ready func(), on func(worker.Notification)) error {
	conn, err := s.settings.connect(ctx, listenSession)
	if err != nil {
		return fmt.Errorf("connect listener: %w", err)
	}
	defer closeConn(ctx, conn)
	ready()
	for {
		notification, err := conn.WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("wait for notification: %w", err)
		}
		if n, ok := understand(notification); ok {
			on(n)
		}
	}
}

// understand reads a notification as the contract's section 3 has it. ok is false for those that mean nothing to do.
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
	default:
		return n, false
	}
}

// closeConn closes a connection politely, also when ctx has ended.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // the server notices by itself
}
