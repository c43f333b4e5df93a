package pg

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"
)

// Nudges sends the notifications that wake workers, on a connection of its own (R17). It connects when it is first needed.
type Nudges struct {
	settings Settings

	mu   sync.Mutex
	conn *pgx.Conn
}

// NewNudges returns a sender that connects with the settings of a client.
func NewNudges(settings Settings) *Nudges {
	return &Nudges{settings: settings}
}

// Send tells every worker of the database that jobs were inserted. A connection that was lost since the last time is replaced.
func (n *Nudges) Send(ctx context.Context, jobs int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	used := n.conn != nil
	err := n.send(ctx, jobs)
	if err != nil && used && n.conn.IsClosed() {
		err = n.send(ctx, jobs)
	}
	return err
}

func (n *Nudges) send(ctx context.Context, jobs int) error {
	if n.conn == nil || n.conn.IsClosed() {
		conn, err := n.settings.connect(ctx, nudgeSession)
		if err != nil {
			return fmt.Errorf("connect to notify workers: %w", err)
		}
		n.conn = conn
	}
	// Control, not a query on our tables; the same statement as Notify, on a connection without a pool.
	if _, err := n.conn.Exec(ctx, "select pg_notify($1, $2)", channelJobs, notification(jobs)); err != nil {
		return fmt.Errorf("notify workers: %w", err)
	}
	return nil
}

// notification is the payload that tells of jobs, in the words of the contract (section 3).
func notification(jobs int) string {
	return `{"r":` + strconv.FormatFloat(rand.Float64(), 'f', -1, 64) + `,"count":` + strconv.Itoa(jobs) + `}`
}

// Close closes the connection.
func (n *Nudges) Close(ctx context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn != nil {
		closeConn(ctx, n.conn)
		n.conn = nil
	}
}
