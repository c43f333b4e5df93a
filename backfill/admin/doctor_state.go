package admin

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
)

// waitLimit is how long due jobs may wait before it is said that nobody takes them.
const waitLimit = 10 * time.Minute

// examineLine looks at the first jobs of the line: those that no worker serves, and those that none
// ever will, because the row of their task or queue is gone.
func (x *examining) examineLine() error {
	if !x.can(jobsTable, "the jobs that wait") || !x.can(tasksTable, "the tasks") || !x.can(queuesTable, "the queues") {
		return nil
	}
	rows, _, err := fact(&x.reading, "the jobs that wait", func(q *query.Queries, ctx context.Context) ([]query.DoctorLineRow, error) {
		return q.DoctorLine(ctx, x.most)
	})
	if err != nil {
		return err
	}
	peers, known, err := fact(&x.reading, "the sessions of Node workers", (*query.Queries).ListenersOfPeers)
	if err != nil {
		return err
	}
	known = known && x.server.SeesSessions && !x.server.Standby
	for _, row := range rows {
		switch oldest := timeOf(row.Oldest); {
		case row.TaskGone:
			x.find(Finding{
				Code: DanglingTask, Object: strconv.Itoa(int(row.TaskID)), Count: row.Jobs,
				Text:     fmt.Sprintf("%s, %d among them, with the task id %d, which has no row in %s: no worker will ever take them.", waits(row.Jobs), row.FirstJob, row.TaskID, x.table(tasksTable)),
				Remedies: []Remedy{x.giveTask(int64(row.TaskID))},
			})
		case row.Due > 0 && oldest.Infinite == 0 && x.now.Sub(oldest.Time) > waitLimit && !x.served(row.Task) && x.workersKnown && known && peers == 0:
			f := Finding{Code: TaskUnserved, Object: row.Task, Count: row.Due, Since: oldest}
			f.Text = fmt.Sprintf("%s of the task %s, the oldest for %s, and no worker that lives takes them: no Go worker knows the task, and no session listens as a Node worker does.",
				plural(int(row.Due), "job is due,", "jobs are due,"), strconv.Quote(row.Task), span(x.now.Sub(oldest.Time)))
			f.Remedies = []Remedy{{"Start a worker whose code has the task. To see more of one of them:", x.backfill(fmt.Sprint("why ", row.FirstJob))}}
			x.find(f)
		}
	}
	queues, _, err := fact(&x.reading, "the queues of jobs that wait", func(q *query.Queries, ctx context.Context) ([]query.DoctorDanglingQueuesRow, error) {
		return q.DoctorDanglingQueues(ctx, x.most)
	})
	for _, row := range queues {
		x.find(Finding{
			Code: DanglingQueue, Object: strconv.Itoa(int(row.QueueID)), Count: row.Jobs,
			Text:     fmt.Sprintf("%s, %d among them, with the queue id %d, which has no row in %s: no worker will ever take them.", waits(row.Jobs), row.FirstJob, row.QueueID, x.table(queuesTable)),
			Remedies: []Remedy{x.giveQueue(int64(row.QueueID))},
			Fix:      x.giveAnyQueue(row.QueueID),
		})
	}
	return err
}

// served reports whether a Go worker that lives knows a task.
func (x *examining) served(task string) bool {
	return slices.ContainsFunc(x.workers, func(w query.WhyWorkersRow) bool {
		return !w.DeadAt.Valid && silence(w) < deadAfter && slices.Contains(w.Tasks, task)
	})
}

// namesLimit is how many names of queues there may be that no job has.
const namesLimit = 20_000

