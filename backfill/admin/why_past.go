package admin

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
)

// How many attempts an explanation shows, of the first and of the last, and how many are looked at.
const (
	firstAttempts, lastAttempts = 3, 12
	mostPast                    = 1000
	// changeTime is how far the time of a record may be from that of its transaction.
	changeTime = 10 * time.Second
)

// recordsTable is there where backfill migrate was run.
const recordsTable = "backfill_audit"

// Past is what has become of a job so far, as far as a history was kept, and why it ran again.
type Past struct {
	// Attempts are the first and the last, the oldest first.
	Attempts []PastAttempt `json:"attempts"`
	// LeftOut is how many there are between the first three and those that follow.
	LeftOut int `json:"left_out,omitempty"`
	// More says that there were others before: the last 1,000 were looked at.
	More bool `json:"more,omitempty"`
}

// PastAttempt is an attempt, or what somebody has decided about a job that was not running.
type PastAttempt struct {
	Attempt   int            `json:"attempt"`
	Outcome   AttemptOutcome `json:"outcome"`
	StartedAt time.Time      `json:"started_at,omitzero"` // as in Attempt
	EndedAt   time.Time      `json:"ended_at"`
	Seconds   float64        `json:"duration_s,omitempty"`
	WorkerID  string         `json:"worker_id,omitempty"`
	Error     string         `json:"error,omitempty"`
	// Twice says that the job may have run twice: this attempt may have gone on when the next one
	// began. Together says that it did.
	Twice    bool   `json:"twice,omitempty"`
	Together bool   `json:"together,omitempty"`
	Text     string `json:"text"` // a sentence, with why it ran again
}

// readPast reads the attempts that the principal may see. Where there is no history, nothing is
// said of it: most tasks have none.
func (e *explaining) readPast() error {
	const what = "the history"
	if _, there := e.relations[historyTable]; !there || !e.can(historyTable, what) {
		return nil
	}
	if e.relations[historyTable].Hidden {
		e.miss(what, "row level security hides some or all of it from role "+e.server.Role)
	}
	rows, _, err := fact(&e.reading, what, func(q *query.Queries, ctx context.Context) ([]query.WhyPastRow, error) {
		return q.WhyPast(ctx, query.WhyPastParams{JobID: e.id, Most: mostPast + 1})
	})
	if err != nil {
		return err
	}
	past := &Past{More: len(rows) > mostPast}
	for i := min(len(rows), mostPast) - 1; i >= 0; i-- {
		target := Target{Kind: KindHistory, ID: strconv.FormatInt(e.id, 10), Task: rows[i].Task, Queue: rows[i].Queue}
		if e.admin.may(e.ctx, ActionRead, target) {
			text := e.admin.redactUnread(e.ctx, target).text(rows[i].Error, false) // whose payload may have been another
			if e.seen && e.shown != nil {
				text = e.shown.text(text, false)
			}
			e.pastTask = rows[i].Task
			past.Attempts = append(past.Attempts, PastAttempt{
				Attempt: int(rows[i].Attempt), Outcome: AttemptOutcome(rows[i].Outcome), StartedAt: rows[i].StartedAt.Time.UTC(),
				EndedAt: rows[i].EndedAt.Time.UTC(), Seconds: rows[i].DurationSeconds, WorkerID: rows[i].WorkerID,
				Error: text,
			})
		}
	}
	if len(past.Attempts) == 0 {
		return nil
	}
	if e.workers == nil { // else an attempt's worker is named without its host
		if err := e.readWorkers(); err != nil {
			return err
		}
	}
	e.past = past
	e.tellPast()
	return nil
}

// tellPast says of each attempt how it ended, and why there is another.
func (e *explaining) tellPast() {
	all := e.past.Attempts
	for i := range all {
		a := &all[i]
		a.Twice = a.Outcome == AttemptCrashed || a.Outcome == AttemptLost
		if a.Seconds > 0 && i+1 < len(all) && !all[i+1].StartedAt.IsZero() {
			a.Together = all[i+1].StartedAt.Before(a.StartedAt.Add(time.Duration(a.Seconds * float64(time.Second))))
		}
		a.Text = e.attemptText(*a)
	}
	if n := len(all) - firstAttempts - lastAttempts; n > 0 {
		e.past.Attempts = append(append([]PastAttempt{}, all[:firstAttempts]...), all[firstAttempts+n:]...)
		e.past.LeftOut = n
	}
}

