package admin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
)

// explainAbsence is for an id without a row that could be seen.
func (e *explaining) explainAbsence() error {
	jobs, there := e.relations[jobsTable]
	view := e.relations[jobsView]
	if there && !e.byView && (!jobs.Readable || jobs.Hidden) || there && e.byView && !view.Readable {
		e.explainUnseen(jobs)
	}
	for _, look := range []func() error{e.lookInLetters, e.explainEnd, e.lookAtIDs, e.lookAtWriters} {
		if err := look(); err != nil {
			return err
		}
	}
	switch {
	case len(e.blockers) > 0:
	case !there:
		e.block(Blocker{Code: Unseen, Text: fmt.Sprintf("The schema %s has no jobs: it has no table %s.", e.reader.Schema(), jobsTable)})
	default:
		b := Blocker{Code: Gone, Text: fmt.Sprintf("There is no job %d. Its id was given out, so it is done, was removed or cancelled, or the transaction "+
			"that enqueued it was rolled back: which of them, cannot be told.", e.id)}
		if !e.givenOut {
			b.Text = fmt.Sprintf("There is no job %d. It is done, was removed or cancelled, was rolled back, or has never been there: which of them, cannot be told.", e.id)
		}
		if !e.seesSessions() {
			b.Text += " Or a transaction that cannot be seen here has made it, and is open."
		}
		e.block(b)
	}
	return e.lookInSchemas()
}

// explainUnseen is for a role that may not read the jobs, or not all of them.
func (e *explaining) explainUnseen(jobs query.RelationsRow) {
	b := Blocker{Code: Unseen, Text: fmt.Sprintf("Whether there is a job %d cannot be told: role %s needs the right to select from %s, %s and %s, or from the view %s.",
		e.id, e.server.Role, e.table(jobsTable), e.table(queuesTable), e.table(tasksTable), e.table(jobsView))}
	if jobs.Readable {
		b.Text = fmt.Sprintf("Role %s sees no job %d, which does not say that there is none: row level security hides jobs from it.", e.server.Role, e.id)
	}
	role := pg.QuoteIdentifier(e.server.Role)
	b.Remedies = []Remedy{{
		"Let the role read the view, which shows all jobs without their payloads, as the owner of the tables:",
		fmt.Sprintf("grant usage on schema %s to %s; grant select on %s to %s;", pg.QuoteIdentifier(e.reader.Schema()), role, e.table(jobsView), role),
	}}
	if _, ours := e.relations[workersTable]; ours {
		b.Remedies = append(b.Remedies, Remedy{"Or let it read everything:", e.backfill("migrate --reader-role " + shellQuote(e.server.Role))})
	}
	e.block(b)
}

// lookInSchemas looks for the id in other schemas.
func (e *explaining) lookInSchemas() error {
	schemas, _, err := fact(&e.reading, "other schemas", (*query.Queries).SchemasWithJobs)
	if err != nil {
		return err
	}
	var found []string
	for _, schema := range schemas {
		if schema.Name == e.reader.Schema() || !schema.Readable {
			continue
		}
		other := e.reader.In(schema.Name)
		there, err := pg.Fact(e.ctx, other, "the schema "+schema.Name, func(q *query.Queries, ctx context.Context) (bool, error) {
			return q.JobExists(ctx, e.id)
		})
		if err != nil && !errors.Is(err, pg.ErrMissing) {
			return err
		}
		if e.reader.Missing = append(e.reader.Missing, other.Missing...); there {
			found = append(found, schema.Name)
		}
	}
	if len(found) > 0 {
		other := Blocker{
			Code: OtherSchema, Schemas: found,
			Text:     fmt.Sprintf("The schema %s has no job %d. There is one in the schema %s.", e.reader.Schema(), e.id, strings.Join(found, ", and in ")),
			Remedies: []Remedy{{"To ask about that one:", fmt.Sprintf("backfill why --schema %s %d", shellQuote(found[0]), e.id)}},
		}
		if code := e.blockers[0].Code; code == NotGivenOut || code == Unseen { // this schema cannot be meant
			e.blockers = append([]Blocker{other}, e.blockers...)
		} else {
			e.block(other)
		}
	}
	return nil
}

