package admin

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
)

// History is what has become of a job, as far as it was kept: see backfill.Task.History.
type History struct {
	At     time.Time `json:"at"` // by the database's clock
	Schema string    `json:"schema"`
	JobID  int64     `json:"job_id"`
	// Attempts are the last 1,000, the oldest first. There are none if the task has no history, if the
	// job has not ended once, if the attempts were too old, and if there never was such a job.
	Attempts []Attempt `json:"attempts"`
	// Missing is what could not be read, so that attempts may be left out.
	Missing []Missing `json:"missing,omitempty"`
}

// Attempt is one attempt that has ended, or what somebody has decided about a job that was not
// running.
type Attempt struct {
	Task    string         `json:"task"`
	Queue   string         `json:"queue,omitempty"`
	Key     string         `json:"key,omitempty"`
	Attempt int            `json:"attempt"` // from 1. One that is not charged has the number of the next
	Outcome AttemptOutcome `json:"outcome"`
	// StartedAt is when the handler was called; of an AttemptLost or AttemptCrashed, when the job was
	// claimed. Zero: it was not running.
	StartedAt time.Time `json:"started_at,omitzero"`
	EndedAt   time.Time `json:"ended_at"`             // when the outcome was recorded
	Seconds   float64   `json:"duration_s,omitempty"` // that the handler took; 0: not known
	WorkerID  string    `json:"worker_id,omitempty"`
	Error     string    `json:"error,omitempty"`
	// Output is what the handler gave to backfill.Output, as JSON: null if it gave nil, and nil if it
	// gave nothing, or the principal may not see it.
	Output json.RawMessage `json:"output,omitempty"`
	Log    string          `json:"log,omitempty"` // what it gave to backfill.Logger, likewise
	// Withheld says that the principal may not see output and log.
	Withheld bool `json:"withheld,omitempty"`
}

// AttemptOutcome says how an attempt has ended. New ones may be added.
type AttemptOutcome string

// The outcomes.
const (
	AttemptCompleted  AttemptOutcome = "completed"
	AttemptFailed     AttemptOutcome = "failed"     // to be tried again
	AttemptDead       AttemptOutcome = "dead"       // failed for good
	AttemptSnoozed    AttemptOutcome = "snoozed"    // by its handler; not charged
	AttemptReturned   AttemptOutcome = "returned"   // given back, as by a stop, to run again; not charged
	AttemptCanceled   AttemptOutcome = "canceled"   // running or not
	AttemptSuperseded AttemptOutcome = "superseded" // a job with its key has taken its place while it ran, or it was removed then
	AttemptRemoved    AttemptOutcome = "removed"    // by an operator
	AttemptCrashed    AttemptOutcome = "crashed"    // its worker died, while it held the job
	AttemptLost       AttemptOutcome = "lost"       // its lock was taken away: by hand, or because it was 4 hours old
)

// mostAttempts is how many attempts an answer has.
const mostAttempts = 1000

// These tables are there where backfill migrate was run.
const (
	historyTable      = "backfill_history"
	historyTasksTable = "backfill_history_tasks"
)

// History returns the attempts of a job that the principal may see.
func (a *Admin) History(ctx context.Context, jobID int64) (*History, error) {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout+answerTimeout)
	defer cancel()
	history := &History{Schema: a.schema, JobID: jobID, Attempts: []Attempt{}}
	err := pg.Read(ctx, a.pool, a.schema, func(reader *pg.Reader) error {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		r := &reading{ctx: ctx, reader: reader}
		if err := r.readServer(); err != nil {
			return err
		}
		rows, err := r.history(jobID)
		for _, row := range rows {
			target := Target{Kind: KindHistory, ID: strconv.FormatInt(jobID, 10), Task: row.TaskIdentifier, Queue: row.QueueName}
			if a.may(ctx, ActionRead, target) {
				history.Attempts = append(history.Attempts, a.newAttempt(ctx, target, row))
			}
		}
		history.At = r.now
		for _, missing := range reader.Missing {
			history.Missing = append(history.Missing, Missing(missing))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return history, nil
}

func (r *reading) history(jobID int64) (rows []query.HistoryRow, err error) {
	const what = "the history"
	if !r.can(historyTable, what) {
		return nil, nil
	}
	if r.relations[historyTable].Hidden {
		r.miss(what, "row level security hides some or all of it from role "+r.server.Role)
	}
	rows, _, err = fact(r, what, func(q *query.Queries, ctx context.Context) ([]query.HistoryRow, error) {
		return q.History(ctx, query.HistoryParams{JobID: jobID, Most: mostAttempts})
	})
	slices.Reverse(rows)
	return rows, err
}

// newAttempt shows an attempt to the principal. The payload that its error and its log may repeat is not
// known any more, so who may not see values sees neither.
func (a *Admin) newAttempt(ctx context.Context, target Target, row query.HistoryRow) Attempt {
	shown, values := a.redactUnread(ctx, target), a.may(ctx, ActionReadValues, target)
	attempt := Attempt{
		Task: row.TaskIdentifier, Queue: row.QueueName, Key: row.JobKey, Attempt: int(row.Attempt), Outcome: AttemptOutcome(row.Outcome),
		StartedAt: row.StartedAt.Time, EndedAt: row.EndedAt.Time, Seconds: row.DurationSeconds, WorkerID: row.WorkerID, Error: shown.text(row.Error, false),
	}
	if !values {
		attempt.Withheld = row.Output != nil || row.Log != ""
		return attempt
	}
	if attempt.Log = shown.text(row.Log, true); row.Output != nil {
		attempt.Output = a.redact(ctx, target, row.Output).payload
	}
	return attempt
}
