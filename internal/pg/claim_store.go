package pg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

const (
	slowClaim    = time.Second // a claim that takes longer to find its jobs is said
	slowLogEvery = time.Minute
	// holderTimeout bounds the question who keeps vacuum from its work: without an answer, nothing
	// is said.
	holderTimeout = time.Second
)

// Claim implements worker.Store.
func (s *Store) Claim(ctx context.Context, request worker.ClaimRequest) (worker.Claimed, error) {
	if time.Since(s.resolved) >= resolveEvery {
		err := s.resolve(ctx)
		_, hidden := errors.AsType[*hiddenError](err)
		if hidden || err == nil && s.hidden {
			// Outcomes of jobs that were hidden have been taken for lost leases. As after a claim whose
			// answer was lost, the worker looks for rows that it does not know of: also at the end.
			s.hidden = hidden
			return worker.Claimed{}, cmp.Or(err, errWereHidden)
		}
		if err != nil {
			s.suspectConnections(ctx)
			return worker.Claimed{}, &wire.RejectedError{Err: err} // no claim was made
		}
	}
	if time.Since(s.pauses.read) >= pausesEvery {
		if err := s.readPauses(ctx); err != nil {
			s.suspectConnections(ctx)
			return worker.Claimed{}, &wire.RejectedError{Err: err}
		}
	}
	s.serve(request.Only)
	s.forbidden = request.Forbidden
	conn, err := s.conns.acquire(ctx)
	if err != nil {
		s.suspectConnections(ctx)
		return worker.Claimed{}, &wire.RejectedError{Err: fmt.Errorf("claim jobs: %w", err)} // no claim was made
	}
	defer conn.Release()
	db := s.sessions.over(conn.Conn())
	lane := s.lane(request)
	claimed, canceling, looked, err := lane.claim(ctx, db, request)
	if refusesRow(err) && s.avoidRefused(ctx, conn.Conn(), request) {
		claimed, canceling, looked, err = lane.claim(ctx, db, request)
	}
	if err == nil && canceling && len(claimed.Jobs) > 0 {
		// Whoever has released one of these does not know of requests. Without an answer they count as
		// those of a claim whose answer was lost: nothing of it starts, and it is all given back.
		err = s.sortOut(ctx, query.New(renderer{db, s.claims.texts}), &claimed)
	}
	if err == nil {
		s.traces.read(ctx, query.New(renderer{db, s.claims.texts}), claimed.Jobs)
	}
	stopping := errors.Is(ctx.Err(), context.Canceled)
	if looked > slowClaim && !stopping && time.Since(s.saidSlow) >= slowLogEvery {
		s.saidSlow = time.Now()
		if err == nil {
			s.saySlow(ctx, looked)
		} else { // the database may not answer that either: the next claim does not wait for it
			go s.saySlow(context.WithoutCancel(ctx), looked)
		}
	}
	if err != nil {
		s.resolved = time.Time{} // the schema may have changed
		s.suspectConnections(ctx)
		return worker.Claimed{}, refused(err)
	}
	if len(s.pauses.tasks)+len(s.pauses.queues) > 0 {
		claimed.Reread = max(pausesEvery-time.Since(s.pauses.read), time.Millisecond)
	}
	claimed.MoreTransactional = s.keptOut(request, claimed)
	return claimed, nil
}

// resolve looks up what claims depend on and others can change.
func (s *Store) resolve(ctx context.Context) error {
	if _, err := s.taskIDs(ctx); err != nil {
		return err
	}
	tables, err := s.visible(ctx)
	if err != nil {
		return err
	}
	s.resolved = time.Now()
	s.claims.indexed, s.plain.indexed = tables.Indexed, tables.Indexed
	return nil
}

// visible returns the state of the tables, or a hiddenError: what is not there may be hidden.
func (s *Store) visible(ctx context.Context) (query.StateOfTablesRow, error) {
	tables, err := s.queries.StateOfTables(ctx, s.settings.Schema)
	if err != nil {
		return tables, fmt.Errorf("look at the state of the tables: %w", err)
	}
	if len(tables.Hidden) > 0 {
		return tables, &hiddenError{role: s.settings.config.ConnConfig.User, tables: tables.Hidden}
	}
	return tables, nil
}

var errWereHidden = errors.New("row level security has hidden rows until now: what is locked is looked at first")

// hiddenError says that a role has lost its policies.
type hiddenError struct {
	role   string
	tables []string
}

func (e *hiddenError) Error() string {
	return fmt.Sprintf("row level security hides the rows of %s from role %q", strings.Join(e.tables, ", "), e.role)
}

// LogTo says where the store logs; slog.Default() without it. Call it before the first claim.
func (s *Store) LogTo(logger *slog.Logger) { s.logger = logger }

// saySlow logs that a claim took long, and who keeps vacuum from removing dead rows, which is the
// usual reason.
func (s *Store) saySlow(ctx context.Context, looked time.Duration) {
	asking, cancel := context.WithTimeout(ctx, holderTimeout)
	defer cancel()
	holder, err := s.queries.OldestSnapshot(asking)
	if err != nil {
		return // it was not the search: the database does not answer
	}
	const slow = "finding jobs took long"
	took := slog.Duration("took", looked)
	if holder.Holder == "" {
		s.logger.LogAttrs(ctx, slog.LevelWarn, slow, took)
		return
	}
	s.logger.LogAttrs(ctx, slog.LevelWarn, slow+", probably because of deleted rows that vacuum may not remove: "+
		"end the transaction or drop the slot that is oldest", took,
		slog.String("oldest_snapshot", holder.Holder), slog.Int64("transactions_since", holder.Age))
}

// Advance makes jobs of this worker's tasks due that are scheduled for later: those of the earliest
// second, in their order, apart from the jobs with these ids, and from what the last claim would
// have passed over. It reports whether there were any. It must not run beside a Claim.
func (s *Store) Advance(ctx context.Context, apartFrom []int64) (bool, error) {
	moved, err := s.queries.AdvanceJobs(ctx, query.AdvanceJobsParams{
		Tasks: s.claims.taskIDs, ApartFrom: apartFrom, Forbidden: append([]string{}, s.forbidden...),
	})
	s.forget() // the jobs are before the marks now
	return moved > 0, err
}
