package pg

import (
	"regexp"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
)

// JobFilter says which jobs are meant: those that all of it is true of. Nil, and the zero value, are
// not asked for. In SQL it is the block of conditions that follows "-- filter" in query/jobs.sql,
// whose parameters have these names; each statement that selects jobs has the same block.
type JobFilter struct {
	States, Tasks, Queues, Keys, LockedBy []string
	IDs                                   []int64
	NoQueue, Locked                       bool
	MinPriority, MaxPriority              *int // of smallint
	MinAttempts, MaxAttempts              *int // of smallint
	RunAtFrom, RunAtBefore                time.Time
	CreatedFrom, CreatedBefore            time.Time
	ErrorContains                         string
	PayloadContains                       []byte // JSON that FitsJSONB
	UpToID                                int64
}

func (f *JobFilter) params() query.JobsNewestParams {
	return query.JobsNewestParams{
		Ids: f.IDs, States: f.States, Tasks: f.Tasks, Queues: f.Queues, NoQueue: f.NoQueue, Keys: f.Keys, Locked: f.Locked, LockedBy: f.LockedBy,
		MinPriority: nullSmall(f.MinPriority), MaxPriority: nullSmall(f.MaxPriority),
		MinAttempts: nullSmall(f.MinAttempts), MaxAttempts: nullSmall(f.MaxAttempts),
		RunAtFrom: nullTime(f.RunAtFrom), RunAtBefore: nullTime(f.RunAtBefore),
		CreatedFrom: nullTime(f.CreatedFrom), CreatedBefore: nullTime(f.CreatedBefore),
		ErrorContains: nullText(f.ErrorContains), PayloadContains: nullText(string(f.PayloadContains)),
		UpToID: pgtype.Int8{Int64: f.UpToID, Valid: f.UpToID != 0},
	}
}

func nullSmall(n *int) pgtype.Int2 {
	if n == nil {
		return pgtype.Int2{}
	}
	return pgtype.Int2{Int16: int16(*n), Valid: true} //nolint:gosec // checked
}

var (
	pairsInJSON      = regexp.MustCompile(`\\\\`)
	surrogatesInJSON = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}`)
	notForJSONB      = regexp.MustCompile(`\\u(0000|[dD][89a-fA-F])|[eE][+-]?[0-9]{5}|[0-9]{255}`)
)

// FitsJSONB reports whether JSON can be cast to jsonb without an error. It may say no of what could
// be, such as a number with 255 digits. It is what "-- filter" asks of payloads.
func FitsJSONB(json []byte) bool {
	json = surrogatesInJSON.ReplaceAll(pairsInJSON.ReplaceAll(json, []byte(" ")), []byte(" "))
	return !notForJSONB.Match(json)
}