// examineQueues finds queues that are locked although no job of them is, and names without jobs.
func (x *examining) examineQueues() error {
	if !x.relations[queuesTable].Readable || !x.relations[jobsTable].Readable {
		return nil // it was said
	}
	locked, _, err := fact(&x.reading, "the locked queues", (*query.Queries).DoctorLockedQueues)
	if err != nil {
		return err
	}
	var ids []int32
	for _, row := range locked {
		ids = append(ids, row.ID)
	}
	if len(ids) > 0 {
		holding, known, err := fact(&x.reading, "the jobs of locked queues", func(q *query.Queries, ctx context.Context) ([]int32, error) {
			return q.DoctorQueuesWithLockedJobs(ctx, ids)
		})
		if err != nil {
			return err
		}
		for _, row := range locked {
			if known && !slices.Contains(holding, row.ID) {
				x.findLockedQueue(row)
			}
		}
	}
	names, known, err := fact(&x.reading, "the names of queues", (*query.Queries).DoctorNames)
	if err != nil || !known || names < namesLimit {
		return err
	}
	empty, known, err := fact(&x.reading, "the names of queues without jobs", (*query.Queries).DoctorEmptyQueues)
	if known && empty >= namesLimit {
		x.find(Finding{
			Code: QueueNames, Object: queuesTable, Count: empty,
			Text: fmt.Sprintf("%d of %d names of queues belong to no job. Names with an id or a time in them are never used again, and each claim looks for queues among them.", empty, names),
			Remedies: []Remedy{{
				"To remove them at a time when nobody enqueues, and only then, because a job that is being enqueued would lose its queue:",
				fmt.Sprintf("delete from %s as s where s.locked_at is null and not exists (select from %s as j where j.job_queue_id = s.id);", x.table(queuesTable), x.table(jobsTable)),
			}},
		})
	}
	return err
}

// giveAnyQueue gives jobs of a queue whose name is lost a queue of their own again, so that they go on
// to run one at a time.
func (x *examining) giveAnyQueue(id int32) string {
	return fmt.Sprintf("insert into %[1]s (queue_name) values ('lost queue %[3]d') on conflict do nothing;\n"+
		"update %[2]s set job_queue_id = (select id from %[1]s where queue_name = 'lost queue %[3]d') where job_queue_id = %[3]d and locked_at is null;",
		x.table(queuesTable), x.table(jobsTable), id)
}

func (x *examining) findLockedQueue(row query.DoctorLockedQueuesRow) {
	since := timeOf(row.LockedAt)
	f := Finding{
		Code: QueueUnlocked, Object: row.QueueName, Since: since,
		Text: fmt.Sprintf("The queue %s is locked by %s %s, and no job of it is. Nobody frees it before the lock is 4 hours old, and its jobs wait.",
			strconv.Quote(row.QueueName), orSomebody(row.LockedBy), since.since(x.now)),
		Remedies: []Remedy{x.freeQueue(row.QueueName, since)},
		Fix:      x.freeQueue(row.QueueName, since).Command,
	}
	if x.now.Sub(since.Time) > 4*time.Hour {
		f.Text = strings.Replace(f.Text, "Nobody frees it before the lock is 4 hours old", "Graphile Worker's workers, which free such locks every few minutes, do not seem to run", 1)
	}
	x.find(f)
}

// examineKeys finds jobs that have failed for good and hold keys.
func (x *examining) examineKeys() error {
	if !x.relations[jobsTable].Readable || !x.relations[tasksTable].Readable {
		return nil // it was said
	}
	rows, _, err := fact(&x.reading, "failed jobs with keys", func(q *query.Queries, ctx context.Context) ([]query.DoctorKeysRow, error) {
		return q.DoctorKeys(ctx, x.most)
	})
	for _, row := range rows {
		x.find(Finding{
			Code: FailedKeys, Object: row.Task, Count: row.Jobs,
			Text: fmt.Sprintf("%s of the task %s, such as %s. A job that is enqueued with such a key in the mode unsafe_dedupe is dropped; "+
				"in the other modes, it takes the key.", plural(int(row.Jobs), "key is held by a job that has failed for good,", "keys are held by jobs that have failed for good,"), strconv.Quote(row.Task), strings.Join(quoted(row.Keys), ", ")),
			Remedies: []Remedy{{
				"A Go worker that serves the task makes dead letters of them, an hour after they have failed. To see them, and try again those that are worth it, by reschedule_jobs:",
				fmt.Sprintf("select id, key, last_error from %s where key is not null and attempts >= max_attempts and locked_at is null;", x.table(jobsView)),
			}},
		})
	}
	return err
}

func waits(n int64) string { return plural(int(n), "job waits", "jobs wait") }
