package pg

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/conviction"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// judgment is what becomes of some jobs that dead workers held. It is decided and done in one
// transaction, so that a rescuer that dies leaves either.
type judgment struct {
	queries *query.Queries
	settle  time.Duration
	rulings map[int64]ruling
}

type ruling struct {
	conviction.Ruling
	held query.HeldJobsRow
}

// judge decides about jobs and does it. It reports what it has done, and returns the ids of the
// jobs with which it is done: the others are somebody else's for the moment, or too early to judge.
// Without letters what fails for good stays in its row.
func (s *Store) judge(
	ctx context.Context, db query.DBTX, request worker.RescueRequest, jobs []int64, letters bool,
) (rescued worker.Rescued, done []int64, err error) {
	j := judgment{queries: query.New(db), settle: request.Settle, rulings: make(map[int64]ruling, len(jobs))}
	held, err := j.queries.HeldJobs(ctx, query.HeldJobsParams{
		Ids: request.IDs, Jobs: jobs, SettleSeconds: request.Settle.Seconds(),
	})
	if err != nil {
		return rescued, nil, err
	}
	// The rows are locked now: who requests the end of one of these jobs later waits, and finds it
	// released.
	locked, tokens := make([]int64, len(held)), make([]string, len(held))
	for i, row := range held {
		locked[i], tokens[i] = row.ID, row.Token
	}
	if rescued.Canceled, err = endCanceled(ctx, j.queries, locked, tokens); err != nil {
		return worker.Rescued{}, nil, fmt.Errorf("end cancelled jobs: %w", err)
	}
	ended := make(map[int64]bool, len(rescued.Canceled))
	for _, job := range rescued.Canceled {
		ended[job.ID], done = true, append(done, job.ID)
	}
	waiting, err := j.queries.Requested(ctx, locked) // for the row of their queue
	if err != nil {
		return rescued, nil, fmt.Errorf("look for requests to cancel jobs: %w", err)
	}
	for _, row := range held {
		if ended[row.ID] || slices.Contains(waiting.Jobs, row.ID) {
			continue
		}
		row.Letters = row.Letters && letters
		if err := j.rule(ctx, row); err != nil {
			return rescued, nil, err
		}
	}
	if err := j.record(ctx); err != nil {
		return rescued, nil, fmt.Errorf("record crashes: %w", err)
	}
	more, judged, err := j.carryOut(ctx)
	if err != nil {
		return worker.Rescued{}, nil, err
	}
	rescued.Add(more)
	return rescued, append(done, judged...), nil
}

// rule decides about one job.
func (j *judgment) rule(ctx context.Context, row query.HeldJobsRow) error {
	death := conviction.Death{Notice: row.Notice, Held: int(row.HeldTogether)}
	if row.Tried && death.Held == 1 && !death.Notice {
		if row.Unsettled {
			return nil // a worker may have died with this one of which nobody knows yet
		}
		from, to := conviction.Around(0, row.BeatAt.Time.Sub(row.Began.Time)+beatEvery)
		var err error
		death.Disturbed, err = j.queries.Disturbed(ctx, query.DisturbedParams{
			WorkerID: row.WorkerID, JobID: row.ID, SettleSeconds: j.settle.Seconds(),
			Since: timestamp(row.Began.Time.Add(from)), Until: timestamp(row.Began.Time.Add(to)),
		})
		if err != nil {
			return fmt.Errorf("look for other crashes: %w", err)
		}
	}
	lease := wire.Lease{ID: row.ID, Token: row.Token}
	held := conviction.Held{
		Lease: conviction.Lease{
			Attempt: lease.Attempt(), Attempts: int(row.Attempts), MaxAttempts: int(row.MaxAttempts),
			Keyed: lease.Keyed(), HasKey: row.Key != "",
		},
		Tried:  row.Tried,
		Record: conviction.Record{Alone: int(row.Alone)},
	}
	for _, age := range row.Ages {
		held.Record.Ages = append(held.Record.Ages, seconds(age))
	}
	j.rulings[row.ID] = ruling{death.Judge(held), row}
	return nil
}

// beatEvery is how long after its last heartbeat a worker may have died.
const beatEvery = 5 * time.Second

