package admin

import (
	"context"
	"time"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
)

const (
	// measureTimeout is how long a measurement may take: metrics that come late are of no use.
	measureTimeout = 4 * time.Second
	// measuredPages bounds what is read of the table of jobs: 16 MiB, as pages usually are. If there
	// is more, it is a sample.
	measuredPages = 2048
	// measuredFront is how many of the first jobs of each priority are looked at for their age.
	measuredFront = 1000
	// measuredLetters is how many dead letters are counted, the newest.
	measuredLetters = 100_000
)

// Measurement is what metrics say about a database, at one moment. What could not be read is nil,
// and never 0 or what it was before. Fields may be added.
type Measurement struct {
	_ [0]func()

	Tasks   []TaskMeasurement // by name, also of tasks without jobs; nil: they could not be read
	Letters []LetterMeasurement
	Workers *WorkerMeasurement
	// Estimated says that the numbers of Tasks come from a sample: the table is too large to be read
	// as a whole.
	Estimated bool
	Missing   []Missing
}

// TaskMeasurement says how many jobs of a task there are in each state. Fields may be added.
type TaskMeasurement struct {
	_ [0]func()

	Task string
	// Due are those that a worker could take now, but for their queues; Waiting are scheduled for
	// later; Running are locked; Suspect wait for a trial; Failed have no attempts left, and are not
	// dead letters yet.
	Due, Waiting, Running, Suspect, Failed int64
	// OldestDue is how long the job has been due for that has been due for longest; 0 if none is.
	OldestDue time.Duration
}

// LetterMeasurement says how many dead letters of a task there are that were not requeued, of the
// newest 100,000 of all. Fields may be added.
type LetterMeasurement struct {
	_ [0]func()

	Task   string
	Count  int64
	Oldest time.Duration // since the first of them failed for good
}

// WorkerMeasurement says how many Go workers there are. Fields may be added.
type WorkerMeasurement struct {
	_ [0]func()

	Alive  int64 // have sent a heartbeat within 15 s
	Silent int64 // have not, and were not declared dead
	Slots  int64 // of those that are alive
}

// Measure reads what metrics say about the database, over a connection of its own. What it reads
// is bounded, whatever there is: of a large table it reads a sample. It waits for no lock, and
// takes 4 seconds at most.
func (a *Admin) Measure(ctx context.Context) (*Measurement, error) {
	if err := a.allow(ctx, ActionRead, Target{Kind: KindDatabase}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	m := &Measurement{}
	err := pg.Read(ctx, a.pool, a.schema, func(r *pg.Reader) error {
		return m.read(&reading{ctx: ctx, reader: r})
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Measurement) read(r *reading) (err error) {
	if err = r.readServer(); err != nil {
		return err
	}
	if err = m.readTasks(r); err == nil {
		err = m.readLetters(r)
	}
	if err == nil && r.seesAll(workersTable, "the Go workers") {
		var row query.MeasureWorkersRow
		var known bool
		if row, known, err = fact(r, "the Go workers", (*query.Queries).MeasureWorkers); known {
			m.Workers = &WorkerMeasurement{Alive: row.Alive, Silent: row.Silent, Slots: row.Slots}
		}
	}
	for _, missing := range r.reader.Missing {
		m.Missing = append(m.Missing, Missing(missing))
	}
	return err
}

func (m *Measurement) readTasks(r *reading) error {
	if !r.seesAll(jobsTable, "the jobs") || !r.seesAll(tasksTable, "the tasks") {
		return nil
	}
	pages, known, err := fact(r, "the size of the table of jobs", func(q *query.Queries, ctx context.Context) (int64, error) {
		return q.JobPages(ctx, r.reader.Schema())
	})
	if !known {
		return err
	}
	percent := float32(100)
	if pages > measuredPages {
		percent = float32(100 * float64(measuredPages) / float64(pages))
	}
	rows, known, err := fact(r, "the number of jobs", func(q *query.Queries, ctx context.Context) ([]query.MeasureJobsRow, error) {
		return q.MeasureJobs(ctx, percent)
	})
	if !known {
		return err
	}
	front, known, err := fact(r, "the age of jobs", func(q *query.Queries, ctx context.Context) ([]query.MeasureFrontRow, error) {
		return q.MeasureFront(ctx, measuredFront)
	})
	if !known {
		return err
	}
	oldest := make(map[string]float64, len(front))
	for _, row := range front {
		oldest[row.Task] = row.OldestDue
	}
	m.Estimated = percent < 100
	m.Tasks = make([]TaskMeasurement, len(rows))
	whole := func(n int64) int64 { return int64(float64(n)*100/float64(percent) + 0.5) }
	for i, row := range rows {
		m.Tasks[i] = TaskMeasurement{
			Task: row.Task, Due: whole(row.Due), Waiting: whole(row.Waiting), Running: whole(row.Running),
			Suspect: whole(row.Suspect), Failed: whole(row.Failed),
			OldestDue: time.Duration(max(row.OldestDue, oldest[row.Task], 0) * float64(time.Second)),
		}
	}
	return nil
}

func (m *Measurement) readLetters(r *reading) error {
	if !r.seesAll("backfill_dlq", "the dead letters") {
		return nil
	}
	rows, known, err := fact(r, "the dead letters", func(q *query.Queries, ctx context.Context) ([]query.MeasureLettersRow, error) {
		return q.MeasureLetters(ctx, measuredLetters)
	})
	if !known {
		return err
	}
	m.Letters = make([]LetterMeasurement, len(rows))
	for i, row := range rows {
		m.Letters[i] = LetterMeasurement{Task: row.Task, Count: row.Letters, Oldest: time.Duration(row.Oldest * float64(time.Second))}
	}
	return nil
}

// seesAll reports whether there is a table of which this role sees every row, and notes if it does
// not: a number of some of them would be wrong.
func (r *reading) seesAll(table, what string) bool {
	if !r.can(table, what) {
		return false
	}
	if r.relations[table].Hidden {
		r.miss(what, "row level security hides some or all of the rows of "+r.table(table)+" from role "+r.server.Role)
		return false
	}
	return true
}
