package admin

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
)

// WorkerState says whether a Go worker lives.
type WorkerState string

// The states of workers.
const (
	WorkerLives    WorkerState = "lives"
	WorkerSilent   WorkerState = "silent"   // it has sent no heartbeat for more than 30 s, and nobody has declared it dead yet
	WorkerEmptying WorkerState = "emptying" // it takes no jobs until it has tried suspects
	WorkerStopping WorkerState = "stopping" // it takes no jobs any more
	WorkerDead     WorkerState = "dead"     // it has ended, or was declared dead, within the last day
)

// WorkerStatus is a Go worker with what it does.
type WorkerStatus struct {
	Worker

	State     WorkerState `json:"state"`
	Since     Time        `json:"since,omitzero"` // it stops, empties, or is dead
	Started   Time        `json:"started"`
	Forbidden []string    `json:"forbidden,omitempty"` // flags of jobs that it does not take
	// RunningJobs are those that it said it runs at its last heartbeat. They are not told where a
	// principal may see only some.
	RunningJobs []int64 `json:"running_jobs,omitempty"`
}

// WorkerList is the workers of a database: those that live, then those that have died in the last day.
type WorkerList struct {
	At      time.Time      `json:"at"` // by the database's clock
	Workers []WorkerStatus `json:"workers"`
	// NodeSessions is how many sessions listen as Node workers do, which have no rows; nil: that
	// cannot be seen.
	NodeSessions *int64    `json:"node_sessions,omitempty"`
	Missing      []Missing `json:"missing,omitempty"`
}

// Workers lists the workers, 1,000 at most.
func (a *Admin) Workers(ctx context.Context) (*WorkerList, error) {
	var list *WorkerList
	err := a.read(ctx, func(r *reading) error {
		list = &WorkerList{At: r.now, Workers: []WorkerStatus{}}
		if err := r.readWorkers(); err != nil {
			return err
		}
		for i := range r.workers {
			w := &r.workers[i]
			if a.may(ctx, ActionRead, Target{Kind: KindWorker, ID: w.ID}) {
				list.Workers = append(list.Workers, a.newWorkerStatus(ctx, w))
			}
		}
		if r.seesSessions() {
			peers, known, err := fact(r, "the sessions of Node workers", (*query.Queries).ListenersOfPeers)
			if err != nil {
				return err
			}
			if known {
				list.NodeSessions = &peers
			}
		}
		list.Missing = r.missing()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	return list, nil
}

func (a *Admin) newWorkerStatus(ctx context.Context, w *query.WhyWorkersRow) WorkerStatus {
	s := WorkerStatus{Worker: newWorker(*w), State: WorkerLives, Started: timeOf(w.StartedAt), Forbidden: w.Forbidden}
	switch {
	case w.DeadAt.Valid:
		s.State, s.Since = WorkerDead, timeOf(w.DeadAt)
	case silence(*w) > deadAfter:
		s.State, s.Since = WorkerSilent, timeOf(w.HeartbeatAt)
	case w.StoppingAt.Valid:
		s.State, s.Since = WorkerStopping, timeOf(w.StoppingAt)
	case w.EmptyingAt.Valid:
		s.State, s.Since = WorkerEmptying, timeOf(w.EmptyingAt)
	}
	s.Tasks = a.readable(ctx, s.Tasks)
	if a.seesAll(ctx) {
		s.RunningJobs = w.Running
	}
	return s
}

// readable leaves out the tasks that the principal may not read.
func (a *Admin) readable(ctx context.Context, tasks []string) []string {
	if a.seesAll(ctx) {
		return tasks
	}
	return slices.DeleteFunc(slices.Clone(tasks), func(task string) bool {
		return !a.may(ctx, ActionRead, Target{Kind: KindTask, Task: task})
	})
}

// Crontab is an entry of a schedule, as the database knows it: what it does, and when, is in the code
// of the workers.
type Crontab struct {
	Identifier string `json:"identifier"`
	KnownSince Time   `json:"known_since"`
	LastTick   Time   `json:"last_tick,omitzero"` // for which a job was enqueued; zero: none yet
}

// CrontabList is a page of entries, by identifier.
type CrontabList struct {
	At       time.Time `json:"at"` // by the database's clock
	Crontabs []Crontab `json:"crontabs"`
	Next     string    `json:"next,omitempty"` // for NamePage.After; "": this was the last page
	Missing  []Missing `json:"missing,omitempty"`
}

// Crontabs lists the entries of schedules that a worker has had, also if none has them any more.
func (a *Admin) Crontabs(ctx context.Context, page NamePage) (*CrontabList, error) {
	after, size, err := page.check()
	if err != nil {
		return nil, fmt.Errorf("list crontabs: %w", err)
	}
	var list *CrontabList
	err = a.read(ctx, func(r *reading) error {
		list = &CrontabList{At: r.now, Crontabs: []Crontab{}}
		defer func() { list.Missing = r.missing() }()
		if !r.can(crontabsTable, "the crontabs") {
			return nil
		}
		for full := false; !full; {
			rows, known, err := fact(r, "the crontabs", func(q *query.Queries, ctx context.Context) ([]query.GraphileWorkerPrivateKnownCrontab, error) {
				return q.Crontabs(ctx, query.CrontabsParams{After: after, Size: int32(size + 1)}) //nolint:gosec // bounded
			})
			if err != nil || !known {
				return err
			}
			for _, row := range rows {
				if full = len(list.Crontabs) == size; full {
					list.Next = nameNext(after.String)
					break
				}
				after.String, after.Valid = row.Identifier, true
				if a.may(ctx, ActionRead, Target{Kind: KindCron, ID: row.Identifier}) {
					list.Crontabs = append(list.Crontabs, Crontab{row.Identifier, timeOf(row.KnownSince), timeOf(row.LastExecution)})
				}
			}
			full = full || len(rows) <= size
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list crontabs: %w", err)
	}
	return list, nil
}

const crontabsTable = "_private_known_crontabs"
