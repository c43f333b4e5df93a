package pg

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/sqlstate"
)

// Awaited is how a job stands. The zero value: there is nothing of it.
type Awaited struct {
	State    string // of its row, as Inspection has it; "": it has none
	Revision int    // of its row
	Outcome  string // of its last attempt in the history, if it has no row; "": none is kept
	Output   []byte // nil: none
	Attempt  int
	Error    string
	EndedAt  time.Time
	LetterID int64 // 0: it is no dead letter
}

// Awaited returns how jobs stand, in one snapshot.
func (a *Admin) Awaited(ctx context.Context, ids []int64) (map[int64]Awaited, error) {
	rows, err := ask(ctx, a.in, (*query.Queries).AwaitJobs, ids)
	if err != nil {
		return nil, a.settings.explainWork(err)
	}
	found := make(map[int64]Awaited, len(rows))
	for _, row := range rows {
		found[row.ID] = Awaited{
			State: row.State, Revision: int(row.Revision), Outcome: row.Outcome, Output: row.Output,
			Attempt: int(row.Attempt), Error: row.Error, EndedAt: row.EndedAt.Time, LetterID: row.LetterID,
		}
	}
	return found, nil
}

// Absence is what tells apart why there is nothing of a job.
type Absence struct {
	NotGivenOut bool          // nobody has got this id yet
	Retention   time.Duration // of the task's history; 0: it has none
	Now         time.Time     // by the database's clock
	Hidden      bool          // row level security hides rows from this role
	Writers     []string      // the transactions that may have made the job, and are open
}

// Absent looks at what there is besides a job of which there is nothing.
func (a *Admin) Absent(ctx context.Context, id int64, task string) (Absence, error) {
	var row query.AwaitAbsentRow
	hidden := false
	err := a.in(ctx, func(ctx context.Context, db query.DBTX) (err error) {
		if row, err = query.New(db).AwaitAbsent(ctx, query.AwaitAbsentParams{SchemaName: a.texts.schema, Task: task}); err != nil {
			return err
		}
		relations, err := query.New(db).Relations(ctx, a.texts.schema)
		hidden = slices.ContainsFunc(relations, func(r query.RelationsRow) bool { return r.Hidden && slices.Contains(awaited, r.Name) })
		return err
	})
	if err != nil {
		return Absence{}, a.settings.explainWork(err)
	}
	return Absence{
		NotGivenOut: id > row.LastID, Now: row.Now.Time, Hidden: hidden, Writers: row.Writers,
		Retention: time.Duration(row.RetentionSeconds * float64(time.Second)),
	}, nil
}

// awaited are the tables in which Awaited looks.
var awaited = []string{"_private_jobs", "backfill_history", "backfill_history_tasks", "backfill_dlq"}

// IsLasting reports whether the server has refused a statement or a session for a reason that
// stays, such as a right that the role does not have, so that asking again is no use.
func IsLasting(err error) bool {
	const syntaxOrAccess, authorization = "42", "28"
	state := sqlstate.Of(err)
	return strings.HasPrefix(state, syntaxOrAccess) || strings.HasPrefix(state, authorization)
}
