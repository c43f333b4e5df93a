package pg

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Admin does what operators ask for, on a client's pool.
type Admin struct {
	pool     *pgxpool.Pool
	settings Settings
	texts    *texts
	// What tests set to something else: adminTimeout, maxTries, countedPages, countedLetters,
	// letterLockWait.
	limit     time.Duration
	lockTries int
	pages     int64
	letters   int
	lockWait  time.Duration
}

// NewAdmin returns an Admin on a client's pool.
func NewAdmin(pool *pgxpool.Pool, schema string) *Admin {
	return &Admin{
		pool: pool, settings: SettingsOf(pool, schema), texts: newTexts(schema),
		limit: adminTimeout, lockTries: maxTries, pages: countedPages, letters: countedLetters, lockWait: letterLockWait,
	}
}

// ReadTimeFrom makes statements read the time from the functions of a schema, for tests that move
// it. "": from PostgreSQL's own.
func (a *Admin) ReadTimeFrom(clock string) { a.texts.readFrom(clock) }

// ErrNotLocked is returned when nothing is locked by what was given.
var ErrNotLocked = errors.New("it has locked no job and no queue: " +
	"compare locked_by in the view jobs and in _private_job_queues")

// ErrJobNotFound is returned when there is no job with an id.
var ErrJobNotFound = errors.New("there is no such job: it succeeded, or was completed or removed")

// Unlock declares a worker dead and releases everything that it has locked. It takes the worker's
// id, or what locked_by says of one of its jobs or queues. A job with one attempt in all has had it
// (R9). It leaves out rows that somebody else has locked at this moment, and the queues of such
// jobs. A worker that is not registered and has locked nothing is ErrNotLocked.
//
// Dead are those of the jobs that are dead letters now, also after an error.
func (a *Admin) Unlock(ctx context.Context, lockedBy string) (jobs, queues int, dead []worker.DeadJob, err error) {
	defer func() { err = a.settings.explainWork(err) }()
	if cohort, ok := wire.CohortOf(lockedBy); ok {
		jobs, queues, err = a.unlockSuspects(ctx, cohort)
		return jobs, queues, nil, err
	}
	id, registered, err := a.findWorker(ctx, lockedBy)
	if err != nil {
		return 0, 0, nil, fmt.Errorf("find worker %s: %w", lockedBy, err)
	}
	jobs, queues, err = a.unlockWorker(ctx, id, registered, &dead)
	return jobs, queues, dead, err
}

// unlockWorker declares a worker dead, and releases what it has locked.
func (a *Admin) unlockWorker(ctx context.Context, id string, registered bool, dead *[]worker.DeadJob) (jobs, queues int, err error) {
	ours := registered || wire.IsWorkerID(id)
	unlockJobs := func() (int64, error) { return ask(ctx, a.in, (*query.Queries).UnlockNodeJobs, id) }
	unlockQueues := (*query.Queries).UnlockNodeQueues
	if ours {
		letters := false
		unlockJobs = func() (int64, error) {
			rows := query.UnlockJobsParams{WorkerID: id, Verdict: worker.ErrCrashed.Error(), Letters: letters}
			done, err := releasing(ctx, a.in, (*query.Queries).UnlockJobs, rows)
			return int64(done.jobs), err
		}
		unlockQueues = (*query.Queries).UnlockQueues
		// First the tombstone: a claim that is in flight commits before it or finds it, and what
		// follows sees its rows (R4).
		err := a.in(ctx, func(ctx context.Context, db query.DBTX) error {
			return query.New(db).RetireWorker(ctx, query.RetireWorkerParams{ID: id})
		})
		if err != nil {
			return 0, 0, fmt.Errorf("declare worker %s dead: %w", id, err)
		}
		if letters, err = ask(ctx, a.in, (*query.Queries).MakesLetters, id); err != nil {
			return 0, 0, fmt.Errorf("ask for dead letters: %w", err)
		}
		if letters {
			*dead, err = a.buryOver(ctx, id)
			if letters = !refusesRow(err); err != nil && letters { // else the others stay in their rows (R19)
				return len(*dead), 0, fmt.Errorf("end jobs of worker %s: %w", id, err)
			}
		}
	}
	jobs, err = inBatches(unlockJobs)
	jobs += len(*dead)
	if err != nil {
		return jobs, 0, fmt.Errorf("release jobs of worker %s: %w", id, err)
	}
	if queues, err = inBatches(func() (int64, error) { return ask(ctx, a.in, unlockQueues, id) }); err != nil {
		return jobs, queues, fmt.Errorf("release queues of worker %s: %w", id, err)
	}
	if jobs+queues > 0 || registered {
		return jobs, queues, nil
	}
	holds, err := ask(ctx, a.in, (*query.Queries).HoldsLocks, query.HoldsLocksParams{WorkerID: id, Ours: ours})
	if err != nil {
		return 0, 0, fmt.Errorf("look for locks of worker %s: %w", id, err)
	}
	if !holds {
		return 0, 0, ErrNotLocked
	}
	return 0, 0, nil // somebody else has locked the rows
}

