package pg

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/enqueue"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// RewriteClaims changes the texts of the store's later claims.
func (s *Store) RewriteClaims(rewrite func(string) string) {
	for _, kind := range claimTexts {
		for _, text := range kind {
			s.claims.texts.to.Load().texts.Store(text, rewrite(s.claims.texts.render(text)))
		}
	}
}

// RewriteSweeps changes the texts of the store's later sweeps.
func (s *Store) RewriteSweeps(rewrite func(string) string) {
	for _, text := range []string{query.TakeTurn, query.SweepJobs, query.SweepQueues} {
		s.claims.texts.to.Load().texts.Store(text, rewrite(s.claims.texts.render(text)))
	}
}

// Rewrite changes the text of one of the store's later statements.
func (s *Store) Rewrite(text string, rewrite func(string) string) {
	s.claims.texts.to.Load().texts.Store(text, rewrite(s.claims.texts.render(text)))
}

// RestBy replaces the pauses of the store's sweeps.
func (s *Store) RestBy(rest func(time.Duration) (goOn bool)) {
	s.sweep.rest = func(_ context.Context, d time.Duration) bool { return rest(d) }
}

// ForgetClaims makes the store's next claim look everywhere.
func (s *Store) ForgetClaims() { s.claims.forget() }

// SearchedLongAgo makes the store's next search one that follows a long pause.
func (s *Store) SearchedLongAgo() { s.claims.search.at = time.Time{} }

// PauseAfter returns how long full claims pause when so many in a row have timed out.
func PauseAfter(timeouts int, each time.Duration) time.Duration {
	m, sent := noMarks(), time.Now()
	for range timeouts {
		m.timedOut(sent, each, false)
	}
	return m.nextFull().Sub(sent)
}

var claimNames = [...]string{claimFree: "free", claimFront: "front", claimDeep: "deep", claimScan: "scan"}

// NextClaim names the text of the store's next claim with room for jobs of queues.
func (s *Store) NextClaim() string {
	return claimNames[s.claims.kind(worker.ClaimRequest{Serial: 1}, s.claims.marks.fullClaimIsDue(time.Now()))]
}

// ClaimTexts are the claim's texts, for the default schema.
func ClaimTexts() map[string]string {
	texts := make(map[string]string)
	for kind, name := range claimNames {
		texts[name], texts[name+" without flags"] = claimTexts[kind][0], claimTexts[kind][1]
	}
	return texts
}

// WithTries limits how often the locks for deleting names are tried.
func (a *Admin) WithTries(n int) *Admin {
	a.lockTries = n
	return a
}

// WithLimit limits the statements whose context has no deadline.
func (a *Admin) WithLimit(limit time.Duration) *Admin {
	a.limit = limit
	return a
}

// ForgetTasks makes the next claim look up the ids of the store's tasks.
func (s *Store) ForgetTasks() { s.resolved, s.pauses.read = time.Time{}, time.Time{} }

// EngineSession is what a worker's connections run with.
var EngineSession = engineSession

const setting = "select current_setting($1)"

// Setting returns what a parameter is in the store's sessions.
func (s *Store) Setting(ctx context.Context, name string) (value string, err error) {
	err = s.conns.QueryRow(ctx, setting, name).Scan(&value)
	return value, err
}

// Setting returns what a parameter is in the session that has sent notifications.
func (n *Nudges) Setting(ctx context.Context, name string) (value string, err error) {
	err = n.conn.QueryRow(ctx, setting, name).Scan(&value)
	return value, err
}

// Connections is how many connections a store's pool has, with those that are being closed.
func (s *Store) Connections() int { return int(s.pool.Stat().TotalConns()) }

// Exhaust takes all connections of the store's pool, and returns what gives one back.
func (s *Store) Exhaust(ctx context.Context) (giveBack func(), err error) {
	for range workerConnections {
		conn, err := s.pool.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		giveBack = conn.Release
	}
	return giveBack, nil
}

// DropConnections closes the connections of the store's pool that are not in use.
func (s *Store) DropConnections() { s.pool.Reset() }

