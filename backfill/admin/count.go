package admin

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
)

// Count is a number that may not be exact, because counting takes too long.
type Count struct {
	N     int64 `json:"n"`
	Exact bool  `json:"exact"`
	// More says that N is the least that it is: counting ended there. A number that is neither exact
	// nor this is an estimate.
	More bool `json:"more,omitempty"`
}

// upTo makes a count of a number that was counted up to one more than counted.
func upTo(n int64) Count {
	if n > counted {
		return Count{N: counted, More: true}
	}
	return Count{N: n, Exact: true}
}

// String writes it for people: "1,234", "more than 10,000", or "≈ 1.2 million".
func (c Count) String() string {
	switch {
	case c.Exact:
		return grouped(c.N)
	case c.More:
		return "more than " + grouped(c.N)
	case c.N == 0:
		return "few, if any"
	case c.N >= 999_500_000:
		return fmt.Sprintf("≈ %.3g billion", float64(c.N)/1e9)
	case c.N >= 999_500:
		return fmt.Sprintf("≈ %.3g million", float64(c.N)/1e6)
	default:
		digits := math.Pow(10, max(0, math.Floor(math.Log10(float64(c.N)))-1))
		return "≈ " + grouped(int64(math.Round(float64(c.N)/digits)*digits))
	}
}

// grouped writes a number with commas.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for at := len(text) - 3; at > 0 && text[at-1] != '-'; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

func (c Count) add(n float64, exact bool) Count {
	return Count{N: c.N + int64(math.Round(n)), Exact: exact}
}

// States is how many jobs are in each state, and in all.
type States struct {
	Waiting Count `json:"waiting"`
	Due     Count `json:"due"`
	Running Count `json:"running"`
	Suspect Count `json:"suspect"`
	Failed  Count `json:"failed"`
	Total   Count `json:"total"`
}

// Counts is how many jobs there are.
type Counts struct {
	At     time.Time `json:"at"` // by the database's clock
	States `json:"states"`
	// Missing is what could not be read. If it is the jobs, the numbers mean nothing.
	Missing []Missing `json:"missing,omitempty"`
}

// TaskCounts is how many jobs of a task there are, and who takes them.
type TaskCounts struct {
	Task   string `json:"task"` // "": of all jobs whose task has no row any more
	States States `json:"states"`
	Paused bool   `json:"paused,omitempty"`
	// Workers is how many Go workers that live serve it; nil: that is not known.
	Workers *int `json:"workers,omitempty"`
}

// TaskList is all tasks, by name: the first 10,000.
type TaskList struct {
	At      time.Time    `json:"at"` // by the database's clock
	Tasks   []TaskCounts `json:"tasks"`
	Missing []Missing    `json:"missing,omitempty"`
}

const (
	// wholePages is how many pages a table has at most whose jobs are all counted: 12 MB, as a rule.
	wholePages = 1_536
	// sampledPages is how many are read of a larger one.
	sampledPages = 512
)