// record adds what the deaths say to the records of the jobs.
func (j *judgment) record(ctx context.Context) error {
	var rows query.RecordCrashesParams
	for _, id := range j.with(func(r ruling) bool { return r.Present || r.Verdict == conviction.Park }) {
		r := j.rulings[id]
		age := time.Duration(-1)
		if r.Present {
			age = max(0, r.held.BeatAt.Time.Sub(r.held.Began.Time))
		}
		convicted := ""
		if r.Verdict == conviction.Convict {
			convicted = r.held.Task
		}
		rows.Jobs, rows.WorkerIds, rows.Tokens = append(rows.Jobs, id), append(rows.WorkerIds, r.held.WorkerID), append(rows.Tokens, r.held.Token)
		rows.Began, rows.AgesUs = append(rows.Began, r.held.Began), append(rows.AgesUs, age.Microseconds())
		rows.Alone, rows.Convicted = append(rows.Alone, r.Alone), append(rows.Convicted, convicted)
		rows.Keys = append(rows.Keys, r.held.Key)
	}
	if len(rows.Jobs) == 0 {
		return nil
	}
	return j.queries.RecordCrashes(ctx, rows)
}

// with returns the jobs of some rulings, by id.
func (j *judgment) with(which func(ruling) bool) (ids []int64) {
	for id, r := range j.rulings {
		if which(r) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// carryOut does what was decided. done are the jobs whose rows have changed.
func (j *judgment) carryOut(ctx context.Context) (rescued worker.Rescued, done []int64, err error) {
	released, err := j.run(conviction.Release, func(ids []int64) ([]int64, error) {
		return j.queries.ReleaseHeld(ctx, query.ReleaseHeldParams{Jobs: ids, Error: diedText})
	})
	if err != nil {
		return rescued, nil, err
	}
	parked, err := j.run(conviction.Park, func(ids []int64) ([]int64, error) { return parkJobs(ctx, j.queries, ids, j.tokens(ids)) })
	if err != nil {
		return rescued, nil, err
	}
	dropped, err := j.run(conviction.Drop, func(ids []int64) (dropped []int64, err error) {
		dropped, rescued.Queues, err = dropJobs(ctx, j.queries, ids, j.tokens(ids))
		return dropped, err
	})
	if err != nil {
		return rescued, nil, err
	}
	rescued.Jobs, rescued.Parked = j.jobs(released), j.jobs(parked)
	done = slices.Concat(released, parked, dropped)
	for _, end := range []finalVerdict{
		{conviction.Crash, worker.ErrCrashed, worker.ReasonCrashed},
		{conviction.Interrupt, worker.ErrInterrupted, worker.ReasonInterrupted},
		{conviction.Convict, worker.ErrConvicted, worker.ReasonCrashed},
	} {
		dead, err := j.end(ctx, end, &rescued)
		if err != nil {
			return rescued, nil, err
		}
		done = append(done, dead...)
		if end.verdict == conviction.Convict {
			if rescued.Paused, err = j.convicted(ctx, dead); err != nil {
				return rescued, nil, err
			}
		}
	}
	return rescued, done, nil
}

// finalVerdict is one by which jobs fail for good.
type finalVerdict struct {
	verdict conviction.Verdict
	cause   error
	reason  worker.Reason
}

// end ends jobs for good: as dead letters, or, where the workers that held them make none, in their
// rows. It returns which it has ended. The others have gone back to a dead letter that somebody has
// locked.
func (j *judgment) end(ctx context.Context, end finalVerdict, rescued *worker.Rescued) (dead []int64, err error) {
	exhausted, err := j.run(end.verdict, func(ids []int64) ([]int64, error) {
		ids = slices.DeleteFunc(ids, func(id int64) bool { return j.rulings[id].held.Letters })
		return j.queries.ExhaustHeld(ctx, query.ExhaustHeldParams{
			Jobs: ids, Verdicts: slices.Repeat([]string{end.cause.Error()}, len(ids)),
		})
	})
	if err != nil {
		return nil, err
	}
	buried, err := j.run(end.verdict, func(ids []int64) (buried []int64, err error) {
		ids = slices.DeleteFunc(ids, func(id int64) bool { return !j.rulings[id].held.Letters })
		letters, err := buryJobs(ctx, j.queries, query.BuryJobsParams{
			Ids: ids, Tokens: j.tokens(ids), Reasons: slices.Repeat([]string{string(end.reason)}, len(ids)),
			Verdicts: slices.Repeat([]string{end.cause.Error()}, len(ids)),
		})
		for _, letter := range letters {
			buried = append(buried, letter.ID)
		}
		return buried, err
	})
	if err != nil {
		return nil, err
	}
	for _, job := range j.jobs(exhausted) {
		rescued.Dead = append(rescued.Dead, worker.DeadJob{Job: job, Err: end.cause})
	}
	for _, job := range j.jobs(buried) {
		rescued.Dead = append(rescued.Dead, worker.DeadJob{Job: job, Err: end.cause, Reason: end.reason})
	}
	return slices.Concat(exhausted, buried), nil
}

// run makes a statement about the jobs with a verdict, and returns which of them it has changed.
func (j *judgment) run(v conviction.Verdict, statement func(ids []int64) ([]int64, error)) (changed []int64, err error) {
	ids := j.with(func(r ruling) bool { return r.Verdict == v })
	if len(ids) == 0 {
		return nil, nil
	}
	changed, err = statement(ids)
	slices.Sort(changed)
	return changed, err
}

// jobs returns jobs as their dead workers had them.
func (j *judgment) jobs(ids []int64) (jobs []*wire.Job) {
	for _, id := range ids {
		jobs = append(jobs, j.rulings[id].job())
	}
	return jobs
}

// convicted forgets what was known of convicted jobs, and pauses tasks of which too many were.
func (j *judgment) convicted(ctx context.Context, ids []int64) (paused []string, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	if err := j.queries.ForgetConvicted(ctx, ids); err != nil {
		return nil, fmt.Errorf("forget the records of convicted jobs: %w", err)
	}
	var tasks []string
	for _, id := range ids {
		tasks = append(tasks, j.rulings[id].held.Task)
	}
	for _, task := range distinct(tasks) {
		ages, err := j.queries.Convictions(ctx, task)
		if err != nil {
			return nil, fmt.Errorf("count convictions: %w", err)
		}
		ago := make([]time.Duration, len(ages))
		for i, age := range ages {
			ago[i] = seconds(age)
		}
		if !conviction.Pauses(ago) {
			continue
		}
		rows, err := j.queries.PauseCrashing(ctx, query.PauseCrashingParams{Task: task, Reason: pauseReason})
		if err != nil {
			return nil, fmt.Errorf("pause task %q: %w", task, err)
		}
		if rows > 0 {
			paused = append(paused, task)
		}
	}
	return paused, nil
}

const pauseReason = "three of its jobs have crashed their workers within an hour"

func (j *judgment) tokens(ids []int64) []string {
	tokens := make([]string, len(ids))
	for i, id := range ids {
		tokens[i] = j.rulings[id].held.Token
	}
	return tokens
}

// job is the job as the dead worker had it.
func (r ruling) job() *wire.Job {
	lease := wire.Lease{ID: r.held.ID, Token: r.held.Token}
	return &wire.Job{
		Lease: lease, Task: r.held.Task, Queue: r.held.Queue, Key: r.held.Key, Priority: r.held.Priority,
		RunAt: r.held.RunAt.Time, Attempt: lease.Attempt(), MaxAttempts: int(r.held.MaxAttempts),
	}
}

// diedText is what the history says of a job whose worker has died.
const diedText = "its worker died"

// parkJobs makes suspects of jobs that dead workers held with these tokens, and returns which.
func parkJobs(ctx context.Context, queries *query.Queries, ids []int64, tokens []string) (parked []int64, err error) {
	rows, err := queries.ParkJobs(ctx, query.ParkJobsParams{Ids: ids, Tokens: tokens, Outcome: "crashed", Error: diedText})
	for _, row := range rows {
		parked = append(parked, row.ID)
	}
	return parked, err
}

// dropJobs deletes superseded jobs that are held with these tokens. It returns which, and how many
// queues that has freed.
func dropJobs(ctx context.Context, queries *query.Queries, ids []int64, tokens []string) (dropped []int64, queues int, err error) {
	rows, err := queries.DropJobs(ctx, query.DropJobsParams{Ids: ids, Tokens: tokens})
	for _, row := range rows {
		dropped = append(dropped, row.ID)
		if row.Freed {
			queues++
		}
	}
	return dropped, queues, err
}

func timestamp(t time.Time) pgtype.Timestamptz { return pgtype.Timestamptz{Time: t, Valid: true} }
