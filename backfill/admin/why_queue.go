package admin

import (
	"fmt"
	"strconv"
	"time"
)

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
