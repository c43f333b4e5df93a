//go:build unix

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
)

// An effect is a transactional job: its handler writes a row into a table of the harness's own, and
// some enqueue a follow-up. Nothing in the table prevents a second row.

var (
	taskEffect = &backfill.Task[args]{Name: "effect", Timeout: 30 * time.Second, Backoff: backfill.FixedBackoff(time.Second)}
	taskFollow = &backfill.Task[args]{Name: "follow"}
)

// createEffects makes the table: which request, the job, and the run that wrote the row.
func (f *fleet) createEffects(ctx context.Context) error {
	return f.server.with(ctx, database, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `create table effects (n bigint not null, job bigint not null, proc int not null, run bigint not null, follow bigint not null);
			alter table effects owner to `+role)
		if err != nil {
			return fmt.Errorf("create the table of effects: %w", err)
		}
		return nil
	})
}

// effects writes down each row of the table.
func (f *fleet) effects(ctx context.Context) error {
	return f.server.with(ctx, database, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "select n, job, proc, run, follow from effects")
		if err != nil {
			return fmt.Errorf("read the effects: %w", err)
		}
		r := record{Op: opEffect}
		var follow int64
		_, err = pgx.ForEachRow(rows, []any{&r.N, &r.Job, &r.Count, &r.Run, &follow}, func() error {
			r.Ns = nil
			if follow > 0 {
				r.Ns = []int64{follow}
			}
			f.log.write(r)
			return nil
		})
		return err
	})
}

// effect enqueues effects: each fifth fails once, each third has a follow-up, and one in fifteen
// takes so long that it is often under way when something happens.
func (e *enqueuer) effect(s *source) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := withDeadline(ctx, s)
		defer cancel()
		return e.offers.make(ctx, record{Kind: kindEffect}, 1, func(ctx context.Context, n int64) error {
			a := args{N: n, Kind: kindEffect, Fails: s.random.IntN(5) == 0, Follow: s.random.IntN(3) == 0, Work: s.random.IntN(3)}
			if s.random.IntN(15) == 0 {
				a.Work = 500 + s.random.IntN(2500)
			}
			_, err := backfill.Enqueue(ctx, e.client, taskEffect, a)
			return err
		})
	}
}

// effect writes its row first, so that whatever goes wrong goes wrong after that. What it offers
// has no answer here: it is enqueued if the row that names it is there at the end.
func (h *handlers) effect(ctx context.Context, tx pgx.Tx, a args) error {
	r := record{N: a.N, Kind: a.Kind, Run: h.runs.Add(1)}
	return h.run(ctx, r, func(ctx context.Context) error {
		job := backfill.JobInfo(ctx)
		follow := int64(0)
		if a.Follow {
			follow = h.offers.next.Add(1) - 1
			h.log.write(record{Op: opOffered, N: follow, Kind: kindFollow})
		}
		if _, err := tx.Exec(ctx, "insert into effects values ($1, $2, $3, $4, $5)", a.N, job.ID, h.log.proc, r.Run, follow); err != nil {
			return fmt.Errorf("write the row: %w", err)
		}
		if a.Follow {
			if _, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), taskFollow, args{N: follow, Kind: kindFollow}); err != nil {
				return err
			}
		}
		if err := work(ctx, a.Work); err != nil {
			return err
		}
		if a.Fails && job.Attempt == 1 {
			return errOnPurpose
		}
		return nil
	})
}
