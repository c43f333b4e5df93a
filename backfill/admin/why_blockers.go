package admin

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
)

// explain finds the blockers.
func (e *explaining) explain() error {
	if err := e.readServer(); err != nil {
		return err
	}
	if skew := e.compareClocks(); skew != "" {
		e.notes = append(e.notes, skew)
	}
	highest, breaking, _, err := e.readLedger()
	if err != nil {
		return err
	}
	if breaking > pg.NewestRevision {
		e.block(Blocker{Code: Unseen, Text: fmt.Sprintf("Revision %d of the schema %s is a breaking change that this version does not know: it knows those up to %d, "+
			"and can say nothing of the job.", breaking, e.reader.Schema(), pg.NewestRevision)})
		return nil
	}
	if newer := e.newer(highest); newer != "" {
		e.notes = append(e.notes, newer)
	}
	if e.server.Standby {
		e.notes = append(e.notes, "This is a standby: the tables are told as they were when it last heard of the primary.")
	}
	if err := e.readJob(); err != nil {
		return err
	}
	if e.unread {
		return e.explainUnread()
	}
	if err := e.readPast(); err != nil {
		return err
	}
	if !e.seen {
		return e.explainAbsence()
	}
	if !e.byView {
		if err := e.readWorkers(); err != nil {
			return err
		}
		for i := range e.workers {
			e.workers[i].Tasks = e.admin.readable(e.ctx, e.workers[i].Tasks)
		}
	}
	if e.job.LockedAt.Valid {
		return e.explainLock()
	}
	// In the order in which a claim asks. What follows is about jobs that can run at all.
	for _, condition := range []func() error{e.checkTask, e.checkAttempts, e.checkDue, e.checkQueue, e.checkPauses, e.checkFlags, e.checkLocks} {
		if err := condition(); err != nil {
			return err
		}
	}
	if e.byView {
		if len(e.blockers) == 0 {
			e.block(Blocker{Code: Unseen, Text: fmt.Sprintf("Job %d (%s) is due, and not locked. What keeps it from running, this role may not see.", e.id, e.job.Task)})
		}
		return nil
	}
	return e.checkWorkers()
}

func (e *explaining) block(b Blocker) { e.blockers = append(e.blockers, b) }

// explanation puts together what was found.
func (e *explaining) explanation() *Explanation {
	x := &Explanation{
		At: e.now, Schema: e.reader.Schema(), JobID: e.id, Blocker: e.blockers[0], Then: e.blockers[1:], Notes: e.notes, Past: e.past,
	}
	x.Missing = e.missing()
	if e.seen {
		j := e.job
		x.Job = &JobFacts{
			Task: j.Task, Queue: j.Queue, Key: j.Key, Priority: int(j.Priority), RunAt: timeOf(j.RunAt), Attempts: int(j.Attempts),
			MaxAttempts: int(j.MaxAttempts), LastError: j.LastError, Flags: j.Flags, Revision: int(j.Revision),
			CreatedAt: j.CreatedAt.Time.UTC(), UpdatedAt: j.UpdatedAt.Time.UTC(), LockedAt: timeOf(j.LockedAt), LockedBy: j.LockedBy,
		}
	}
	return x
}

// subject begins a sentence.
func (e *explaining) subject() string {
	if !e.seen {
		return fmt.Sprintf("Job %d, if there is one,", e.id)
	}
	task := e.job.Task
	if e.job.TaskGone {
		task = "of task id " + strconv.Itoa(int(e.job.TaskID))
	}
	return fmt.Sprintf("Job %d (%s)", e.id, task)
}

func (e *explaining) checkTask() error {
	if !e.job.TaskGone || e.byView {
		return nil
	}
	table := e.table(tasksTable)
	e.block(Blocker{
		Code: TaskRowMissing,
		Text: fmt.Sprintf("Job %d has the task id %d, and %s has no such row: no worker will ever take it. A cleanup that ran while the job "+
			"was being enqueued has removed the row.", e.id, e.job.TaskID, table),
		Remedies: []Remedy{e.giveTask(int64(e.job.TaskID))},
	})
	return nil
}

func (e *explaining) checkAttempts() error {
	j := e.job
	if j.Attempts < j.MaxAttempts {
		return nil
	}
	b := Blocker{Code: AttemptsUsed, Text: fmt.Sprintf("%s has failed for good: no attempts are left, %d of %d are used.", e.subject(), j.Attempts, j.MaxAttempts)}
	if j.LastError != "" {
		b.Text += " The last error: " + strconv.Quote(head(j.LastError))
	}
	again := "To try it again:"
	switch {
	case j.Key != "": // whoever supersedes or removes a job that runs takes its key
	case j.LastError == "":
		b.Text += " It has no error and no key: it was superseded by a newer job, or removed, while it ran, or its process ended in its last attempt. Which of them, the row does not say."
		again = "If it is not one that was superseded or removed, which must not run after the newer one, to try it again:"
	default:
		again = "To try it again, unless it had a key that a newer job has taken, which the row does not say:"
	}
	b.Remedies = []Remedy{{again, e.reschedule("attempts := 0")}}
	e.block(b)
	return nil
}

// reschedule is SQL that makes the job due.
func (e *explaining) reschedule(more string) string {
	if more != "" {
		more = ", " + more
	}
	return fmt.Sprintf("select id from %s(array[%d], run_at := now()%s);", e.table("reschedule_jobs"), e.id, more)
}

