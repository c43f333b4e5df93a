package pg

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Complete implements worker.Store.
func (s *Store) Complete(ctx context.Context, leases []wire.Lease) ([]worker.Fate, error) {
	ids, tokens := columns(leases)
	params := query.CompleteJobsParams{Ids: ids, Tokens: tokens}
	var row query.CompleteJobsRow
	var err error
	if slices.ContainsFunc(leases, wire.Lease.Keyed) {
		var keyed query.CompleteKeyedJobsRow
		keyed, err = s.queries.CompleteKeyedJobs(ctx, query.CompleteKeyedJobsParams(params))
		row = query.CompleteJobsRow(keyed)
	} else {
		row, err = s.queries.CompleteJobs(ctx, params)
	}
	return s.completed(ctx, leases, row, err)
}

// CompleteRecorded implements worker.Store.
func (s *Store) CompleteRecorded(ctx context.Context, done []worker.Ended) ([]worker.Fate, error) {
	leases := make([]wire.Lease, len(done))
	var kept keptColumns
	outputs := make([]string, len(done))
	for i, d := range done {
		leases[i] = d.Lease
		if kept.add(d.Record); d.Record != nil {
			outputs[i] = string(d.Record.Output)
		}
	}
	ids, tokens := columns(leases)
	row, err := s.queries.CompleteRecordedJobs(ctx, query.CompleteRecordedJobsParams{
		Ids: ids, Tokens: tokens, KeptTasks: kept.tasks, KeptQueues: kept.queues, KeptKeys: kept.keys, TookUs: kept.tookUs, AgoUs: kept.agoUs,
		Outputs: outputs, Logs: kept.logs,
	})
	return s.completed(ctx, leases, query.CompleteJobsRow(row), err)
}

// completed turns the answer of a statement that completes jobs into fates.
func (s *Store) completed(ctx context.Context, leases []wire.Lease, row query.CompleteJobsRow, err error) ([]worker.Fate, error) {
	if err != nil {
		return nil, s.endFailed(ctx, fmt.Errorf("complete jobs: %w", err))
	}
	s.traces.end(leases...) // one that goes on keeps its row, because its job is there
	fates := make([]worker.Fate, len(leases))
	next := make(map[int32]int32, len(row.NextQueues)) // task by queue
	for i, queue := range row.NextQueues {
		next[queue] = row.NextTasks[i]
	}
	done := func(i int) { fates[i] = worker.Fate{Kind: worker.FateRecorded, Next: s.next(next[leases[i].QueueID])} }
	whole := int(row.Ended) == len(leases)
	if whole {
		for i := range leases {
			done(i)
		}
	}
	for _, ord := range row.Done {
		done(int(ord) - 1)
	}
	for _, ord := range row.Canceled {
		fates[ord-1].Kind = worker.FateCanceled
	}
	if whole {
		return fates, nil
	}
	return s.settle(ctx, leases, fates)
}

// Fail implements worker.Store.
func (s *Store) Fail(ctx context.Context, failed []worker.Ended) ([]worker.Fate, error) {
	leases := make([]wire.Lease, len(failed))
	params := query.FailJobsParams{}
	var kept keptColumns
	for i, f := range failed {
		leases[i] = f.Lease
		params.Errors = append(params.Errors, f.Text)
		params.DelaysUs = append(params.DelaysUs, f.Delay.Microseconds())
		params.Permanent = append(params.Permanent, f.Kind == worker.OutcomeExhausted)
		params.Payloads = append(params.Payloads, string(f.Payload))
		params.Reasons = append(params.Reasons, string(f.Reason))
		kept.add(f.Record)
	}
	params.KeptTasks, params.KeptQueues, params.KeptKeys, params.TookUs, params.AgoUs, params.Logs = kept.all()
	params.Ids, params.Tokens = columns(leases)
	s.traces.note(ctx, s.queries, failed)
	var rows []query.FailJobsRow
	canceled, err := s.failing(ctx, params.Ids, func(queries *query.Queries) (err error) {
		rows, err = queries.FailJobs(ctx, params)
		return err
	})
	if err != nil {
		err = fmt.Errorf("record failures: %w", err)
		if slices.ContainsFunc(params.Reasons, func(reason string) bool { return reason != "" }) {
			err = refusedLetters(err)
		}
		return nil, s.endFailed(ctx, err)
	}
	fates, err := settleRows(ctx, s, leases, rows)
	if err != nil {
		return nil, err
	}
	return s.findLetters(ctx, failed, tellCanceled(leases, fates, canceled))
}

