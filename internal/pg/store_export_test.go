package pg

import (
	"context"
	"log/slog"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
)

// RewriteClaims changes the texts of the store's later claims.
func (s *Store) RewriteClaims(rewrite func(string) string) {
	for _, size := range batchSizes {
		for _, which := range []*claimText{claimFree, claimFront, claimDeep} {
			s.claims.sized[sized{which, size}] = rewrite(s.claims.text(which, size))
		}
	}
}

// NextClaim names the text of the store's next claim.
func (s *Store) NextClaim() string {
	return map[*claimText]string{claimFree: "free", claimFront: "front", claimDeep: "deep"}[s.claims.which()]
}

// ClaimTexts are the texts of a full batch's claim, for the default schema.
func ClaimTexts() map[string]string {
	return map[string]string{
		"free":  withLimits(query.ClaimFree, batchSizes[len(batchSizes)-1]),
		"front": withLimits(query.ClaimFront, batchSizes[len(batchSizes)-1]),
		"deep":  withLimits(query.ClaimDeep, batchSizes[len(batchSizes)-1]),

		"free without flags":  withLimits(passing[claimFree].sql, batchSizes[len(batchSizes)-1]),
		"front without flags": withLimits(passing[claimFront].sql, batchSizes[len(batchSizes)-1]),
		"deep without flags":  withLimits(passing[claimDeep].sql, batchSizes[len(batchSizes)-1]),
	}
}

// WithTries limits how often the locks for deleting names are tried.
func (a *Admin) WithTries(n int) *Admin {
	a.lockTries = n
	return a
}

// ForgetTasks makes the next claim look up the ids of the store's tasks.
func (s *Store) ForgetTasks() { s.resolved = time.Time{} }

// EngineSession is what a worker's connections run with.
const EngineSession = engineSession

// BatchSizes are the limits that a claim can have.
var BatchSizes = batchSizes

const setting = "select current_setting($1)"

// Setting returns what a parameter is in the store's sessions.
func (s *Store) Setting(ctx context.Context, name string) (value string, err error) {
	err = s.pool.QueryRow(ctx, setting, name).Scan(&value)
	return value, err
}

// Setting returns what a parameter is in the session that has sent notifications.
func (n *Nudges) Setting(ctx context.Context, name string) (value string, err error) {
	err = n.conn.QueryRow(ctx, setting, name).Scan(&value)
	return value, err
}

// Connections is how many connections a store's pool has, with those that are being closed.
func (s *Store) Connections() int { return int(s.pool.Stat().TotalConns()) }

// Clock knows how far the server's clock is ahead.
type Clock struct{ clock clock }

// NewClock returns one that logs.
func NewClock(logger *slog.Logger) *Clock { return &Clock{clock{logger: logger}} }

// Measure is clock.measure; it returns the difference.
func (c *Clock) Measure(sent, received, server time.Time) time.Duration {
	c.clock.measure(sent, received, server)
	return c.clock.skew
}

// CloseTimeout limits what is sent to a server before a connection to it is dropped.
const CloseTimeout = closeTimeout

// WithPieces bounds the jobs of one statement.
func (i *Inserter) WithPieces(jobs int) *Inserter {
	i.bounds.jobs = jobs
	return i
}
