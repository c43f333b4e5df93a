package pg

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
)

// deadAfter is how long a worker that lives is silent at most: then the others declare it dead.
const deadAfter = 30 * time.Second

// WorkerState is what is known of the worker that a value of locked_by belongs to.
type WorkerState struct {
	ID           string
	Suspects     bool // it is no worker: jobs wait for a trial
	Known        bool // it is a Go worker with heartbeats; whether another lives cannot be told
	Alive        bool // it was not declared dead, and its last heartbeat is no older than 30 seconds
	Host         string
	Pid          int
	Silent       time.Duration // since its last heartbeat
	Jobs, Queues int           // that it has locked
}

// WorkerState returns what is known of the worker that a value of locked_by belongs to.
func (a *Admin) WorkerState(ctx context.Context, lockedBy string) (state WorkerState, err error) {
	defer func() { err = a.settings.explainWork(err) }()
	var tokens bool // it locks with values that begin with its id
	if cohort, ok := wire.CohortOf(lockedBy); ok {
		state.ID, state.Suspects, tokens = "backfill-suspect."+cohort, true, true
	} else {
		if state.ID, tokens, err = a.findWorker(ctx, lockedBy); err != nil {
			return state, err
		}
		tokens = tokens || wire.IsWorkerID(state.ID)
	}
	err = a.in(ctx, func(ctx context.Context, db query.DBTX) error {
		row, err := query.New(db).WorkerState(ctx, state.ID)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		state.Host, state.Pid, state.Known = row.Host, int(row.Pid), row.Beats
		state.Silent = time.Duration(row.SilentSeconds * float64(time.Second)).Truncate(time.Second)
		state.Alive = row.Beats && !row.Dead && state.Silent <= deadAfter
		locks, err := query.New(db).WorkerLocks(ctx, query.WorkerLocksParams{ID: state.ID, Ours: tokens})
		state.Jobs, state.Queues = int(locks.Jobs), int(locks.Queues)
		return err
	})
	return state, err
}