// Counts counts jobs, without those of tasks and queues that the principal may not read. Up to about
// 100,000 jobs the numbers are exact; beyond, they are estimated from pages of the table that are
// chosen at random.
func (a *Admin) Counts(ctx context.Context) (*Counts, error) {
	var counts *Counts
	err := a.read(ctx, func(r *reading) error {
		counts = &Counts{At: r.now}
		byTask, err := a.countStates(r)
		if err != nil {
			return err
		}
		for _, states := range byTask {
			counts.sum(states)
		}
		if len(byTask) == 0 {
			counts.States = none(r.exact)
		}
		counts.Missing = r.missing()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count jobs: %w", err)
	}
	return counts, nil
}

// none is the states of no job.
func none(exact bool) States {
	zero := Count{Exact: exact}
	return States{zero, zero, zero, zero, zero, zero}
}

func (s *States) sum(other *States) {
	for _, pair := range [][2]*Count{
		{&s.Waiting, &other.Waiting},
		{&s.Due, &other.Due},
		{&s.Running, &other.Running},
		{&s.Suspect, &other.Suspect},
		{&s.Failed, &other.Failed},
		{&s.Total, &other.Total},
	} {
		*pair[0] = Count{N: pair[0].N + pair[1].N, Exact: pair[1].Exact}
	}
}

// Tasks counts the jobs of each task, as Counts does.
func (a *Admin) Tasks(ctx context.Context) (*TaskList, error) {
	var list *TaskList
	err := a.read(ctx, func(r *reading) error {
		list = &TaskList{At: r.now, Tasks: []TaskCounts{}}
		byTask, err := a.countStates(r)
		if err != nil {
			return err
		}
		if r.can(tasksTable, "the tasks") {
			names, _, err := fact(r, "the tasks", (*query.Queries).TaskNames)
			if err != nil {
				return err
			}
			for _, name := range names {
				if byTask[name] == nil && a.may(ctx, ActionRead, Target{Kind: KindTask, Task: name}) {
					zero := none(r.exact)
					byTask[name] = &zero
				}
			}
		}
		if err := r.readWorkers(); err != nil {
			return err
		}
		paused, err := r.readPauses()
		if err != nil {
			return err
		}
		for task, states := range byTask {
			t := TaskCounts{Task: task, States: *states}
			t.Paused = slices.ContainsFunc(paused, func(p query.PausesRow) bool { return p.QueueName == "" && p.Task == task })
			if r.workersKnown {
				t.Workers = new(int)
				for _, w := range r.workers {
					if r.serves(&w, task) {
						*t.Workers++
					}
				}
			}
			list.Tasks = append(list.Tasks, t)
		}
		slices.SortFunc(list.Tasks, func(a, b TaskCounts) int { return strings.Compare(a.Task, b.Task) })
		list.Missing = r.missing()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	return list, nil
}

// countStates counts jobs by task, those that the principal may read, and says in r.exact whether all
// were counted.
func (a *Admin) countStates(r *reading) (map[string]*States, error) {
	byTask := map[string]*States{}
	if !r.seesJobs() {
		return byTask, nil
	}
	pages, known, err := fact(r, "the jobs", func(q *query.Queries, ctx context.Context) (int64, error) {
		return q.JobPages(ctx, r.reader.Schema())
	})
	if err != nil || !known {
		return byTask, err
	}
	percent := float32(100)
	if r.exact = pages <= wholePages; !r.exact {
		percent = float32(100 * sampledPages / float64(pages))
	}
	rows, _, err := fact(r, "the jobs", func(q *query.Queries, ctx context.Context) ([]query.CountStatesRow, error) {
		return q.CountStates(ctx, query.CountStatesParams{ByQueue: !a.seesAll(r.ctx), Percent: percent})
	})
	if err != nil {
		return byTask, err
	}
	for _, row := range rows {
		if !a.may(r.ctx, ActionRead, Target{Kind: KindJob, Task: row.Task, Queue: row.Queue}) {
			continue
		}
		s := byTask[row.Task]
		if s == nil {
			s = &States{}
			byTask[row.Task] = s
		}
		for _, n := range []struct {
			to *Count
			n  int64
		}{{&s.Waiting, row.Waiting}, {&s.Due, row.Due}, {&s.Running, row.Running}, {&s.Suspect, row.Suspect}, {&s.Failed, row.Failed}} {
			*n.to = n.to.add(float64(n.n)*100/float64(percent), r.exact)
			s.Total = s.Total.add(float64(n.n)*100/float64(percent), r.exact)
		}
	}
	return byTask, nil
}

// serves reports whether a worker lives and takes jobs of a task.
func (r *reading) serves(w *query.WhyWorkersRow, task string) bool {
	return r.takes(w) && slices.Contains(w.Tasks, task)
}

// takes reports whether a worker lives and takes jobs.
func (r *reading) takes(w *query.WhyWorkersRow) bool {
	return !w.DeadAt.Valid && !w.StoppingAt.Valid && silence(*w) <= deadAfter
}

// readPauses reads what is paused. Where backfill migrate was not run, nothing is.
func (r *reading) readPauses() ([]query.PausesRow, error) {
	for _, table := range []string{pausesTable, queuePausesTable} {
		if _, there := r.relations[table]; !there || !r.can(table, "what is paused") {
			return nil, nil
		}
	}
	rows, _, err := fact(r, "what is paused", (*query.Queries).Pauses)
	return rows, err
}

const (
	pausesTable      = "backfill_pauses"
	queuePausesTable = "backfill_queue_pauses"
)
