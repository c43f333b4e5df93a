package admin

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
)

// Rates are how many jobs have ended lately, and how long they took, as the Go workers have counted
// them. A worker writes its counts down every 5 seconds, so these are so old at most; one that was
// killed has taken the last of them with it. Node workers count nothing.
type Rates struct {
	At     time.Time `json:"at"` // by the database's clock
	Schema string    `json:"schema"`
	// Tasks are those of which jobs have started or ended within an hour, by name.
	Tasks []TaskRates `json:"tasks"`
	// Missing is what could not be read, so that tasks may be left out.
	Missing []Missing `json:"missing,omitempty"`
}

// TaskRates are the rates of one task.
type TaskRates struct {
	Task   string `json:"task"`
	Recent Rate   `json:"recent"` // of the last 5 minutes
	Hour   Rate   `json:"hour"`   // of the last 60
}

// Rate says how many jobs have ended within a time, and how long they took.
type Rate struct {
	Seconds float64 `json:"seconds"` // how long that time is
	// PerSecond is how many attempts have ended in a second, whatever their outcomes.
	PerSecond float64  `json:"per_second"`
	Ended     Outcomes `json:"ended"`
	Run       Spread   `json:"run"`  // of handlers, until they have returned
	Wait      Spread   `json:"wait"` // between the time at which a job was due and its start
}

// Outcomes counts attempts by how they have ended.
type Outcomes struct {
	Completed int64 `json:"completed"`
	Failed    int64 `json:"failed"` // to be tried again
	Dead      int64 `json:"dead"`   // failed for good
	Snoozed   int64 `json:"snoozed"`
	Returned  int64 `json:"returned"` // given back, as by a stop, to run again
	Canceled  int64 `json:"canceled"`
}

func (o Outcomes) all() int64 {
	return o.Completed + o.Failed + o.Dead + o.Snoozed + o.Returned + o.Canceled
}

// Spread says how long something took, in seconds. Percentiles come from a histogram, and are off by
// less than 41 %. All are 0 if there was nothing.
type Spread struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_s"`
	P50   float64 `json:"p50_s"`
	P95   float64 `json:"p95_s"`
	P99   float64 `json:"p99_s"`
}

// The times of rates, in minutes.
const recentMinutes, hourMinutes = 5, 60

// countersTable is there where backfill migrate was run.
const countersTable = "backfill_counters"

// Rates returns the rates of all tasks that the principal may see. Without the table of counts, which
// backfill migrate makes, there are none.
func (a *Admin) Rates(ctx context.Context) (*Rates, error) {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout+answerTimeout)
	defer cancel()
	rates := &Rates{Schema: a.schema, Tasks: []TaskRates{}}
	err := pg.Read(ctx, a.pool, a.schema, func(reader *pg.Reader) error {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		r := &reading{ctx: ctx, reader: reader}
		if err := r.readServer(); err != nil {
			return err
		}
		tasks, err := r.rates()
		for _, task := range tasks {
			if a.may(ctx, ActionRead, Target{Kind: KindTask, Task: task.Task}) {
				rates.Tasks = append(rates.Tasks, task)
			}
		}
		rates.At = r.now
		for _, missing := range reader.Missing {
			rates.Missing = append(rates.Missing, Missing(missing))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return rates, nil
}

// taskCounts are the counts of one task, apart from those that are recent, as the tables have them.
type taskCounts struct {
	old, recent sums
}

type sums struct {
	ended           Outcomes
	runSum, waitSum float64
	run, wait       []wire.ClassCount
}

func (c sums) plus(more sums) sums {
	c.ended.Completed += more.ended.Completed
	c.ended.Failed += more.ended.Failed
	c.ended.Dead += more.ended.Dead
	c.ended.Snoozed += more.ended.Snoozed
	c.ended.Returned += more.ended.Returned
	c.ended.Canceled += more.ended.Canceled
	c.runSum += more.runSum
	c.waitSum += more.waitSum
	c.run, c.wait = slices.Concat(c.run, more.run), slices.Concat(c.wait, more.wait)
	return c
}

// rates reads the rates of all tasks.
func (r *reading) rates() (rates []TaskRates, err error) {
	const what = "the counts of jobs that have ended"
	if !r.can(countersTable, what) {
		return nil, nil
	}
	if r.relations[countersTable].Hidden {
		r.miss(what, "row level security hides some or all of them from role "+r.server.Role)
	}
	tasks := make(map[string]*taskCounts)
	of := func(task string, recent bool) *sums {
		if tasks[task] == nil {
			tasks[task] = &taskCounts{}
		}
		if recent {
			return &tasks[task].recent
		}
		return &tasks[task].old
	}
	totals, known, err := fact(r, what, func(q *query.Queries, ctx context.Context) ([]query.RatesRow, error) {
		return q.Rates(ctx, query.RatesParams{Recent: recentMinutes, Minutes: hourMinutes})
	})
	if err != nil || !known {
		return nil, err
	}
	for _, row := range totals {
		c := of(row.TaskIdentifier, row.Recent)
		c.ended = Outcomes{row.Completed, row.Failed, row.Dead, row.Snoozed, row.Returned, row.Canceled}
		c.runSum, c.waitSum = row.RunSeconds, row.WaitSeconds
	}
	classes, known, err := fact(r, what, func(q *query.Queries, ctx context.Context) ([]query.RateClassesRow, error) {
		return q.RateClasses(ctx, query.RateClassesParams{Recent: recentMinutes, Minutes: hourMinutes})
	})
	if err != nil || !known {
		return nil, err
	}
	for _, row := range classes {
		c, count := of(row.TaskIdentifier, row.Recent), wire.ClassCount{Class: row.Class, Count: row.Count}
		if row.Waiting {
			c.wait = append(c.wait, count)
		} else {
			c.run = append(c.run, count)
		}
	}
	for task, counts := range tasks {
		rates = append(rates, TaskRates{
			Task: task, Recent: r.rate(counts.recent, recentMinutes), Hour: r.rate(counts.recent.plus(counts.old), hourMinutes),
		})
	}
	slices.SortFunc(rates, func(a, b TaskRates) int { return strings.Compare(a.Task, b.Task) })
	return rates, nil
}

// rate is what was counted in the last minutes, of which this one has only begun.
func (r *reading) rate(c sums, minutes int) Rate {
	seconds := (time.Duration(minutes-1)*time.Minute + r.now.Sub(r.now.Truncate(time.Minute))).Seconds()
	return Rate{
		Seconds: seconds, PerSecond: float64(c.ended.all()) / max(seconds, 1), Ended: c.ended, Run: spread(c.run, c.runSum), Wait: spread(c.wait, c.waitSum),
	}
}

func spread(in []wire.ClassCount, sum float64) (s Spread) {
	for _, c := range in {
		s.Count += c.Count
	}
	if s.Count == 0 {
		return s
	}
	slices.SortFunc(in, wire.CompareClasses)
	s.Mean = sum / float64(s.Count)
	s.P50, s.P95, s.P99 = wire.Percentile(in, 0.5).Seconds(), wire.Percentile(in, 0.95).Seconds(), wire.Percentile(in, 0.99).Seconds()
	return s
}
