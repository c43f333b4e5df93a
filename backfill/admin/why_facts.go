package admin

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
)

// explaining is an explanation under way.
type explaining struct {
	reading

	admin    *Admin
	id       int64
	job      query.WhyJobRow
	shown    *redaction // of the job
	seen     bool       // job is a row
	byView   bool       // of the view, so that it says less
	unread   bool       // the row could not be read
	givenOut bool       // the id was
	blockers []Blocker
	notes    []string

	past     *Past  // nil: none is kept
	pastTask string // the name of its task, as the history has it
}

// readJob reads the job, and hides what the principal may not see of it.
func (e *explaining) readJob() error {
	err := e.readRow()
	if err != nil || e.unread {
		return err
	}
	target := Target{Kind: KindJob, ID: strconv.FormatInt(e.id, 10), Task: e.job.Task, Queue: e.job.Queue}
	if err := e.admin.allow(e.ctx, ActionRead, target); err != nil {
		return err
	}
	e.shown = e.admin.redactUnread(e.ctx, target)
	if e.job.Payload != "" {
		e.shown = e.admin.redact(e.ctx, target, []byte(e.job.Payload))
	} else if e.seen && !e.byView { // it is too large
		e.shown.noTexts = true
	}
	e.job.LastError = e.shown.text(e.job.LastError, false)
	return nil
}

// readRow reads the job's row, or, if the role may read no more, what the view says of it.
func (e *explaining) readRow() error {
	if e.relations[jobsTable].Readable && e.relations[tasksTable].Readable && e.relations[queuesTable].Readable {
		rows, known, err := fact(&e.reading, "the job", func(q *query.Queries, ctx context.Context) ([]query.WhyJobRow, error) {
			return q.WhyJob(ctx, e.id)
		})
		if known && len(rows) == 1 {
			e.job, e.seen = rows[0], true
		}
		e.unread = !known
		if err != nil || !known || e.seen || !e.relations[jobsTable].Hidden {
			return err
		}
	}
	if !e.relations[jobsView].Readable {
		return nil
	}
	rows, known, err := fact(&e.reading, "the job in the view", func(q *query.Queries, ctx context.Context) ([]query.WhyJobByViewRow, error) {
		return q.WhyJobByView(ctx, e.id)
	})
	e.byView, e.unread = true, !known
	if len(rows) == 1 {
		v := rows[0]
		e.seen = true
		e.job = query.WhyJobRow{
			ID: v.ID, Task: v.Task, Queue: v.Queue, Priority: v.Priority, RunAt: v.RunAt, Attempts: v.Attempts, MaxAttempts: v.MaxAttempts,
			LastError: v.LastError, CreatedAt: v.CreatedAt, UpdatedAt: v.UpdatedAt, Key: v.Key, LockedAt: v.LockedAt, LockedBy: v.LockedBy,
			Revision: v.Revision, Flags: v.Flags, Due: v.Due, Stale: v.Stale, Available: !v.LockedAt.Valid && v.Attempts < v.MaxAttempts,
		}
		e.miss("locks, workers and pauses", "role "+e.server.Role+" may read the view "+e.table(jobsView)+" alone; "+
			"to see more it needs the right to select from the tables")
	}
	return err
}

// serving returns the workers that live and take jobs of the task, and all that live and take any.
func (e *explaining) serving() (serving, alive []query.WhyWorkersRow) {
	for _, w := range e.workers {
		if w.DeadAt.Valid || w.StoppingAt.Valid || silence(w) > deadAfter {
			continue
		}
		alive = append(alive, w)
		if slices.Contains(w.Tasks, e.job.Task) {
			serving = append(serving, w)
		}
	}
	return serving, alive
}

// deadAfter is how long a worker may be silent before others declare it dead.
const deadAfter = 30 * time.Second

func silence(w query.WhyWorkersRow) time.Duration {
	return time.Duration(w.SilentUs) * time.Microsecond
}

func newWorker(w query.WhyWorkersRow) Worker {
	return Worker{
		ID: w.ID, Host: w.Host, PID: int(w.Pid), Version: w.Version, Heartbeat: w.HeartbeatAt.Time.UTC(), Died: timeOf(w.DeadAt),
		Slots: int(w.Slots), Running: len(w.Running), Tasks: w.Tasks,
	}
}

// isOurs reports whether a lock is a Go worker's.
func isOurs(lockedBy string) bool {
	owner, _, _ := strings.Cut(lockedBy, ".")
	return wire.IsWorkerID(owner) && lockedBy != owner
}

// readLine reads how many jobs of the queue are before the job.
func (e *explaining) readLine() (before *int64, err error) {
	line, known, err := fact(&e.reading, "the queue's line", func(q *query.Queries, ctx context.Context) (query.WhyLineRow, error) {
		return q.WhyLine(ctx, query.WhyLineParams{QueueID: e.job.QueueID, Priority: e.job.Priority, RunAt: e.job.RunAt, ID: e.id})
	})
	if err != nil || !known {
		return nil, err
	}
	if line.More {
		e.notes = append(e.notes, "More than 200,000 jobs are before this one in the line of all queues; those of its queue were counted among the first 200,000.")
	}
	return &line.Before, nil
}

