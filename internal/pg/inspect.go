package pg

import (
	"context"
	"database/sql"
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

// listedJobs is how many rows [Admin.List] reads at most.
const listedJobs = 10_000

// AppTx is a transaction of the application's: one of the two. The zero AppTx is none.
type AppTx struct {
	Pgx pgx.Tx
	SQL *sql.Tx
}

func (t AppTx) session() session {
	if t.SQL != nil {
		return sqlSession{t.SQL}
	}
	return pgxSession{t.Pgx, connOf(t.Pgx)}
}

// Listed is a job that [Admin.List] has found.
type Listed struct {
	Job *wire.Job
	Inspection
}

// List returns the jobs in the table, in the order of their ids, as a transaction sees them;
// without one, those that are committed.
func (a *Admin) List(ctx context.Context, tx AppTx) (jobs []Listed, err error) {
	list := statement{text: a.texts.render(query.ListJobs), args: []any{listedJobs}, read: func(rows rows) error {
		for rows.Next() {
			var row Listed
			if row.Job, err = scanJob(rows, &row.State, &row.LastError, &row.LockedBy,
				(*hexTime)(&row.LockedAt), (*hexTime)(&row.UpdatedAt)); err != nil {
				return err
			}
			jobs = append(jobs, row)
		}
		return nil
	}}
	if tx.Pgx != nil || tx.SQL != nil {
		err = tx.session().run(ctx, []statement{list})
	} else {
		err = a.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
			return AppTx{Pgx: tx}.session().run(ctx, []statement{list})
		})
	}
	return jobs, a.settings.explainWork(err)
}
