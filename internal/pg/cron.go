package pg

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

var _ worker.CronStore = (*Store)(nil)

// KnownCrontabs implements worker.CronStore. What it does not see, it adds, and then reads again:
// between the two statements, another process can have added it, or this role have got the right to
// see it.
func (s *Store) KnownCrontabs(ctx context.Context, identifiers []string, start time.Time) (map[string]worker.KnownCrontab, error) {
	known, err := s.knownCrontabs(ctx, identifiers)
	if err != nil || len(known) == len(identifiers) {
		return known, err
	}
	err = s.queries.AddCrontabs(ctx, query.AddCrontabsParams{Identifiers: identifiers, Start: pgtype.Timestamptz{Time: start, Valid: true}})
	if err != nil {
		return nil, fmt.Errorf("add known crontabs: %w", err)
	}
	return s.knownCrontabs(ctx, identifiers)
}

func (s *Store) knownCrontabs(ctx context.Context, identifiers []string) (map[string]worker.KnownCrontab, error) {
	rows, err := s.queries.KnownCrontabs(ctx, identifiers)
	if err != nil {
		return nil, fmt.Errorf("read known crontabs: %w", err)
	}
	known := make(map[string]worker.KnownCrontab, len(rows))
	for _, row := range rows {
		known[row.Identifier] = worker.KnownCrontab{KnownSince: row.KnownSince.Time, LastExecution: row.LastExecution.Time}
	}
	return known, nil
}

// Tick implements worker.CronStore. It is the peer's one statement in two steps of a transaction,
// because the jobs are inserted by our own statements: add_job notifies inside of the transaction
// (R17), and loses a keyed job that a worker takes meanwhile.
func (s *Store) Tick(ctx context.Context, tick time.Time, identifiers []string, jobs []wire.Spec) (scheduled int, err error) {
	err = s.conns.within(ctx, func(ctx context.Context, tx pgx.Tx) error {
		won, err := query.New(renderer{tx, s.claims.texts}).TickCrontabs(ctx, query.TickCrontabsParams{
			Identifiers: identifiers, Tick: pgtype.Timestamptz{Time: tick, Valid: true},
		})
		if err != nil {
			return fmt.Errorf("record tick: %w", err)
		}
		var specs []wire.Spec
		for i, identifier := range identifiers {
			k := slices.IndexFunc(won, func(row query.TickCrontabsRow) bool { return row.Identifier == identifier })
			if k < 0 {
				continue
			}
			spec := jobs[i]
			if now := won[k].At.Time; spec.RunAt.After(now) { // the server's clock is behind: it is due now
				spec.RunAt = now
			}
			specs = append(specs, spec)
		}
		if scheduled = len(specs); scheduled == 0 {
			return nil
		}
		inserter := NewInserter(s.pool, s.settings.Schema, schema.WritesTables)
		inserter.ReadTimeFrom(s.settings.Clock)
		_, err = inserter.InsertTx(ctx, tx, specs)
		return err
	})
	if err == nil {
		return scheduled, nil
	}
	if _, dropped := errors.AsType[*droppedError](err); dropped || refusesRow(err) {
		return 0, &wire.RejectedError{Err: err, Row: true}
	}
	if rejected, ok := errors.AsType[*wire.RejectedError](err); ok { // by the server, but not for what a job holds
		err = rejected.Err
	}
	return 0, err
}