// Release implements worker.Store.
func (s *Store) Release(ctx context.Context, released []worker.Ended) ([]worker.Fate, error) {
	leases := make([]wire.Lease, len(released))
	params := query.ReleaseJobsParams{}
	var kept keptColumns
	for i, r := range released {
		leases[i] = r.Lease
		delay := int64(-1)
		if r.Kind == worker.OutcomeSnoozed {
			delay = max(0, r.Delay.Microseconds())
		}
		params.DelaysUs = append(params.DelaysUs, delay)
		params.Outcomes, params.Errors = append(params.Outcomes, keptOutcome(r.Kind)), append(params.Errors, r.Text)
		kept.add(r.Record)
	}
	params.KeptTasks, params.KeptQueues, params.KeptKeys, params.TookUs, params.AgoUs, params.Logs = kept.all()
	params.Ids, params.Tokens = columns(leases)
	s.traces.note(ctx, s.queries, released)
	var rows []query.ReleaseJobsRow
	canceled, err := s.ending(ctx, params.Ids, func(queries *query.Queries) (err error) {
		rows, err = queries.ReleaseJobs(ctx, params)
		return err
	})
	if err != nil {
		return nil, s.endFailed(ctx, fmt.Errorf("give back jobs: %w", err))
	}
	fates, err := settleRows(ctx, s, leases, rows)
	if err != nil {
		return nil, err
	}
	return tellCanceled(leases, fates, canceled), nil
}

// Renew implements worker.Store.
func (s *Store) Renew(ctx context.Context, leases []wire.Lease) ([]worker.Fate, error) {
	var params query.RenewJobsParams
	params.Ids, params.Tokens = columns(leases)
	for _, lease := range leases {
		params.QueueIds = append(params.QueueIds, lease.QueueID)
		params.Claims = append(params.Claims, lease.Claim())
	}
	renewed, err := s.queries.RenewJobs(ctx, params)
	if err != nil {
		return nil, s.endFailed(ctx, fmt.Errorf("renew leases: %w", err))
	}
	fates := make([]worker.Fate, len(leases))
	for _, ord := range renewed {
		fates[ord-1].Kind = worker.FateRecorded
	}
	return s.settle(ctx, leases, fates)
}

// settleRows turns the rows of a statement into fates, and settles the other leases.
func settleRows[R query.FailJobsRow | query.ReleaseJobsRow](
	ctx context.Context, s *Store, leases []wire.Lease, rows []R,
) ([]worker.Fate, error) {
	fates := make([]worker.Fate, len(leases))
	for i := range rows {
		row := query.FailJobsRow(rows[i]) // the same columns
		fate := worker.Fate{Kind: worker.FateExhausted, Next: s.next(row.NextTask)}
		switch {
		case row.Superseded:
			fate.Kind = worker.FateSuperseded
		case row.Retry:
			fate.Kind = worker.FateRecorded
			fate.Due = max(time.Duration(row.DueUs)*time.Microsecond, time.Microsecond)
		}
		fates[row.Ord-1] = fate
	}
	return s.settle(ctx, leases, fates)
}

// next says whose task is first in line; 0: no job is due.
func (s *Store) next(task int32) worker.NextInQueue {
	if task == 0 {
		return worker.NextNone
	}
	if _, own := (*s.served.Load())[task]; own {
		return worker.NextOwn
	}
	return worker.NextForeign
}

// settle asks once about the leases that a statement passed over. Those that are lost leave their
// queue locked, if it still is, and nobody else would free it (R7).
func (s *Store) settle(ctx context.Context, leases []wire.Lease, fates []worker.Fate) ([]worker.Fate, error) {
	var ids []int64
	for i, fate := range fates {
		if fate.Kind == 0 {
			ids = append(ids, leases[i].ID)
		}
	}
	if len(ids) == 0 {
		return fates, nil
	}
	rows, err := s.queries.LeaseHolders(ctx, ids)
	if err != nil {
		return nil, s.unsettled(ctx, fmt.Errorf("ask for leases: %w", err))
	}
	holders := make(map[int64]string, len(rows))
	for _, row := range rows {
		holders[row.ID] = row.LockedBy.String
	}
	var free query.FreeQueuesParams
	for i, lease := range leases {
		if fates[i].Kind != 0 {
			continue
		}
		if holders[lease.ID] == lease.Token {
			fates[i].Kind = worker.FateBusy
			continue
		}
		fates[i].Kind = worker.FateLost
		if lease.QueueID != 0 {
			free.Ids = append(free.Ids, lease.QueueID)
			free.Claims = append(free.Claims, lease.Claim())
		}
	}
	if len(free.Ids) == 0 {
		return fates, nil
	}
	if err := s.queries.FreeQueues(ctx, free); err != nil {
		return nil, s.unsettled(ctx, fmt.Errorf("free queues of lost jobs: %w", err))
	}
	return fates, nil
}

// endFailed prepares the error of a statement that ends leases.
func (s *Store) endFailed(ctx context.Context, err error) error {
	s.suspectConnections(ctx)
	return refused(err)
}

// refusesRow reports whether the server has refused a statement for what a row holds.
func refusesRow(err error) bool {
	rejected, ok := errors.AsType[*wire.RejectedError](refused(err))
	return ok && rejected.Row
}

// unsettled is an error behind a statement that was applied: the whole is not refused, whatever it
// says.
func (s *Store) unsettled(ctx context.Context, err error) error {
	s.suspectConnections(ctx)
	return err
}

func columns(leases []wire.Lease) (ids []int64, tokens []string) {
	ids, tokens = make([]int64, len(leases)), make([]string, len(leases))
	for i, lease := range leases {
		ids[i], tokens[i] = lease.ID, lease.Token
	}
	return ids, tokens
}