// pushes is how many enqueues under its key are worth a word.
const pushes = 10

func (e *explaining) checkDue() error {
	j := e.job
	if j.Due || j.Attempts >= j.MaxAttempts {
		return nil
	}
	at := timeOf(j.RunAt)
	b := Blocker{Code: NotDue, Until: at}
	if at.Infinite != 0 {
		b.Text = fmt.Sprintf("%s is never due: its run_at is %s.", e.subject(), at)
	} else {
		b.Text = fmt.Sprintf("%s is not due until %s, in %s.", e.subject(), at.at(e.now), span(at.Time.Sub(e.now)))
	}
	if j.Attempts > 0 && j.LastError != "" {
		b.Text += fmt.Sprintf(" Attempt %d of %d has failed: %s", j.Attempts, j.MaxAttempts, strconv.Quote(head(j.LastError)))
	}
	if j.Key != "" && j.Revision >= pushes {
		b.Text += fmt.Sprintf(" It was enqueued again %d times under its key %s in %s; each time, run_at was set anew, unless the key mode was preserve_run_at or unsafe_dedupe.",
			j.Revision, strconv.Quote(j.Key), span(e.now.Sub(j.CreatedAt.Time)))
	}
	b.Remedies = []Remedy{{"To have it run now:", e.reschedule("")}}
	e.block(b)
	return nil
}

// explainUnread is for a job whose row could not be read: as a rule, because a session has locked a
// whole table.
func (e *explaining) explainUnread() error {
	if err := e.checkLocks(); err != nil || len(e.blockers) > 0 {
		return err
	}
	why := "its row could not be read"
	if n := len(e.reader.Missing); n > 0 {
		why = e.reader.Missing[n-1].Why
	}
	e.block(Blocker{Code: Unseen, Text: fmt.Sprintf("What job %d waits for, or whether there is one, cannot be told: %s.", e.id, why)})
	return nil
}

func (e *explaining) checkPauses() error {
	if e.byView || !e.can("backfill_pauses", "pauses") || !e.can("backfill_queue_pauses", "pauses of queues") {
		return nil
	}
	rows, _, err := fact(&e.reading, "pauses", func(q *query.Queries, ctx context.Context) ([]query.WhyPausesRow, error) {
		return q.WhyPauses(ctx, query.WhyPausesParams{Task: e.job.Task, Queue: e.job.Queue})
	})
	for _, p := range rows {
		b := Blocker{Code: Paused, Since: timeOf(p.PausedAt), Until: timeOf(p.EndsAt)}
		by := p.PausedBy
		if by == "" {
			by = "somebody"
		}
		b.Text = fmt.Sprintf("%s waits because its %s %s is paused, %s by %s%s.", e.subject(), p.What, strconv.Quote(p.Name),
			b.Since.since(e.now), by, because(p.Reason))
		if !b.Until.IsZero() {
			b.Text += fmt.Sprintf(" The pause ends at %s.", b.Until.at(e.now))
		}
		b.Text += " Node workers do not know pauses, and may run it."
		resume := "resume " + shellQuote(p.Name)
		if p.What == "queue" {
			resume = "resume --queue " + shellQuote(p.Name)
		}
		b.Remedies = []Remedy{{"To end the pause:", e.backfill(resume)}}
		e.block(b)
	}
	return err
}

func (e *explaining) checkFlags() error {
	if e.byView || len(e.job.Flags) == 0 {
		return nil
	}
	serving, _ := e.serving()
	var forbidding []Worker
	for _, w := range serving {
		if slices.ContainsFunc(e.job.Flags, func(flag string) bool { return slices.Contains(w.Forbidden, flag) }) {
			forbidding = append(forbidding, newWorker(w))
		}
	}
	if len(serving) == 0 || len(forbidding) < len(serving) {
		return nil
	}
	e.block(Blocker{
		Code: FlagForbidden, Workers: forbidding,
		Text: fmt.Sprintf("%s has the flags %s. Of %s, none takes jobs with all of these flags.", e.subject(), strings.Join(quoted(e.job.Flags), ", "),
			plural(len(serving), "worker that serves its task", "workers that serve its task")),
	})
	return nil
}

func (e *explaining) checkLocks() error {
	if e.byView {
		return nil
	}
	onRow, onTable, err := e.readLockers()
	for _, found := range []struct {
		code     Code
		sessions []Session
	}{{TableLocked, onTable}, {RowLocked, onRow}} {
		if len(found.sessions) == 0 {
			continue
		}
		b := Blocker{Code: found.code, Sessions: found.sessions, Since: Time{Time: found.sessions[0].Since}}
		b.Text = e.subject() + " cannot be taken as long as a transaction is open:"
		for i, s := range found.sessions {
			if i > 0 {
				b.Text += ";"
			}
			b.Text += " " + e.session(s) + " has locked " + s.What
		}
		b.Text += "."
		s := found.sessions[0]
		end := Remedy{
			"End the transaction in that application. If that cannot be done, end its session; what it has done is rolled back:",
			fmt.Sprintf("select pg_terminate_backend(%d);", s.PID),
		}
		if s.PID == 0 {
			end = Remedy{"If whoever has prepared the transaction does not end it:", fmt.Sprintf("rollback prepared %s;", sqlQuote(s.Application))}
		}
		b.Remedies = []Remedy{end}
		e.block(b)
	}
	return err
}