// readHolder finds the job that holds the queue: among those that Go workers say they run, or else
// among all.
func (e *explaining) readHolder() (holder *query.WhyLockedInQueueRow, known bool, err error) {
	var running []int64
	for _, w := range e.workers {
		running = append(running, w.Running...)
	}
	if isOurs(e.job.QueueLockedBy) && len(running) > 0 {
		rows, _, err := fact(&e.reading, "the job that holds the queue", func(q *query.Queries, ctx context.Context) ([]query.WhyRunningInQueueRow, error) {
			return q.WhyRunningInQueue(ctx, query.WhyRunningInQueueParams{Ids: running, QueueID: e.job.QueueID})
		})
		if err != nil {
			return nil, false, err
		}
		if len(rows) > 0 {
			found := query.WhyLockedInQueueRow(rows[0])
			return &found, true, nil
		}
	}
	rows, known, err := fact(&e.reading, "the job that holds the queue", func(q *query.Queries, ctx context.Context) ([]query.WhyLockedInQueueRow, error) {
		return q.WhyLockedInQueue(ctx, e.job.QueueID)
	})
	if err != nil || len(rows) == 0 {
		return nil, known, err
	}
	return &rows[0], true, nil
}

// lockPause is the time between two looks at locks: those that a claim holds are gone by then.
const lockPause = 250 * time.Millisecond

// readLockers returns the sessions that keep claims from the job's row, from that of its queue, or
// from a table.
func (e *explaining) readLockers() (onRow, onTable []Session, err error) {
	what := map[string]string{} // transaction -> what it has locked
	for i, xmax := range e.job.Lockers {
		if xmax == "0" {
			continue
		}
		locked := [...]string{"the job's row", "the row of its queue"}[i]
		for _, transaction := range append(e.sharers(xmax), xmax) {
			what[transaction] = locked
		}
	}
	first, err := e.lookAtLocks(what)
	if err != nil {
		return nil, nil, err
	}
	if len(first) == 0 {
		onRow, err = e.readPrepared(what)
		return onRow, nil, err
	}
	if !sleep(e.ctx, lockPause) {
		return nil, nil, e.ctx.Err()
	}
	second, err := e.lookAtLocks(what)
	if err != nil {
		return nil, nil, err
	}
	for pid, row := range second {
		if was, there := first[pid]; !there || !was.Since.Time.Equal(row.Since.Time) {
			continue
		}
		session := Session{PID: int(pid), Role: row.Role, Application: row.Application, State: row.State, Since: row.Since.Time.UTC()}
		if row.Relation == 0 {
			session.What = what[row.Transaction]
			onRow = append(onRow, session)
			continue
		}
		for name, relation := range e.relations {
			if relation.Oid == row.Relation {
				session.What = "the table " + e.table(name) + ", " + row.Mode
			}
		}
		onTable = append(onTable, session)
	}
	prepared, err := e.readPrepared(what)
	return append(onRow, prepared...), onTable, err
}

// readPrepared returns the prepared transactions that have locked one of the rows.
func (e *explaining) readPrepared(transactions map[string]string) (sessions []Session, err error) {
	if len(transactions) == 0 {
		return nil, nil
	}
	rows, _, err := fact(&e.reading, "prepared transactions", func(q *query.Queries, ctx context.Context) ([]query.WhyPreparedRow, error) {
		return q.WhyPrepared(ctx, query.WhyPreparedParams{Transactions: slices.Collect(maps.Keys(transactions))})
	})
	for _, row := range rows {
		sessions = append(sessions, Session{
			Role: row.Role, Application: row.Name, State: "prepared", Since: row.Since.Time.UTC(), What: transactions[row.Transaction],
		})
	}
	return sessions, err
}

// sharers returns the transactions that share the lock of a row, if several do. Whether xmax is the
// number of one transaction or of such a group, SQL does not say.
func (e *explaining) sharers(xmax string) []string {
	known := len(e.reader.Missing)
	members, _, err := fact(&e.reading, "who shares a row's lock", func(q *query.Queries, ctx context.Context) ([]string, error) {
		return q.MembersOf(ctx, xmax)
	})
	e.reader.Missing = e.reader.Missing[:known] // one transaction
	if err != nil {
		return nil
	}
	return members
}

// lookAtLocks returns the sessions that have locks now, by their process ids.
func (e *explaining) lookAtLocks(transactions map[string]string) (map[int32]query.WhyLockersRow, error) {
	var tables []int64
	for _, name := range []string{jobsTable, queuesTable, tasksTable, workersTable} {
		if relation, there := e.relations[name]; there {
			tables = append(tables, relation.Oid)
		}
	}
	rows, _, err := fact(&e.reading, "the sessions that hold locks", func(q *query.Queries, ctx context.Context) ([]query.WhyLockersRow, error) {
		return q.WhyLockers(ctx, query.WhyLockersParams{
			Transactions: slices.Collect(maps.Keys(transactions)),
			Relations:    tables,
		})
	})
	found := map[int32]query.WhyLockersRow{}
	for _, row := range rows {
		found[row.Pid.Int32] = row
	}
	return found, err
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

const (
	// ratePatience is for how long ends of jobs are counted.
	ratePatience = 3 * time.Second
	// ratePause is the time between two looks.
	ratePause = 200 * time.Millisecond
)

// readRate measures how many jobs end in a second, whoever runs them. Sessions report what they
// have deleted once in a second, so it counts from one report to the last that follows.
func (e *explaining) readRate() (perSecond float64, err error) {
	var began, last time.Time
	var first, latest int64
	for begin := time.Now(); time.Since(begin) < ratePatience && sleep(e.ctx, ratePause); {
		deleted, known, err := fact(&e.reading, "the rate", func(q *query.Queries, ctx context.Context) (int64, error) {
			row, err := q.JobsRemoved(ctx, e.relations[jobsTable].Oid)
			return row.Deleted, err
		})
		switch now := time.Now(); {
		case err != nil || !known:
			return 0, err
		case last.IsZero():
			latest, last = deleted, now // the count, which is not new
		case deleted == latest:
		case began.IsZero():
			first, began = deleted, now
			fallthrough
		default:
			latest, last = deleted, now
		}
	}
	if began.IsZero() || latest == first {
		return 0, nil
	}
	return float64(latest-first) / last.Sub(began).Seconds(), nil
}
