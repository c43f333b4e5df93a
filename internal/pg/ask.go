package pg

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/worker"
)

// ErrUnanswered is returned when no worker has said where a job is.
var ErrUnanswered = errors.New("no worker has answered")

// Asking asks workers over a connection that listens for their answers.
type Asking struct {
	conn  *pgxpool.Conn
	reply string
}

// Ask prepares to ask workers. The pool must be the caller's own. ErrUnanswered says why nobody can
// be asked: through a pooler that shares sessions, answers do not arrive, and on a standby nothing
// can be asked.
func Ask(ctx context.Context, pool *pgxpool.Pool) (*Asking, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	a := &Asking{conn: conn}
	if err := a.check(ctx, pool); err != nil {
		conn.Release()
		return nil, err
	}
	random := make([]byte, 12)
	_, _ = rand.Read(random) // it never fails
	a.reply = worker.ReplyPrefix + hex.EncodeToString(random)
	if _, err := conn.Exec(ctx, "listen "+pgx.Identifier{a.reply}.Sanitize()); err != nil {
		a.Close()
		return nil, fmt.Errorf("listen for answers: %w", err)
	}
	return a, nil
}

// check reports why nobody can be asked over the connection.
func (a *Asking) check(ctx context.Context, pool *pgxpool.Pool) error {
	var pid uint32
	var standby, readOnly bool
	err := a.conn.QueryRow(ctx, "select pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(), "+
		"pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool", pgx.QueryExecModeSimpleProtocol).Scan(&pid, &standby, &readOnly)
	switch {
	case err != nil:
		return err
	case standby:
		return fmt.Errorf("%w: the server is a standby, which takes no notifications", ErrUnanswered)
	case readOnly:
		return fmt.Errorf("%w: default_transaction_read_only is on for this role or database, so nothing can be asked", ErrUnanswered)
	case pid == a.conn.Conn().PgConn().PID():
		return nil
	}
	other, err := pool.Acquire(ctx) // a pooler: does it share sessions?
	if err != nil {
		return err
	}
	defer other.Release()
	shared, err := compare(ctx, a.conn.Conn(), other.Conn())
	if err == nil && shared {
		err = fmt.Errorf("%w: %w", ErrUnanswered, errShares)
	}
	return err
}

var errShares = errors.New("the connection leads through a pooler that shares sessions, so notifications do not arrive")

// Close closes the connection: nothing of it may be left for others.
func (a *Asking) Close() {
	closeConn(context.Background(), a.conn.Conn())
	a.conn.Release()
}

// Where asks where the handler of a job is, and waits for the answer for a while.
func (a *Asking) Where(ctx context.Context, jobID int64, patience time.Duration) (answer worker.Answer, err error) {
	if err := a.ask(ctx, worker.Asked{Job: jobID}); err != nil {
		return answer, err
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err = a.next(waiting)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w within %v: it does not listen, or its process hangs", ErrUnanswered, patience)
	}
	return answer, err
}

// AskLeaks asks all workers what jobs have left behind. NextAnswer returns what they say.
func (a *Asking) AskLeaks(ctx context.Context) error { return a.ask(ctx, worker.Asked{Leaks: true}) }

// NextAnswer waits for an answer until ctx ends. The error is ErrUnanswered then.
func (a *Asking) NextAnswer(ctx context.Context) (worker.Answer, error) {
	answer, err := a.next(ctx)
	if err != nil && ctx.Err() != nil {
		err = ErrUnanswered
	}
	return answer, err
}

func (a *Asking) ask(ctx context.Context, asked worker.Asked) error {
	asked.Reply = a.reply
	question, err := json.Marshal(asked)
	if err != nil {
		return err
	}
	if _, err := a.conn.Exec(ctx, "select pg_catalog.pg_notify($1, $2)", channelAsk, string(question)); err != nil {
		return fmt.Errorf("ask the workers: %w", err)
	}
	return nil
}

func (a *Asking) next(ctx context.Context) (answer worker.Answer, err error) {
	for {
		notification, err := a.conn.Conn().WaitForNotification(ctx)
		switch {
		case err != nil:
			return answer, fmt.Errorf("wait for an answer: %w", err)
		case notification.Channel == a.reply && json.Unmarshal([]byte(notification.Payload), &answer) == nil:
			return answer, nil
		}
	}
}

// ListenArrives reports whether a notification arrives that a connection of the pool has sent to
// itself, and if not, why. ErrUnanswered says that it could not be tried.
func ListenArrives(ctx context.Context, pool *pgxpool.Pool, patience time.Duration) (arrives bool, why string, err error) {
	a, err := Ask(ctx, pool)
	if errors.Is(err, errShares) {
		return false, errShares.Error(), nil
	}
	if err != nil {
		return false, "", err
	}
	defer a.Close()
	if _, err := a.conn.Exec(ctx, "select pg_catalog.pg_notify($1, '')", a.reply); err != nil {
		return false, "", fmt.Errorf("notify ourselves: %w", err)
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = a.conn.Conn().WaitForNotification(waiting)
	switch {
	case err == nil:
		return true, "", nil
	case waiting.Err() != nil && ctx.Err() == nil:
		return false, fmt.Sprintf("not within %v", patience), nil
	}
	return false, "", fmt.Errorf("wait for a notification of our own: %w", err)
}
