package admin

import (
	"context"
	"strconv"
	"time"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
)

// Progress is how far a running job is, as its handler has said to backfill.Progress.
type Progress struct {
	Attempt int       `json:"attempt"`
	Done    int64     `json:"done"`
	Total   int64     `json:"total,omitempty"` // 0: nobody knows
	Note    string    `json:"note,omitempty"`  // hidden from who may not see payloads
	At      time.Time `json:"at"`              // when its worker has written that down
}

// progressTable is there where backfill migrate was run.
const progressTable = "backfill_progress"

// Progress returns how far a job is. It is nil if the job does not run, or its handler has not said
// anything in this attempt. The error is ErrNotFound for a job that is not there or that the principal
// may not see.
func (a *Admin) Progress(ctx context.Context, jobID int64) (*Progress, error) {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout+answerTimeout)
	defer cancel()
	var progress *Progress
	err := pg.Read(ctx, a.pool, a.schema, func(reader *pg.Reader) error {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		r := &reading{ctx: ctx, reader: reader}
		if err := r.readServer(); err != nil {
			return err
		}
		if !r.can(progressTable, "the progress of jobs") {
			return ErrNotFound
		}
		rows, err := pg.Fact(ctx, reader, "the progress of jobs", func(q *query.Queries, ctx context.Context) ([]query.ProgressRow, error) {
			return q.Progress(ctx, jobID)
		})
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return ErrNotFound
		}
		row := rows[0]
		target := Target{Kind: KindJob, ID: strconv.FormatInt(jobID, 10), Task: row.Task, Queue: row.Queue}
		if row.At.Valid {
			note := a.redactUnread(ctx, target).text(row.Note, false)
			progress = &Progress{Attempt: int(row.Attempt), Done: row.Done, Total: row.Total, Note: note, At: row.At.Time}
		}
		return a.allow(ctx, ActionRead, target)
	})
	if err != nil {
		return nil, err
	}
	return progress, nil
}
