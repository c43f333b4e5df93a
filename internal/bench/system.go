package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

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
	rate       metric = "jobs_per_second"
	p50        metric = "p50_ms"
	p99        metric = "p99_ms"
	cpu        metric = "cpu_us_per_job"        // of the process, user and system
	serverCPU  metric = "server_cpu_us_per_job" // of all of PostgreSQL's processes
	wal        metric = "wal_bytes_per_job"
	allocs     metric = "allocations_per_job"
	allocated  metric = "allocated_bytes_per_job"
	peakRSS    metric = "peak_rss_mb" // VmHWM
	rss        metric = "rss_mb"      // the largest VmRSS that was seen
	allDone    metric = "all_done_ms" // from the commit of some jobs until none is left
	slowest    metric = "all_done_max_ms"
	share      metric = "share_of_unhindered" // of the rate without what is in the way
	unhindered metric = "unhindered_jobs_per_second"
	leftOver   metric = "unfinished_jobs" // when a peer's time was up
	gaveUp     metric = "gave_up_after_s" // then

	lastQueued      metric = "last_queued_start_ms"    // after the first job of all
	lastQueuedShare metric = "last_queued_start_share" // of the time that the free jobs take
	queuedRate      metric = "queued_jobs_per_second"
	freeRate        metric = "free_jobs_per_second"
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
	peers      []system
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

// systems are all that take part in something. The first floor that takes part in a shape is the one that its goals are about.
func (l *lab) systems() []system {
	t := l.tables()
	systems := []system{
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
	return append(systems, l.peers...)
}
