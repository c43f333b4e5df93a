package pg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

const (
	// buryBatch is how many dead letters one statement of a sweep makes, and maxBuried about how many
	// a sweep makes before it tells of them.
	buryBatch = 500
	maxBuried = 10_000
	// letterStep is how many dead letters one statement looks at that deletes some. expireRest is how
	// many times as long as such a step the deletion of old ones pauses after it.
	letterStep = 1000
	expireRest = 4
)

// checkLetters reports that the worker's role may not read dead letters: better when it starts than
// with each job that fails. Statements look for them also if the worker makes none.
func (s *Store) checkLetters(ctx context.Context) error {
	if _, err := s.queries.LettersOf(ctx, []int64{}); err != nil {
		return fmt.Errorf("look for dead letters: %w", err)
	}
	return nil
}

// refusedLetters marks an error of a statement that was to make dead letters. If the role may not, for
// a policy or a right that it has lost, that is their fault, and not the jobs': without a dead letter
// the outcome of a job can be recorded all the same (R19).
func refusedLetters(err error) error {
	if sqlstate.Of(err) == sqlstate.InsufficientRights {
		return &wire.RejectedError{Err: err, Row: true}
	}
	return err
}

// findLetters looks for jobs that were lost, and are the dead letters that an earlier try of their
// outcomes has made.
func (s *Store) findLetters(ctx context.Context, failed []worker.Ended, fates []worker.Fate) ([]worker.Fate, error) {
	var ids []int64
	for i, f := range failed {
		if f.Again && f.Reason != "" && fates[i].Kind == worker.FateLost {
			ids = append(ids, f.ID)
		}
	}
	if len(ids) == 0 {
		return fates, nil
	}
	rows, err := s.queries.LettersOf(ctx, ids)
	if err != nil {
		return nil, s.unsettled(ctx, fmt.Errorf("look for dead letters: %w", err))
	}
	letters := make(map[int64]query.LettersOfRow, len(rows))
	for _, row := range rows {
		letters[row.OriginalJobID] = row
	}
	for i, f := range failed {
		letter, ok := letters[f.ID]
		if f.Again && ok && fates[i].Kind == worker.FateLost && letter.FailureReason == string(f.Reason) && letter.LastError == f.Text {
			fates[i].Kind = worker.FateExhausted
		}
	}
	return fates, nil
}

// buryJobs makes dead letters of jobs that are locked with these tokens; "": by nobody.
func buryJobs(ctx context.Context, queries *query.Queries, rows query.BuryJobsParams) (dead []worker.DeadJob, err error) {
	buried, err := queries.BuryJobs(ctx, rows)
	if err != nil {
		return nil, refusedLetters(fmt.Errorf("make dead letters: %w", err))
	}
	for _, row := range buried {
		i := slices.Index(rows.Ids, row.ID)
		job := &wire.Job{
			Lease: wire.Lease{ID: row.ID, Token: rows.Tokens[i]}, Task: row.Task, Queue: row.Queue, Key: row.Key, Priority: row.Priority,
			RunAt: row.RunAt.Time, Attempt: int(row.Attempts), MaxAttempts: int(row.MaxAttempts),
		}
		dead = append(dead, worker.DeadJob{Job: job, Err: errors.New(row.Error), Reason: worker.Reason(rows.Reasons[i])})
	}
	return dead, nil
}

// buryFailed makes dead letters of jobs that a page of the sweep has found. Those that the server
// refuses are passed over, as by the sweep itself.
func (s *sweep) buryFailed(ctx context.Context, jobs []int64, swept *worker.Swept) error {
	bury := func(ids []int64) error {
		if s.refusals >= maxRefused {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, pageTimeout)
		defer cancel()
		dead, err := ask(ctx, s.in, func(q *query.Queries, ctx context.Context, ids []int64) ([]worker.DeadJob, error) {
			return buryJobs(ctx, q, query.BuryJobsParams{
				Ids: ids, Tokens: make([]string, len(ids)), Reasons: slices.Repeat([]string{string(worker.ReasonSwept)}, len(ids)),
				Verdicts: make([]string, len(ids)),
			})
		}, ids)
		if refusesRow(err) && len(ids) == 1 {
			s.refusals++
			err = fmt.Errorf("job %d: %w", ids[0], err)
		}
		swept.Dead = append(swept.Dead, dead...)
		return err
	}
	for batch := range slices.Chunk(jobs, buryBatch) {
		sent := time.Now()
		err := inHalves(batch, bury)
		if err != nil && !refusesRow(err) {
			return err
		}
		s.refused = cmp.Or(s.refused, err)
		if !s.rest(ctx, restFactor*time.Since(sent)) {
			return ctx.Err()
		}
	}
	return nil
}

// dropRequeued deletes the dead letters whose requeued jobs have succeeded, or are gone.
func (s *Store) dropRequeued(ctx context.Context) error {
	for after := int64(0); ; {
		sent := time.Now()
		step, cancel := context.WithTimeout(ctx, pageTimeout)
		page, err := s.queries.DropRequeued(step, query.DropRequeuedParams{After: after, Size: letterStep})
		cancel()
		switch {
		case err != nil:
			return fmt.Errorf("delete dead letters whose requeued jobs are gone: %w", err)
		case page.Seen < letterStep || !s.sweep.rest(ctx, restFactor*time.Since(sent)):
			return nil
		}
		after = page.Last
	}
}

// expiry is where the deletion of old dead letters goes on. What was deleted stays so, whatever
// becomes of the next step.
type expiry struct {
	after   query.NextLetterParams
	size    int32 // of the next step: smaller after one that took too long, or that the server refused
	refused error // the first of those that were passed over
}

func newExpiry() expiry {
	first := pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	return expiry{after: query.NextLetterParams{AfterAt: first}, size: letterStep}
}

// Expire implements worker.Store.
func (s *Store) Expire(ctx context.Context, age time.Duration) (expired worker.Expired, err error) {
	for more := true; more; {
		sent := time.Now()
		if err = s.expireStep(ctx, age, &expired); err != nil || expired.Done {
			break
		}
		more = s.sweep.rest(ctx, expireRest*time.Since(sent))
	}
	switch {
	case ctx.Err() != nil:
		err = nil // its time is over: the next call goes on
	case err != nil:
		err = fmt.Errorf("delete old dead letters: %w", err)
	}
	return expired, err
}

// expireStep deletes the next ones. One that the server refuses to delete is passed over.
func (s *Store) expireStep(ctx context.Context, age time.Duration, expired *worker.Expired) error {
	e := &s.expiry
	step, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	page, err := s.queries.ExpireLetters(step, query.ExpireLettersParams{
		AfterAt: e.after.AfterAt, AfterID: e.after.AfterID, AgeSeconds: age.Seconds(), Size: e.size,
	})
	late := step.Err() != nil || sqlstate.Of(err) == sqlstate.QueryCanceled
	switch {
	case err == nil:
	case e.size > 1 && (late || refusesRow(err)):
		e.size /= 2
		return nil
	case refusesRow(err):
		e.refused = cmp.Or(e.refused, err)
		next, err := s.queries.NextLetter(ctx, e.after)
		if err == nil && len(next) > 0 {
			e.after = query.NextLetterParams{AfterAt: next[0].FailedAt, AfterID: next[0].ID}
		}
		return err
	default:
		return err
	}
	expired.Letters += int(page.Expired)
	last := page.Seen < e.size
	e.after, e.size = query.NextLetterParams{AfterAt: page.LastAt, AfterID: page.LastID}, min(2*e.size, letterStep)
	if last {
		err, *e, expired.Done = e.refused, newExpiry(), true
	}
	return err
}
