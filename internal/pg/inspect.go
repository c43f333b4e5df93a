package pg

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
)

// countedPages bounds what [Admin.Count] reads: 64 MiB, as pages usually are. That took 0.9 to 1.6
// s on two busy cores, at half a million jobs with small args as at two and a half.
const countedPages = 8_192

// TaskCount is how many jobs a task has in each state.
type TaskCount struct {
	Task                                   string
	Waiting, Due, Running, Suspect, Failed int64
}

// Count counts the jobs of each task. If the table has more pages than countedPages, it reads so
// many of them, chosen at random, and estimates: exact is false.
func (a *Admin) Count(ctx context.Context) (counts []TaskCount, exact bool, err error) {
	defer func() { err = a.settings.explainWork(err) }()
	pages, err := ask(ctx, a.in, (*query.Queries).JobPages, a.texts.schema)
	if err != nil {
		return nil, false, fmt.Errorf("measure the table: %w", err)
	}
	percent := float32(100)
	if pages > a.pages {
		percent = float32(100 * float64(a.pages) / float64(pages))
	}
	rows, err := ask(ctx, a.in, (*query.Queries).CountJobs, percent)
	if err != nil {
		return nil, false, err
	}
	counts = make([]TaskCount, len(rows))
	whole := func(n int64) int64 { return int64(math.Round(float64(n) * 100 / float64(percent))) }
	for i, row := range rows {
		counts[i] = TaskCount{row.Task, whole(row.Waiting), whole(row.Due), whole(row.Running), whole(row.Suspect), whole(row.Failed)}
	}
	return counts, percent == 100, nil
}

// Inspection is what the row of a job says beyond the job.
type Inspection struct {
	State, LastError, LockedBy string
	LockedAt, UpdatedAt        time.Time
}

// Inspect returns a job, or ErrJobNotFound.
func (a *Admin) Inspect(ctx context.Context, id int64) (job *wire.Job, row Inspection, err error) {
	err = a.in(ctx, func(ctx context.Context, db query.DBTX) error {
		job, err = scanJob(db.QueryRow(ctx, query.JobByID, id),
			&row.State, &row.LastError, &row.LockedBy, (*hexTime)(&row.LockedAt), (*hexTime)(&row.UpdatedAt))
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrJobNotFound
		}
		return err
	})
	return job, row, a.settings.explainWork(err)
}
