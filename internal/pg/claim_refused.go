package pg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

const (
	// avoidFor is how long claims pass over jobs that the server has refused to lock, for what their
	// rows hold: a trigger of the application's raised an error. Each job that was tried again alone
	// would cost a claim.
	avoidFor = time.Minute
	// maxAvoided is how many jobs claims pass over. With more, it is no longer a few rows' fault.
	maxAvoided = 100
)

// avoided are jobs that claims pass over.
type avoided struct {
	ids   []int64
	until time.Time
}

// now returns the ids, never nil, which pgx would send as NULL.
func (a *avoided) now(now time.Time) []int64 {
	if now.After(a.until) {
		a.ids = []int64{}
	}
	return a.ids
}

// avoidRefused finds out which jobs the server refuses to lock, after a claim that it refused for
// what a row holds. It reports whether it has found any: then a claim that passes over them may
// succeed.
func (s *Store) avoidRefused(ctx context.Context, conn *pgx.Conn, request worker.ClaimRequest) bool {
	known := s.claims.avoided.now(time.Now())
	search := refusedSearch{token: wire.ClaimToken(request.WorkerID, request.Number), room: maxAvoided - len(known)}
	err := s.sessions.within(ctx, conn, func(tx pgx.Tx) error {
		queries := query.New(renderer{tx, s.claims.texts})
		ids, err := queries.FirstJobs(ctx, query.FirstJobsParams{Tasks: s.claims.taskIDs, Known: known})
		if err != nil {
			return err
		}
		if err := search.in(ctx, tx, queries, ids); err != nil {
			return err
		}
		return errUndo
	})
	if !errors.Is(err, errUndo) || len(search.found) == 0 {
		return false
	}
	*s.claims.avoided = avoided{ids: append(known, search.found...), until: time.Now().Add(avoidFor)}
	s.logger.LogAttrs(ctx, slog.LevelError, "the database refuses to lock jobs for what their rows hold; they are passed over for a minute",
		slog.Int("jobs", len(search.found)), slog.Any("job_ids", search.found[:min(len(search.found), 10)]), slog.Any("error", search.err))
	return true
}

// errUndo rolls back what only tried.
var errUndo = errors.New("nothing is to be changed")

// refusedSearch looks for jobs that the server refuses to lock.
type refusedSearch struct {
	token string
	room  int // how many it may find
	found []int64
	err   error // of the first
}

// in tries jobs together, and in halves if that is refused.
func (r *refusedSearch) in(ctx context.Context, tx pgx.Tx, queries *query.Queries, ids []int64) error {
	if len(ids) == 0 || len(r.found) >= r.room {
		return nil
	}
	err := pgx.BeginFunc(ctx, tx, func(pgx.Tx) error { // a savepoint
		if err := queries.LockJobs(ctx, query.LockJobsParams{Ids: ids, Token: r.token}); err != nil {
			return err
		}
		return errUndo
	})
	switch {
	case errors.Is(err, errUndo):
		return nil
	case !refusesRow(err):
		return fmt.Errorf("look for jobs that cannot be locked: %w", err)
	case len(ids) == 1:
		r.found = append(r.found, ids[0])
		if r.err == nil {
			r.err = err
		}
		return nil
	}
	half := len(ids) / 2
	if err := r.in(ctx, tx, queries, ids[:half]); err != nil {
		return err
	}
	return r.in(ctx, tx, queries, ids[half:])
}
