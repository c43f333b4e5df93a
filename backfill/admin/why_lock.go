package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
)

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

// unlock releases what a worker has locked that cannot be asked. Where backfill migrate was not run,
// Graphile Worker's own function does it.
func (e *explaining) unlock(lockedBy string) []Remedy {
	const condition = "If you know that the process is gone, and only then, because a job that still runs would run twice, release everything that it has locked:"
	if _, ours := e.relations[workersTable]; ours {
		return []Remedy{{condition, e.backfill("unlock --force --reason 'its process is gone' " + shellQuote(lockedBy))}}
	}
	return []Remedy{{condition, fmt.Sprintf("select %s(array[%s]);", e.table("force_unlock_workers"), sqlQuote(lockedBy))}}
}
