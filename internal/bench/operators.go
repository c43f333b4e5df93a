package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/backfillhq/go/backfill/admin"
)

// operatorRuns is how often each question is asked.
const operatorRuns = 15

// operators measures what operators ask, of a table with many jobs: how long each answer takes, over a connection that is open. The
// jobs are inserted by SQL, half of them due, the rest scheduled or failed for good, with 20 tasks and 1,000 queues; the tables are
// the real ones, logged, with all indexes, and vacuumed once as autovacuum does.
func (l *lab) operators(ctx context.Context, out io.Writer) error {
	if err := l.tables().reset(ctx, 0); err != nil {
		return err
	}
	const perStatement = 250_000
	began := time.Now()
	for first := 0; first < l.opts.stored; first += perStatement {
		for _, statement := range []string{
			"insert into graphile_worker._private_tasks (identifier) select 'task' || i from generate_series(0, 19) as i on conflict do nothing",
			"insert into graphile_worker._private_job_queues (queue_name) select 'queue' || i from generate_series(0, 999) as i on conflict do nothing",
			fmt.Sprintf(`insert into graphile_worker._private_jobs (task_id, job_queue_id, payload, run_at, attempts, max_attempts, last_error, key)
				select t.id, s.id, json_build_object('customer', i, 'note', repeat('x', 40)),
				       case when i %% 10 < 5 then now() - interval '1 hour' else now() + interval '30 days' end,
				       case when i %% 100 = 99 then 25 else 0 end, 25, case when i %% 100 = 99 then 'connection refused' end,
				       case when i %% 10 = 3 then 'key' || i end
				  from generate_series(%d, %d) as i join graphile_worker._private_tasks as t on t.identifier = 'task' || i %% 20
				  left join graphile_worker._private_job_queues as s on i %% 4 = 0 and s.queue_name = 'queue' || i %% 1000`,
				first, min(first+perStatement, l.opts.stored)-1),
		} {
			if _, err := l.admin.Exec(ctx, statement); err != nil {
				return fmt.Errorf("insert jobs: %w", err)
			}
		}
	}
	if _, err := l.admin.Exec(ctx, "vacuum analyze graphile_worker._private_jobs"); err != nil {
		return fmt.Errorf("vacuum: %w", err)
	}
	a, err := admin.Open(l.url)
	if err != nil {
		return err
	}
	defer a.Close()
	fmt.Fprintf(out, "%s jobs, stored in %.0f s. Load of the machine %s.\n\n| question | median ms | most ms | bytes |\n|---|--:|--:|--:|\n",
		thousands(float64(l.opts.stored)), time.Since(began).Seconds(), loadAverage())
	for _, q := range operatorQuestions(a, int64(l.opts.stored)) {
		var times []time.Duration
		size := 0
		for range operatorRuns {
			started := time.Now()
			answer, err := q.ask(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", q.name, err)
			}
			times = append(times, time.Since(started))
			text, err := json.Marshal(answer)
			if err != nil {
				return fmt.Errorf("%s: %w", q.name, err)
			}
			size = len(text)
		}
		slices.Sort(times)
		ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
		fmt.Fprintf(out, "| %s | %.1f | %.1f | %s |\n", q.name, ms(times[len(times)/2]), ms(times[len(times)-1]), thousands(float64(size)))
	}
	fmt.Fprintf(out, "\nLoad of the machine afterwards %s.\n", loadAverage())
	return nil
}

// operatorQuestion is one answer that is measured.
type operatorQuestion struct {
	name string
	ask  func(context.Context) (any, error)
}

func operatorQuestions(a *admin.Admin, last int64) []operatorQuestion {
	jobs := func(name string, filter admin.JobFilter) operatorQuestion {
		return operatorQuestion{"jobs: " + name, func(ctx context.Context) (any, error) { return a.Jobs(ctx, filter, admin.JobPage{}) }}
	}
	return []operatorQuestion{
		jobs("all", admin.JobFilter{}),
		jobs("due", admin.JobFilter{States: []admin.JobState{admin.JobDue}}),
		jobs("failed", admin.JobFilter{States: []admin.JobState{admin.JobFailed}}),
		jobs("running, of which there are none", admin.JobFilter{States: []admin.JobState{admin.JobRunning}}),
		jobs("a task", admin.JobFilter{Tasks: []string{"task7"}}),
		jobs("a queue", admin.JobFilter{Queues: []string{"queue8"}}),
		jobs("a task that is not there", admin.JobFilter{Tasks: []string{"none"}}),
		jobs("ids", admin.JobFilter{IDs: []int64{1, last / 2, last}}),
		jobs("a key", admin.JobFilter{Keys: []string{"key3"}}),
		jobs("error contains", admin.JobFilter{ErrorContains: "refused"}),
		jobs("payload contains, which one does", admin.JobFilter{PayloadContains: json.RawMessage(`{"customer": 17}`)}),
		{"one job", func(ctx context.Context) (any, error) { return a.Job(ctx, last/2) }},
		{"counts", func(ctx context.Context) (any, error) { return a.Counts(ctx) }},
		{"tasks", func(ctx context.Context) (any, error) { return a.Tasks(ctx) }},
		{"queues", func(ctx context.Context) (any, error) { return a.Queues(ctx, admin.QueueFilter{}, admin.NamePage{}) }},
		{"workers", func(ctx context.Context) (any, error) { return a.Workers(ctx) }},
		{"locks", func(ctx context.Context) (any, error) { return a.Locks(ctx) }},
		{"dead letters", func(ctx context.Context) (any, error) {
			return a.Letters(ctx, admin.LetterFilter{}, admin.LetterPage{})
		}},
		{"why a job does not run", func(ctx context.Context) (any, error) { return a.Why(ctx, last/2) }},
		{"doctor", func(ctx context.Context) (any, error) { return a.Doctor(ctx) }},
	}
}