// buryOver makes dead letters of a worker's jobs that have had the one attempt that they have (R9).
func (a *Admin) buryOver(ctx context.Context, id string) (dead []worker.DeadJob, err error) {
	for after := int64(0); ; {
		found, err := ask(ctx, a.in, (*query.Queries).OverJobs, query.OverJobsParams{WorkerID: id, After: after})
		if err != nil || len(found) == 0 {
			return dead, err
		}
		rows := query.BuryJobsParams{
			Reasons: slices.Repeat([]string{string(worker.ReasonCrashed)}, len(found)), Verdicts: slices.Repeat([]string{worker.ErrCrashed.Error()}, len(found)),
		}
		for _, row := range found {
			rows.Ids, rows.Tokens, after = append(rows.Ids, row.ID), append(rows.Tokens, row.Token), row.ID
		}
		part, err := ask(ctx, a.in, func(q *query.Queries, ctx context.Context, rows query.BuryJobsParams) ([]worker.DeadJob, error) {
			return buryJobs(ctx, q, rows)
		}, rows)
		dead = append(dead, part...)
		if err != nil {
			return dead, err
		}
	}
}

// unlockSuspects frees the suspects of a cohort.
func (a *Admin) unlockSuspects(ctx context.Context, cohort string) (jobs, queues int, err error) {
	jobs, err = inBatches(func() (int64, error) { return ask(ctx, a.in, (*query.Queries).UnlockSuspects, cohort) })
	if err != nil {
		return jobs, 0, fmt.Errorf("release suspects: %w", err)
	}
	queues, err = inBatches(func() (int64, error) { return ask(ctx, a.in, (*query.Queries).UnlockSuspectQueues, cohort) })
	switch {
	case err != nil:
		return jobs, queues, fmt.Errorf("release queues of suspects: %w", err)
	case jobs+queues == 0:
		return 0, 0, ErrNotLocked
	}
	return jobs, queues, nil
}

// findWorker returns the id of the worker that a value of locked_by belongs to. The id of a Node
// worker can be any text, also one that looks like a token. So a token counts as one of ours if the
// worker in front of it is registered, or has the shape of our ids: a row is deleted a day after
// its worker's death.
func (a *Admin) findWorker(ctx context.Context, lockedBy string) (id string, registered bool, err error) {
	candidates := append([]string{lockedBy}, wire.WorkersOf(lockedBy)...)
	found, err := ask(ctx, a.in, (*query.Queries).RegisteredWorker, candidates)
	if err != nil || found != "" {
		return found, found != "", err
	}
	if i := slices.IndexFunc(candidates, wire.IsWorkerID); i >= 0 {
		return candidates[i], false, nil
	}
	return lockedBy, false, nil
}

// Sweep releases jobs and queues whose locks are stale, except for rows that somebody else has
// locked at this moment. It does so at once, whoever else sweeps.
func (a *Admin) Sweep(ctx context.Context) (jobs, queues int, err error) {
	swept, err := newSweep(a.in, noRest, false).run(ctx, "", true)
	return swept.Jobs, swept.Queues, a.settings.explainWork(err)
}

// inBatches repeats a statement until it changes nothing, and returns how many rows it changed in
// all.
func inBatches(batch func() (int64, error)) (rows int, err error) {
	for {
		n, err := batch()
		rows += int(n)
		if n == 0 || err != nil {
			return rows, err
		}
	}
}

// Complete, Fail, Reschedule and Remove call the contract's functions (section 1.5), and return the
// jobs that they changed.

// Complete deletes jobs.
func (a *Admin) Complete(ctx context.Context, ids []int64) ([]*wire.Job, error) {
	return a.jobs(ctx, query.AdminComplete, ids)
}

// Fail makes jobs exhausted. An empty reason becomes the contract's.
func (a *Admin) Fail(ctx context.Context, ids []int64, reason string) ([]*wire.Job, error) {
	return a.jobs(ctx, query.AdminFail, ids, reason)
}

// Reschedule changes what is not nil.
func (a *Admin) Reschedule(
	ctx context.Context, ids []int64, runAt *time.Time, priority *int16, attempts, maxAttempts *int,
) ([]*wire.Job, error) {
	return a.jobs(ctx, query.AdminReschedule, ids, runAt, priority, attempts, maxAttempts)
}

// Remove removes the job with a key; the list is empty if there is none.
func (a *Admin) Remove(ctx context.Context, key string) ([]*wire.Job, error) {
	return a.jobs(ctx, query.AdminRemove, key)
}

// ForceUnlock releases what is locked by exactly these, and returns the jobs; ErrNotLocked if there
// are neither jobs nor queues.
func (a *Admin) ForceUnlock(ctx context.Context, lockedBy []string) (jobs []*wire.Job, err error) {
	err = a.in(ctx, func(ctx context.Context, db query.DBTX) error {
		if jobs, err = scanJobs(ctx, db, query.LockedJobs, lockedBy); err != nil {
			return err
		}
		queues, err := query.New(db).LockedQueues(ctx, lockedBy)
		if err != nil {
			return err
		}
		if len(jobs) == 0 && queues == 0 {
			return ErrNotLocked
		}
		if err := query.New(db).ForceUnlock(ctx, lockedBy); err != nil {
			return err
		}
		ids := make([]int64, len(jobs))
		for i, job := range jobs {
			ids[i] = job.ID
		}
		_, err = endCanceled(ctx, query.New(db), ids, nil)
		return err
	})
	return jobs, a.settings.explainWork(err)
}

func (a *Admin) jobs(ctx context.Context, text string, args ...any) (jobs []*wire.Job, err error) {
	err = a.in(ctx, func(ctx context.Context, db query.DBTX) error {
		jobs, err = scanJobs(ctx, db, text, args...)
		return err
	})
	return jobs, a.settings.explainWork(err)
}

func scanJobs(ctx context.Context, db query.DBTX, text string, args ...any) ([]*wire.Job, error) {
	rows, _ := db.Query(ctx, text, args...) // CollectRows returns its error
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*wire.Job, error) { return scanJob(row) })
}
