package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/backfill"
)

// A system is a job queue, or the bare SQL below one, the floor. It takes part in the shapes whose interface it implements. To
// add a peer, implement this and some of those, and add it to [lab.systems].
type system interface {
	name() string
	// reset makes the system's tables alike before a run: nothing in them but so many jobs, vacuumed, analysed, checkpointed.
	reset(ctx context.Context, jobs int) error
	// waiting counts the jobs in its tables.
	waiting(ctx context.Context) (int, error)
}

// worksJobs works off the jobs that reset has made, in one process of its own.
type worksJobs interface {
	system
	work(ctx context.Context, jobs int) (sample, error)
}

// enqueuesOne enqueues one by one, with callers that do not wait for each other, and returns how many jobs that were.
type enqueuesOne interface {
	system
	enqueue(ctx context.Context, callers int, during time.Duration) (sample, int, error)
}

// enqueuesMany enqueues jobs in batches, one after the other.
type enqueuesMany interface {
	system
	bulk(ctx context.Context, jobs int) (sample, error)
}

// wakes measures the time from the acknowledged commit of a job to the start of its handler, one job at a time.
type wakes interface {
	system
	latency(ctx context.Context, jobs int) (sample, error)
}

// holdsMemory works for a while with many jobs waiting.
type holdsMemory interface {
	system
	memory(ctx context.Context, jobs int, during time.Duration) (sample, error)
}

// metric is something that a run measures.
type metric string

const (
	rate      metric = "jobs_per_second"
	p50       metric = "p50_ms"
	p99       metric = "p99_ms"
	cpu       metric = "cpu_us_per_job"        // of the process, user and system
	serverCPU metric = "server_cpu_us_per_job" // of all of PostgreSQL's processes
	wal       metric = "wal_bytes_per_job"
	allocs    metric = "allocations_per_job"
	allocated metric = "allocated_bytes_per_job"
	peakRSS   metric = "peak_rss_mb" // VmHWM
	rss       metric = "rss_mb"      // the largest VmRSS that was seen
)

// sample is what one run measured.
type sample map[metric]float64

// lab is what systems run in.
type lab struct {
	opts       options
	url        string
	admin      *pgx.Conn
	executable string
	folder     string // of the private server's data; ""
	postmaster int    // process id; 0: not on this machine, or cannot be seen
}

func newLab(ctx context.Context, opts options, s *server) (*lab, error) {
	l := &lab{opts: opts, url: s.url, folder: s.folder}
	if !s.pg.Owned() {
		l.folder = ""
	}
	var err error
	if l.executable, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("find this program, to run it again: %w", err)
	}
	client, err := backfill.Open(ctx, l.url)
	if err != nil {
		return nil, err
	}
	client.Close()
	if l.admin, err = pgx.Connect(ctx, l.url); err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	var backend int
	if err := l.admin.QueryRow(ctx, "select pg_backend_pid()").Scan(&backend); err != nil {
		return nil, errors.Join(fmt.Errorf("ask for the server's process: %w", err), l.close())
	}
	l.postmaster = parentOfPostgres(backend)
	return l, nil
}

func (l *lab) close() error { return l.admin.Close(context.Background()) }

// taskName is the task of all jobs here.
const taskName = "bench"

const pgInsufficientPrivilege = "42501"

// tables are Graphile Worker's, with our additive indexes: of the floor as well as of ours.
type tables struct{ *lab }

func (t tables) reset(ctx context.Context, jobs int) error {
	for _, statement := range []string{
		"truncate graphile_worker._private_jobs, graphile_worker._private_job_queues, graphile_worker.backfill_workers",
		"insert into graphile_worker._private_tasks (identifier) values ('" + taskName + "') on conflict do nothing",
		fmt.Sprintf(`insert into graphile_worker._private_jobs (task_id, payload)
		             select t.id, json_build_object('n', i)
		               from generate_series(0, %d) as i, graphile_worker._private_tasks as t
		              where t.identifier = '%s' order by i`, jobs-1, taskName),
		"vacuum analyze graphile_worker._private_jobs, graphile_worker._private_job_queues, graphile_worker._private_tasks, graphile_worker.backfill_workers",
		"checkpoint",
	} {
		_, err := t.admin.Exec(ctx, statement)
		if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == pgInsufficientPrivilege && statement == "checkpoint" {
			continue // on a server of somebody else's; then a checkpoint may fall into a run
		}
		if err != nil {
			return fmt.Errorf("prepare tables: %w", err)
		}
	}
	return t.forgetStatements(ctx)
}

func (t tables) waiting(ctx context.Context) (int, error) {
	var jobs int
	if err := t.admin.QueryRow(ctx, "select count(*) from graphile_worker._private_jobs").Scan(&jobs); err != nil {
		return 0, fmt.Errorf("count jobs: %w", err)
	}
	return jobs, nil
}

func taskID(ctx context.Context, conn *pgx.Conn) (id int32, err error) {
	err = conn.QueryRow(ctx, "select id from graphile_worker._private_tasks where identifier = $1", taskName).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("ask for the task: %w", err)
	}
	return id, nil
}

// systems are all that take part in something. The first floor that takes part in a shape is the one that its goals are about.
func (l *lab) systems() []system {
	t := tables{l}
	return []system{
		floorWork{t, 1},
		floorWork{t, 4},
		floorInsert{t, true},
		floorInsert{t, false},
		floorUnnest{t},
		floorCopy{t},
		floorWake{t, false},
		floorWake{t, true},
		floorNotify{t},
		ours{t},
	}
}
