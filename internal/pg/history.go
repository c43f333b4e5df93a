package pg

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

const (
	// countStep is how many counts one statement deletes, and attemptStep how many attempts one looks at.
	countStep   = 1000
	attemptStep = 5000
)

// Count implements worker.Store.
func (s *Store) Count(ctx context.Context, workerID string, rows []worker.Count) error {
	params := query.WriteCountsParams{WorkerID: workerID}
	for _, row := range rows {
		params.Minutes, params.Tasks = append(params.Minutes, timestamp(row.Minute)), append(params.Tasks, row.Task)
		params.Completed, params.Failed = append(params.Completed, row.Completed), append(params.Failed, row.Failed)
		params.Dead, params.Snoozed = append(params.Dead, row.Dead), append(params.Snoozed, row.Snoozed)
		params.Returned, params.Canceled = append(params.Returned, row.Returned), append(params.Canceled, row.Canceled)
		classes, counts := sparse(row.Run.In)
		params.RunSeconds = append(params.RunSeconds, row.Run.Sum.Seconds())
		params.RunClasses, params.RunCounts = append(params.RunClasses, classes), append(params.RunCounts, counts)
		classes, counts = sparse(row.Wait.In)
		params.WaitSeconds = append(params.WaitSeconds, row.Wait.Sum.Seconds())
		params.WaitClasses, params.WaitCounts = append(params.WaitClasses, classes), append(params.WaitCounts, counts)
	}
	if err := s.queries.WriteCounts(ctx, params); err != nil {
		return fmt.Errorf("write counts of jobs: %w", err)
	}
	return nil
}

// Progress implements worker.Store.
func (s *Store) Progress(ctx context.Context, rows []worker.Progress, over []wire.Lease) error {
	var params query.WriteProgressParams
	for _, row := range rows {
		params.Ids, params.Tokens = append(params.Ids, row.ID), append(params.Tokens, row.Token)
		params.Done, params.Total, params.Notes = append(params.Done, row.Done), append(params.Total, row.Total), append(params.Notes, row.Note)
	}
	params.Gone, params.GoneTokens = columns(over)
	if err := s.queries.WriteProgress(ctx, params); err != nil {
		return fmt.Errorf("write progress of jobs: %w", err)
	}
	return nil
}

// sparse returns the classes of a histogram that are not empty, and their counts, as array literals.
func sparse(in map[int16]int32) (classes, counts string) {
	var c, n strings.Builder
	for i, class := range slices.Sorted(maps.Keys(in)) {
		if i > 0 {
			c.WriteByte(',')
			n.WriteByte(',')
		}
		c.WriteString(strconv.Itoa(int(class)))
		n.WriteString(strconv.Itoa(int(in[class])))
	}
	return "{" + c.String() + "}", "{" + n.String() + "}"
}

// dropCounts deletes counts that are too old, and progress of attempts that are over, in small steps.
func (s *Store) dropCounts(ctx context.Context) error {
	return cmp.Or(s.inSteps(ctx, s.queries.DropCounts), s.inSteps(ctx, s.queries.DropProgress))
}

func (s *Store) inSteps(ctx context.Context, drop func(ctx context.Context, size int32) (dropped int32, err error)) error {
	for {
		sent := time.Now()
		step, cancel := context.WithTimeout(ctx, pageTimeout)
		dropped, err := drop(step, countStep)
		cancel()
		switch {
		case err != nil:
			return fmt.Errorf("delete old counts and progress: %w", err)
		case dropped < countStep || !s.sweep.rest(ctx, restFactor*time.Since(sent)):
			return nil
		}
	}
}

// checkCounts reports that the worker's role may not count: better when it starts than in the log
// every few seconds.
func (s *Store) checkCounts(ctx context.Context) error {
	if err := s.queries.WriteCounts(ctx, query.WriteCountsParams{}); err != nil {
		return fmt.Errorf("write counts of jobs: %w", err)
	}
	return s.Progress(ctx, nil, nil)
}

// keptColumns are what goes into the history, as the statements that end jobs are given it. A job
// without a task there does not.
type keptColumns struct {
	tasks, queues, keys, logs []string
	tookUs, agoUs             []int64
	any                       bool
}

func (k *keptColumns) add(record *worker.Record) {
	if record == nil {
		record = &worker.Record{}
	} else {
		k.any = true
	}
	k.tasks, k.queues, k.keys = append(k.tasks, record.Task), append(k.queues, record.Queue), append(k.keys, record.Key)
	k.tookUs, k.agoUs = append(k.tookUs, record.Took.Microseconds()), append(k.agoUs, record.Ago.Microseconds())
	k.logs = append(k.logs, record.Log)
}

// all returns the columns; empty ones if there is nothing in them.
func (k *keptColumns) all() (tasks, queues, keys []string, tookUs, agoUs []int64, logs []string) {
	if !k.any {
		return nil, nil, nil, nil, nil, nil
	}
	return k.tasks, k.queues, k.keys, k.tookUs, k.agoUs, k.logs
}

// keptOutcome is what the history says of jobs that were given back.
func keptOutcome(kind worker.OutcomeKind) string {
	switch kind {
	case worker.OutcomeSnoozed:
		return "snoozed"
	case worker.OutcomeCanceled:
		return "canceled"
	case worker.OutcomeCompleted, worker.OutcomeFailed, worker.OutcomeExhausted, worker.OutcomeReturned:
	}
	return "returned"
}

// noteHistory says of which tasks this worker keeps the history. Whoever ends jobs of them besides it
// goes by that, for a day.
func (s *Store) noteHistory(ctx context.Context) error {
	if len(s.history) == 0 {
		return nil
	}
	var params query.KeepHistoryParams
	for _, task := range slices.Sorted(maps.Keys(s.history)) {
		params.Tasks, params.RetentionSeconds = append(params.Tasks, task), append(params.RetentionSeconds, s.history[task].Seconds())
	}
	if err := s.queries.KeepHistory(ctx, params); err != nil {
		return fmt.Errorf("note tasks with history: %w", err)
	}
	return nil
}

// startHistory makes the partitions before the first attempt needs one.
func (s *Store) startHistory(ctx context.Context) error {
	if err := s.noteHistory(ctx); err != nil || len(s.history) == 0 {
		return err
	}
	if _, err := s.queries.HistoryUpkeep(ctx); err != nil {
		return fmt.Errorf("make partitions of the history: %w", err)
	}
	return nil
}

// keepHistory makes and drops partitions, and deletes attempts that are too old beside younger ones.
func (s *Store) keepHistory(ctx context.Context) error {
	step, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	upkeep, err := s.queries.HistoryUpkeep(step)
	if err != nil {
		return fmt.Errorf("make and drop partitions of the history: %w", err)
	}
	if err := s.queries.ForgetHistoryTasks(step); err != nil {
		return fmt.Errorf("forget tasks without history: %w", err)
	}
	for upkeep.Walk {
		sent := time.Now()
		step, cancel := context.WithTimeout(ctx, pageTimeout)
		page, err := s.queries.DropAttempts(step, query.DropAttemptsParams{After: s.oldest, Size: attemptStep})
		cancel()
		if err != nil {
			return fmt.Errorf("delete old attempts: %w", err)
		}
		if s.oldest = page.Last; page.Seen < attemptStep {
			s.oldest = 0
			return nil
		}
		if !s.sweep.rest(ctx, restFactor*time.Since(sent)) {
			return nil // the next one goes on
		}
	}
	return nil
}
