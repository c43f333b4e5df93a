package admin

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/mask"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
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
	if breaking > newestRevision {
		e.block(Blocker{Code: Unseen, Text: fmt.Sprintf("Revision %d of the schema %s is a breaking change that this version does not know: it knows those up to %d, "+
			"and can say nothing of the job.", breaking, e.reader.Schema(), newestRevision)})
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
	if !e.seen {
		return e.explainAbsence()
	}
	if !e.byView {
		if err := e.readWorkers(); err != nil {
			return err
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
		At: e.now, Schema: e.reader.Schema(), JobID: e.id, Blocker: e.blockers[0], Then: e.blockers[1:], Notes: e.notes,
	}
	for _, missing := range e.reader.Missing {
		if m := Missing(missing); !slices.Contains(x.Missing, m) {
			x.Missing = append(x.Missing, m)
		}
	}
	if e.seen {
		j := e.job
		x.Job = &JobFacts{
			Task: j.Task, Queue: j.Queue, Key: j.Key, Priority: int(j.Priority), RunAt: timeOf(j.RunAt), Attempts: int(j.Attempts),
			MaxAttempts: int(j.MaxAttempts), LastError: mask.Secrets(j.LastError), Flags: j.Flags, Revision: int(j.Revision),
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

// explainLock is for a job that is locked.
func (e *explaining) explainLock() error {
	j := e.job
	since := timeOf(j.LockedAt)
	b := Blocker{Since: since, LockedBy: j.LockedBy}
	_, suspect := wire.CohortOf(j.LockedBy)
	w := e.worker(j.LockedBy)
	if w != nil {
		worker := newWorker(*w)
		b.Worker = &worker
	}
	switch {
	case suspect:
		b.Code = Suspect
		b.Text = fmt.Sprintf("%s waits for a trial: workers died that ran it, together with others, and nobody knows which of them was to blame. "+
			"It waits %s. A Go worker that serves its task tries such jobs in small groups, when it runs nothing else.", e.subject(), since.since(e.now))
	case j.Stale:
		b.Code = LockStale
		b.Text = fmt.Sprintf("%s is locked by %s %s. A lock counts for 4 hours: now any worker may take the job, and the next sweep releases it.",
			e.subject(), j.LockedBy, since.since(e.now))
	case w != nil && w.DeadAt.Valid:
		b.Code = RescuePending
		b.Text = fmt.Sprintf("%s is locked by %s, %s. Any Go worker that lives releases it, within seconds; no attempt is charged.",
			e.subject(), e.place(w), e.life(w))
		if _, alive := e.serving(); len(alive) == 0 {
			b.Text += " None lives: start one."
			b.Remedies = []Remedy{{"Start a worker, or release what the dead one has locked:", e.backfill("unlock " + w.ID)}}
		}
	case w != nil && silence(*w) > deadAfter:
		b.Code = RescuePending
		b.Text = fmt.Sprintf("%s is locked by %s, whose last heartbeat was %s ago: it is dead, or cut off from the database. Another Go worker that lives declares it dead, "+
			"and releases the job; no attempt is charged.", e.subject(), e.place(w), span(silence(*w)))
		if _, alive := e.serving(); len(alive) == 0 {
			b.Text += " None lives: start one."
		}
	case isOurs(j.LockedBy):
		if err := e.explainRunning(&b, w, since); err != nil {
			return err
		}
	default:
		peers, err := e.countPeers()
		if err != nil {
			return err
		}
		b.Code, b.Until = RunningElsewhere, since.later(4*time.Hour)
		b.Text = fmt.Sprintf("%s is locked by %s %s, which is no Go worker. Node workers have no heartbeat, so nobody can tell whether it lives. %s "+
			"If it is gone, the job is released 4 hours after it was locked, at about %s.",
			e.subject(), orSomebody(j.LockedBy), since.since(e.now), peers, b.Until.at(e.now))
		b.Remedies = e.unlock(j.LockedBy)
	}
	if b.Code != Superseded && !suspect && j.Attempts >= j.MaxAttempts {
		e.notes = append(e.notes, "If it fails now, it is not tried again: this is its last attempt, or its key was taken by a newer job, or removed.")
	}
	e.block(b)
	return e.noteRequest()
}

// explainRunning is for a job that a Go worker has locked.
func (e *explaining) explainRunning(b *Blocker, w *query.WhyWorkersRow, since Time) error {
	b.Code = Running
	superseded := e.job.Key == "" && strings.HasSuffix(e.job.LockedBy, "k")
	where := "worker " + strings.SplitN(e.job.LockedBy, ".", 2)[0]
	if e.workersKnown {
		where += ", which has no row in backfill_workers: any Go worker that lives releases the job"
	}
	if w != nil {
		where = e.place(w) + ", " + e.life(w)
	}
	b.Text = fmt.Sprintf("%s runs %s in %s.", e.subject(), since.since(e.now), where)
	if superseded {
		b.Code = Superseded
		b.Text += " Its key was taken by a newer job, or removed, while it ran: if it fails, it is not tried again."
	}
	if w != nil && !w.DeadAt.Valid && !slices.Contains(w.Running, e.id) && silence(*w) < deadAfter {
		b.Text += " The worker's last heartbeat does not name it: it has started or ended since, or waits for a slot there."
	}
	return nil
}

// noteRequest notes that somebody has cancelled the job.
func (e *explaining) noteRequest() error {
	if e.byView || !e.can("backfill_cancels", "requests to cancel it") {
		return nil
	}
	rows, _, err := fact(&e.reading, "requests to cancel it", func(q *query.Queries, ctx context.Context) ([]query.WhyRequestsRow, error) {
		return q.WhyRequests(ctx, e.id)
	})
	if len(rows) == 1 {
		e.notes = append(e.notes, fmt.Sprintf("%s has cancelled it at %s%s: its context has ended, and when its handler returns, it is deleted.",
			somebody(rows[0].RequestedBy), clock(rows[0].RequestedAt.Time, e.now), because(rows[0].Reason)))
	}
	return err
}

func somebody(name string) string {
	if name == "" {
		return "Somebody"
	}
	return name
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + strconv.Quote(reason) + ")"
}

// countPeers says whether workers that are not ours are connected.
func (e *explaining) countPeers() (text string, err error) {
	n, known, err := fact(&e.reading, "the sessions of Node workers", (*query.Queries).ListenersOfPeers)
	switch {
	case err != nil || !known:
		return "", err
	case !e.seesSessions():
		return "Whether a session listens as a Node worker does, this role may not see.", nil
	case n == 0:
		return "No session that listens as a Node worker does can be seen.", nil
	case n == 1:
		return "One session listens as a Node worker does.", nil
	}
	return fmt.Sprintf("%d sessions listen as Node workers do.", n), nil
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
		b.Text += " The last error: " + strconv.Quote(mask.Secrets(head(j.LastError)))
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

// head is the beginning of a text that may be long.
func head(text string) string {
	const most = 500
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
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
		b.Text += fmt.Sprintf(" Attempt %d of %d has failed: %s", j.Attempts, j.MaxAttempts, strconv.Quote(mask.Secrets(head(j.LastError))))
	}
	if j.Key != "" && j.Revision >= pushes {
		b.Text += fmt.Sprintf(" It was enqueued again %d times under its key %s in %s; each time, run_at was set anew, unless the key mode was preserve_run_at or unsafe_dedupe.",
			j.Revision, strconv.Quote(j.Key), span(e.now.Sub(j.CreatedAt.Time)))
	}
	b.Remedies = []Remedy{{"To have it run now:", e.reschedule("")}}
	e.block(b)
	return nil
}

func (e *explaining) checkQueue() error {
	j := e.job
	switch {
	case e.byView:
		return nil
	case j.QueueGone:
		e.block(Blocker{
			Code: QueueRowMissing,
			Text: fmt.Sprintf("%s has the queue id %d, and %s has no such row: no worker will ever take it. A cleanup that ran while the job was being "+
				"enqueued has removed the row.", e.subject(), j.QueueID, e.table(queuesTable)),
			Remedies: []Remedy{e.giveQueue(int64(j.QueueID))},
		})
		return nil
	case !j.QueueLockedAt.Valid:
		return nil
	}
	before, err := e.readLine()
	if err != nil {
		return err
	}
	since := timeOf(j.QueueLockedAt)
	b := Blocker{Code: QueueHeld, Since: since, LockedBy: j.QueueLockedBy, Before: before}
	w := e.worker(j.QueueLockedBy)
	where := orSomebody(j.QueueLockedBy)
	if w != nil {
		worker := newWorker(*w)
		b.Worker, where = &worker, e.place(w)+", "+e.life(w)
	}
	holder, known, err := e.readHolder()
	if err != nil {
		return err
	}
	queue := strconv.Quote(j.Queue)
	if holder != nil {
		b.HolderJob = holder.ID
		b.Text = fmt.Sprintf("%s waits for its queue %s: job %d of the queue runs %s in %s.", e.subject(), queue, holder.ID,
			timeOf(holder.LockedAt).since(e.now), where)
	} else {
		b.Text = fmt.Sprintf("%s waits for its queue %s, which %s has locked %s.", e.subject(), queue, where, since.since(e.now))
	}
	switch {
	case j.QueueStale:
		b.Code = LockStale
		b.Text += " A lock counts for 4 hours: the next sweep, or the next worker that looks, releases the queue."
	case holder == nil && known && w != nil && !w.DeadAt.Valid:
		b.Text += " No job of the queue is locked: the worker frees the queue in a moment, or, if somebody has deleted the job that it runs, when the handler returns."
	case holder == nil && known && isOurs(j.QueueLockedBy):
		b.Text += " No job of the queue is locked: any Go worker that lives frees the queue, within seconds."
	case holder == nil && known:
		b.Code = QueueLocked
		b.Text += " No job of the queue is locked: nobody frees it, before the lock is 4 hours old."
		b.Remedies = []Remedy{e.freeQueue(j.Queue, since)}
	case w == nil && !isOurs(j.QueueLockedBy):
		peers, err := e.countPeers()
		if err != nil {
			return err
		}
		b.Until = since.later(4 * time.Hour)
		b.Text += fmt.Sprintf(" That is no Go worker: Node workers have no heartbeat, so nobody can tell whether it lives. %s If it is gone, the queue is released "+
			"4 hours after it was locked, at about %s.", peers, b.Until.at(e.now))
		b.Remedies = e.unlock(j.QueueLockedBy)
	case holder != nil && (w == nil || !w.DeadAt.Valid):
		b.Remedies = []Remedy{{fmt.Sprintf("Nothing has to be done; to see what job %d does:", holder.ID), e.backfill(fmt.Sprint("why ", holder.ID))}}
	}
	if before != nil {
		switch *before {
		case 0:
			b.Text += " No other job of the queue is before this one."
		case 1:
			b.Text += " 1 more job of the queue is before this one."
		default:
			b.Text += fmt.Sprintf(" %d more jobs of the queue are before this one.", *before)
		}
	}
	e.block(b)
	return nil
}

func count(n int64, one, many string) string {
	switch n {
	case 0:
		return "No " + one
	case 1:
		return "1 " + one
	}
	return strconv.FormatInt(n, 10) + " " + many
}

// plural writes a number of things.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

func orSomebody(lockedBy string) string {
	if lockedBy == "" {
		return "somebody who has left no name"
	}
	return lockedBy
}

// unlock releases what a worker has locked that cannot be asked. Where backfill migrate was not run,
// Graphile Worker's own function does it.
func (e *explaining) unlock(lockedBy string) []Remedy {
	const condition = "If you know that the process is gone, and only then, because a job that still runs would run twice, release everything that it has locked:"
	if _, ours := e.relations[workersTable]; ours {
		return []Remedy{{condition, e.backfill("unlock --force --reason 'its process is gone' " + shellQuote(lockedBy))}}
	}
	return []Remedy{{condition, fmt.Sprintf("select %s(array[%s]);", e.table("force_unlock_workers"), sqlQuote(lockedBy))}}
}

// readRivals returns the tasks whose jobs may be taken before those of this one, and the queues that
// are paused.
func (e *explaining) readRivals(serving []query.WhyWorkersRow) (tasks, pausedQueues []string, err error) {
	var names []query.PausedNamesRow
	if e.relations["backfill_pauses"].Readable && e.relations["backfill_queue_pauses"].Readable {
		if names, _, err = fact(&e.reading, "pauses", (*query.Queries).PausedNames); err != nil {
			return nil, nil, err
		}
	}
	pausedQueues = []string{}
	for _, w := range serving {
		tasks = append(tasks, w.Tasks...)
	}
	for _, p := range names {
		if p.What == "queue" {
			pausedQueues = append(pausedQueues, p.Name)
		} else {
			tasks = slices.DeleteFunc(tasks, func(task string) bool { return task == p.Name })
		}
	}
	return tasks, pausedQueues, nil
}

// noteWriters notes the sessions that have changed jobs in a transaction that is open: a lock that
// was taken in a savepoint is in no table of locks under the number that the row has.
func (e *explaining) noteWriters(b *Blocker) error {
	sessions, err := e.readWriters("RowExclusiveLock", "RowShareLock")
	if len(sessions) == 0 {
		b.Text += " It is taken within seconds."
	}
	for _, s := range sessions {
		b.Sessions = append(b.Sessions, s)
		b.Text += " But " + e.session(s) + " has changed or locked a job. If that is this one, it cannot be taken before that transaction ends."
	}
	return err
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
		Text: fmt.Sprintf("%s has the flags %s, and %s, and forbid one of them.",
			e.subject(), strings.Join(quoted(e.job.Flags), ", "), plural(len(serving), "worker that lives serves its task", "workers that live serve its task")),
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

// checkWorkers says whether anybody takes the job.
func (e *explaining) checkWorkers() error {
	j := e.job
	if j.TaskGone || j.Attempts >= j.MaxAttempts {
		return nil // it does not matter
	}
	serving, alive := e.serving()
	if len(serving) > 0 {
		return e.checkSlots(serving)
	}
	peers, known, err := fact(&e.reading, "the sessions of Node workers", (*query.Queries).ListenersOfPeers)
	if err != nil {
		return err
	}
	known = known && e.seesSessions()
	b := Blocker{Code: NotServed}
	task := strconv.Quote(j.Task)
	node := "Whether Node workers are connected, this role may not see."
	if known {
		node = count(peers, "session listens as a Node worker does.", "sessions listen as Node workers do.")
	}
	if peers > 0 {
		node += " Node workers do not say which tasks they take."
	}
	switch {
	case !e.workersKnown:
		b.Code = Unseen
		b.Text = fmt.Sprintf("%s is due, and not locked. Whether a worker takes it is not known: this role may not see the Go workers. %s", e.subject(), node)
	case len(alive) == 0 && known && peers == 0:
		b.Code = NoWorker
		b.Text = e.subject() + " waits for a worker: none is connected, neither a Go worker nor, as far as can be seen, a Node worker."
	case len(alive) == 0:
		b.Code = PeersUnknown
		b.Text = fmt.Sprintf("%s waits for a worker that takes %s. No Go worker lives. %s", e.subject(), task, node)
	default:
		b.Text = fmt.Sprintf("%s waits for a worker that knows the task %s: of %s none does. %s", e.subject(), task, plural(len(alive), "Go worker that lives", "Go workers that live"), node)
	}
	for _, w := range alive {
		b.Workers = append(b.Workers, newWorker(w))
	}
	if len(alive) > 0 {
		b.Text += " Alive is " + e.place(&alive[0])
		if len(alive) > 1 {
			b.Text += fmt.Sprintf(", and %d more", len(alive)-1)
		}
		b.Text += fmt.Sprintf("; it serves %s.", some(alive[0].Tasks))
	}
	for _, w := range e.workers {
		if !slices.Contains(w.Tasks, j.Task) {
			continue
		}
		switch {
		case w.DeadAt.Valid:
			b.Text += fmt.Sprintf(" The last that did was %s, which ended at %s.", e.place(&w), timeOf(w.DeadAt).at(e.now))
		case w.StoppingAt.Valid:
			b.Text += fmt.Sprintf(" %s does, and is stopping %s.", upper(e.place(&w)), timeOf(w.StoppingAt).since(e.now))
		default:
			b.Text += fmt.Sprintf(" The last that did was %s, %s.", e.place(&w), e.life(&w))
		}
		break
	}
	if _, there := e.relations[workersTable]; !there {
		b.Text += " There is no table of Go workers in this schema."
	}
	b.Remedies = []Remedy{{Text: "Start a worker whose code has the task " + task + "."}}
	e.block(b)
	return nil
}

// some names a few of a list.
func some(names []string) string {
	const most = 5
	switch list := quoted(names); {
	case len(list) == 0:
		return "no task"
	case len(list) > most:
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d more", len(list)-most)
	default:
		return strings.Join(list, ", ")
	}
}

func quoted(names []string) (list []string) {
	for _, name := range names {
		list = append(list, strconv.Quote(name))
	}
	return list
}

// checkSlots is for a job that workers serve that live.
func (e *explaining) checkSlots(serving []query.WhyWorkersRow) error {
	free := 0
	var busy []string
	b := Blocker{Code: SlotsBusy}
	for i, w := range serving {
		b.Workers = append(b.Workers, newWorker(w))
		doing := fmt.Sprintf("; %s runs %d of %d", e.place(&w), len(w.Running), w.Slots)
		switch {
		case w.EmptyingAt.Valid:
			doing = "; " + e.place(&w) + " takes no jobs until it has tried suspects"
		case w.Slots == 0: // an older version does not say
			free, doing = free+1, "; "+e.place(&w)+" does not say how many it has"
		default:
			free += max(int(w.Slots)-len(w.Running), 0)
		}
		if i < 5 {
			busy = append(busy, doing)
		}
	}
	if len(e.blockers) == 0 {
		rivals, pausedQueues, err := e.readRivals(serving)
		if err != nil {
			return err
		}
		ahead, known, err := fact(&e.reading, "the jobs before it", func(q *query.Queries, ctx context.Context) (int64, error) {
			return q.WhyAhead(ctx, query.WhyAheadParams{Priority: e.job.Priority, RunAt: e.job.RunAt, ID: e.id, Tasks: rivals, PausedQueues: pausedQueues})
		})
		if err != nil {
			return err
		}
		if known && ahead > 0 {
			return e.explainLine(ahead, b.Workers)
		}
	}
	switch {
	case free == 0:
		b.Text = fmt.Sprintf("%s waits for a slot: of %s none is free%s.", e.subject(), plural(len(serving), "worker that serves its task", "workers that serve its task"), strings.Join(busy, ""))
		b.Remedies = []Remedy{{Text: "Raise their concurrency, or start more workers."}}
		if id := firstRunning(serving); id != 0 {
			b.Remedies = append(b.Remedies, Remedy{"To see what one of their jobs does:", e.backfill(fmt.Sprint("why ", id))})
		}
		e.block(b)
	case len(e.blockers) == 0:
		b.Code = Next
		b.Text = fmt.Sprintf("%s is due, and nothing that can be seen is in its way: %s serves it.", e.subject(), e.place(&serving[0]))
		if err := e.noteWriters(&b); err != nil {
			return err
		}
		e.block(b)
	}
	return nil
}

func firstRunning(workers []query.WhyWorkersRow) int64 {
	for _, w := range workers {
		if len(w.Running) > 0 {
			return w.Running[0]
		}
	}
	return 0
}

// counted is how many jobs before a job are counted.
const counted = 10_000

// explainLine is for a job that has others before it.
func (e *explaining) explainLine(ahead int64, workers []Worker) error {
	rate, err := e.readRate()
	if err != nil {
		return err
	}
	b := Blocker{Code: Behind, Ahead: &ahead, Rate: rate, Workers: workers}
	number := strconv.FormatInt(ahead, 10)
	if ahead > counted {
		number = "more than " + strconv.Itoa(counted)
	}
	noun := "jobs are"
	if ahead == 1 {
		noun = "job is"
	}
	b.Text = fmt.Sprintf("%s is due, and %s due %s before it, of a better priority number or an earlier run_at.", e.subject(), number, noun)
	if rate > 0 {
		left := time.Duration(float64(ahead) / rate * float64(time.Second))
		b.Until = Time{Time: e.now.Add(left)}
		b.Text += fmt.Sprintf(" %.1f jobs end in a second now, so its turn comes in about %s, at %s", rate, span(left), clock(b.Until.Time, e.now))
		if ahead > counted {
			b.Text += " or later"
		}
		b.Text += "."
	} else {
		b.Text += " No job has ended in the last second, so when its turn comes cannot be told."
	}
	slots, running := 0, 0
	for _, w := range workers {
		slots, running = slots+w.Slots, running+w.Running
	}
	b.Text += fmt.Sprintf(" %s its task, with %d of %d slots in use.", plural(len(workers), "worker serves", "workers serve"), running, slots)
	b.Remedies = []Remedy{{Text: "Raise the concurrency of workers, or start more of them; or give the job a priority number below theirs, by reschedule_jobs."}}
	e.block(b)
	return nil
}

// sqlQuote and shellQuote quote a text for a command that can be pasted.
func sqlQuote(text string) string {
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(text, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

func shellQuote(text string) string {
	if text != "" && strings.IndexFunc(text, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/", r)
	}) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