// lookInLetters looks for a dead letter that the job has become.
func (e *explaining) lookInLetters() error {
	if !e.can("backfill_dlq", "dead letters") {
		return nil
	}
	letters, _, err := fact(&e.reading, "dead letters", func(q *query.Queries, ctx context.Context) ([]query.WhyLettersRow, error) {
		return q.WhyLetters(ctx, e.id)
	})
	if err != nil || len(letters) == 0 {
		return err
	}
	l := letters[0]
	target := Target{Kind: KindDeadLetter, ID: strconv.FormatInt(l.ID, 10), Task: l.Task, Queue: l.Queue}
	if l.OriginalJobID != e.id { // it is a requeued one, which has ended since
		if !e.admin.may(e.ctx, ActionRead, target) {
			return nil
		}
		e.notes = append(e.notes, fmt.Sprintf("It was made of dead letter %d, of job %d.", l.ID, l.OriginalJobID))
		return nil
	}
	b := Blocker{
		Code: DeadLetter, DeadLetter: l.ID, Since: timeOf(l.FailedAt),
		Text: fmt.Sprintf("Job %d (%s) has failed for good (%s) at %s, after %d of %d attempts, and is dead letter %d.", e.id, l.Task,
			l.FailureReason, clock(l.FailedAt.Time, e.now), l.Attempts, l.MaxAttempts, l.ID),
	}
	b.Text += " " + reasonTexts[l.FailureReason]
	if l.FailureCount > 1 {
		b.Text += fmt.Sprintf(" It has failed for good %d times, and was requeued %d times.", l.FailureCount, l.RequeuedCount)
	}
	if err := e.admin.allow(e.ctx, ActionRead, target); err != nil {
		return err
	}
	shown := e.admin.redact(e.ctx, target, []byte(l.Payload))
	if l.LastError != "" {
		b.Text += " The last error: " + strconv.Quote(head(shown.text(l.LastError, false)))
	}
	if l.FirstError != "" && l.FirstError != l.LastError {
		b.Text += ". The first: " + strconv.Quote(head(shown.text(l.FirstError, false)))
	}
	id := strconv.FormatInt(l.ID, 10)
	if l.RequeuedJobID > 0 {
		b.Text += fmt.Sprintf(" It was requeued as job %d.", l.RequeuedJobID)
		b.Remedies = []Remedy{{"To see how that one stands:", e.backfill(fmt.Sprint("why ", l.RequeuedJobID))}}
	} else {
		b.Remedies = []Remedy{
			{"To see it with its args:", e.backfill("dlq show " + id)},
			{"When its cause is mended, to run it again:", e.backfill("dlq requeue " + id)},
		}
	}
	e.block(b)
	return nil
}

// reasonTexts say what the reasons of dead letters mean.
var reasonTexts = map[string]string{
	"exhausted":   "Its last attempt failed as those before.",
	"permanent":   "Its handler said that no other attempt would do better.",
	"crashed":     "Workers died that ran it, and nothing else that they ran explains it.",
	"interrupted": "It had one attempt, which was cut off, and must not run twice.",
	"swept":       "It was found without attempts left: a Node worker, or one without dead letters, had run it.",
}

// lookAtIDs says whether the id was given out yet.
func (e *explaining) lookAtIDs() error {
	if _, there := e.relations[jobsTable]; !there || len(e.blockers) > 0 || e.server.Standby { // which is told 32 ids at once
		return nil
	}
	last, _, err := fact(&e.reading, "the last id", func(q *query.Queries, ctx context.Context) ([]int64, error) {
		return q.LastID(ctx, e.reader.Schema())
	})
	switch {
	case err != nil:
		return err
	case len(last) == 0:
		e.miss("the last id that was given out", "role "+e.server.Role+" needs the right to select from "+e.table("jobs_id_seq1"))
	case e.id > last[0]:
		e.block(Blocker{Code: NotGivenOut, Text: fmt.Sprintf("There is no job %d, and never was: the last id that was given out in the schema %s is %d.",
			e.id, e.reader.Schema(), last[0])})
	default:
		e.givenOut = true
	}
	return nil
}

// lookAtWriters looks for transactions that may have made the job and are open.
func (e *explaining) lookAtWriters() error {
	if _, there := e.relations[jobsTable]; !there || len(e.blockers) > 0 {
		return nil
	}
	sessions, err := e.readWriters("RowExclusiveLock")
	if err != nil || len(sessions) == 0 {
		return err
	}
	b := Blocker{Code: NotCommitted, Sessions: sessions}
	b.Since = Time{Time: b.Sessions[0].Since}
	b.Text = fmt.Sprintf("There is no job %d that others can see. It may not be committed yet, for", e.id)
	for i, s := range b.Sessions {
		if i > 0 {
			b.Text += ", and"
		}
		b.Text += " " + e.session(s) + " has changed jobs in a transaction that is open"
	}
	b.Text += ". Or it is done, was removed, or rolled back."
	b.Remedies = []Remedy{{Text: "If that transaction has enqueued it, the job runs when it is committed: see why the application keeps it open."}}
	e.block(b)
	return nil
}

// readWriters returns the sessions that have these locks of the table of jobs in a transaction that
// has written something, and is open for longer than one of a single statement.
func (e *explaining) readWriters(modes ...string) (sessions []Session, err error) {
	rows, _, err := fact(&e.reading, "open transactions", func(q *query.Queries, ctx context.Context) ([]query.WhyWritersRow, error) {
		return q.WhyWriters(ctx, query.WhyWritersParams{Relation: e.relations[jobsTable].Oid, Modes: modes})
	})
	for _, row := range rows {
		s := Session{PID: int(row.Pid.Int32), Role: row.Role, Application: row.Application, State: row.State, Since: row.Since.Time.UTC()}
		if e.now.Sub(s.Since) > lockPause {
			sessions = append(sessions, s)
		}
	}
	return sessions, err
}