func (e *explaining) attemptText(a PastAttempt) string {
	var took, on, because string
	if a.Seconds > 0 {
		took = " after " + span(time.Duration(a.Seconds*float64(time.Second)))
	}
	if w := e.worker(a.WorkerID); w != nil {
		on = " on " + e.place(w)
	} else if a.WorkerID != "" {
		on = " on worker " + a.WorkerID
	}
	if a.Error != "" {
		because = ": " + strconv.Quote(head(a.Error))
	}
	text := clock(a.EndedAt, e.now) + ": "
	attempt := fmt.Sprintf("attempt %d ", a.Attempt)
	switch a.Outcome {
	case AttemptCompleted:
		text += attempt + "completed the job" + took + on + "."
	case AttemptFailed:
		text += attempt + "failed" + took + on + because + ". The job was to be tried again."
	case AttemptDead:
		text += attempt + "failed for good" + took + on + because + "."
	case AttemptSnoozed:
		text += attempt + "was put off by its handler" + took + on + ". It was not charged."
	case AttemptReturned:
		text += "it was given back" + took + on + ", as by a stop" + because + ". The attempt was not charged."
	case AttemptCanceled:
		text += "it was cancelled" + took + on + "."
	case AttemptSuperseded:
		text += attempt + "ended" + took + on + because + ". A job with its key had taken its place, so it was not tried again."
	case AttemptRemoved:
		text += "it was removed."
	case AttemptCrashed:
		text += attempt + "ended with its worker" + on + ", which was declared dead. How far its handler had come, nobody knows: the job may have run twice."
	case AttemptLost:
		text += attempt + "lost its lock" + on + ": it was unlocked by hand, or the lock was 4 hours old. If its handler went on, the job ran twice."
	default:
		text += attempt + "ended (" + string(a.Outcome) + ")" + took + on + because + "."
	}
	if a.Together {
		text += " The next attempt had begun before its handler returned: the two ran at once."
	}
	return text
}

// explainEnd says how a job without a row has ended, if its history has that.
func (e *explaining) explainEnd() error {
	if e.past == nil || len(e.blockers) > 0 {
		return nil
	}
	last := e.past.Attempts[len(e.past.Attempts)-1]
	how := map[AttemptOutcome]string{
		AttemptCompleted: "has completed", AttemptCanceled: "was cancelled", AttemptRemoved: "was removed", AttemptDead: "has failed for good",
		AttemptSuperseded: "failed when a job with its key had taken its place",
	}[last.Outcome]
	if how == "" {
		return nil // nobody has recorded what came after that
	}
	b := Blocker{Code: Ended, Since: Time{Time: last.EndedAt}}
	b.Text = fmt.Sprintf("Job %d (%s) %s, at %s.", e.id, e.pastTask, how, clock(last.EndedAt, e.now))
	if runs := e.runs(); runs > 1 {
		b.Text += fmt.Sprintf(" It has run %d times: see below.", runs)
	}
	if last.Outcome == AttemptDead {
		b.Text += " It is no dead letter any more, or never was one."
	}
	by, err := e.changer(last)
	if b.Text += by; err != nil {
		return err
	}
	e.block(b)
	return nil
}

// runs is how often a handler was called, as far as is known.
func (e *explaining) runs() int {
	runs := e.past.LeftOut
	for _, a := range e.past.Attempts {
		if !a.StartedAt.IsZero() {
			runs++
		}
	}
	return runs
}

// changer says which operator has ended a job, if the records have it.
func (e *explaining) changer(last PastAttempt) (string, error) {
	const what = "the records of changes"
	if last.Outcome != AttemptCanceled && last.Outcome != AttemptRemoved {
		return "", nil
	}
	if _, there := e.relations[recordsTable]; !there || !e.can(recordsTable, what) || !e.admin.may(e.ctx, ActionRead, Target{Kind: KindJob, ID: strconv.FormatInt(e.id, 10), Task: e.pastTask}) {
		return "", nil
	}
	rows, _, err := fact(&e.reading, what, func(q *query.Queries, ctx context.Context) ([]query.WhyChangesRow, error) {
		return q.WhyChanges(ctx, query.WhyChangesParams{
			Since: pgtype.Timestamptz{Time: last.EndedAt.Add(-changeTime), Valid: true},
			Until: pgtype.Timestamptz{Time: last.EndedAt.Add(changeTime), Valid: true}, JobID: strconv.FormatInt(e.id, 10),
		})
	})
	if err != nil || len(rows) == 0 {
		return "", err
	}
	who := rows[0].Principal
	if who == "" {
		who = "an operator who gave no name"
	}
	text := " By " + who
	if rows[0].Reason != "" {
		text += ", who gave as the reason " + strconv.Quote(head(rows[0].Reason))
	}
	return text + ".", nil
}