// Clock knows how far the server's clock is ahead.
type Clock struct{ clock clock }

// NewClock returns one that logs.
func NewClock(logger *slog.Logger) *Clock { return &Clock{clock{logger: logger}} }

// Measure is clock.measure; it returns the difference.
func (c *Clock) Measure(sent, received, server time.Time) time.Duration {
	c.clock.measure(sent, received, server)
	return c.clock.skew
}

// Now is clock.Now.
func (c *Clock) Now() time.Time { return c.clock.Now() }

// ForgetClock forgets the difference that was measured.
func (s *Store) ForgetClock() {
	c := &s.sessions.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skew = 24 * time.Hour
}

// ClockSkew returns how far the server's clock is ahead.
func (s *Store) ClockSkew() time.Duration {
	c := &s.sessions.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.skew
}

// CloseTimeout limits what is sent to a server before a connection to it is dropped.
const CloseTimeout = closeTimeout

// ErrNoAnswer is the end of our own limit.
var ErrNoAnswer = enqueue.ErrNoAnswer

// WithPieces bounds the jobs of one statement.
func (i *Inserter) WithPieces(jobs int) *Inserter {
	i.bounds.jobs = jobs
	return i
}

// InsertAll inserts under a context of its own.
func (i *Inserter) InsertAll(
	ctx context.Context, specs []wire.Spec, notify enqueue.Piggyback,
) ([]*wire.Job, bool, error) {
	limited := i.limits.NewContext(ctx)
	defer limited.Leave()
	return i.Insert(limited, specs, notify)
}

// CountPages is Count with another bound.
func CountPages(ctx context.Context, a *Admin, limit int64) ([]TaskCount, bool, error) {
	defer func(usual int64) { a.pages = usual }(a.pages)
	a.pages = limit
	return a.Count(ctx)
}

// EndPulse has the server end the session of a store's heartbeats.
func EndPulse(t *testing.T, s *Store) {
	t.Helper()
	if s.pulse.conn == nil {
		t.Fatal("there is no session")
	}
	if s.Sessions().Pooled { // the server knows nothing of our sessions
		if err := s.pulse.conn.PgConn().Conn().Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	if _, err := s.pool.Exec(t.Context(), "select pg_terminate_backend($1)", int64(s.pulse.conn.PgConn().PID())); err != nil { //nolint:gosec // a pid
		t.Fatal(err)
	}
}

// ExpirePulse ends the life time of a store's session of heartbeats.
func ExpirePulse(s *Store) { s.pulse.expires = time.Now() }

// WaitForLocks replaces how long changes of dead letters wait for a lock.
func (a *Admin) WaitForLocks(limit time.Duration) { a.lockWait = limit }

// CountLetters replaces how many dead letters are counted.
func (a *Admin) CountLetters(n int) { a.letters = n }

// RequeueInDoubt requeues a dead letter after a transaction that may have requeued it as this job.
func (a *Admin) RequeueInDoubt(ctx context.Context, place DeadLetterPlace, jobID int64) (*DeadLetterOutcome, error) {
	act := letterAct{true, query.RequeueDeadLetter, func(p DeadLetterPlace) []any { return []any{nullText(""), p.ID, p.FailedAt} }}
	return a.actOnOne(ctx, place, act, map[int64]int64{place.ID: jobID})
}

// Settle says what became of a job's transaction with this id, whose COMMIT has ended with an
// error.
func (s *Store) Settle(ctx context.Context, lease wire.Lease, xid int64, err error) error {
	j := &JobTx{owner: &JobTransactions{store: s}, lease: lease, ctx: ctx}
	return j.settle(err, guarded{CompleteInTxRow: query.CompleteInTxRow{Xid: xid}})
}

// LastRows is lastRows.
func LastRows(ctx context.Context, conn *pgx.Conn, statements string, columns ...int) ([][]string, error) {
	return lastRows(ctx, conn, statements, columns...)
}

// ErrOutOfStep is errOutOfStep.
var ErrOutOfStep = errOutOfStep
