// Package bench measures how a server takes jobs and gives them out, in a scratch schema.
package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/cmd/backfill/internal/scratch"
	"github.com/backfillhq/go/internal/pg"
)

const (
	command = "bench"
	// leftoverAfter is the age of a schema at which the run that has made it is over: see MaxFor.
	leftoverAfter = time.Hour
	// cleanupTimeout is how long it may take to drop the schema, after the context of the run has ended.
	cleanupTimeout = time.Minute
)

// MaxFor is how long a run may measure. So a schema that is an hour old is left over.
const MaxFor = 10 * time.Minute

// Options says what is measured, and for how long.
type Options struct {
	DatabaseURL string
	For         time.Duration // all of the measurement, without the time to set up and to clear away
	Slots       int           // jobs that the worker runs at a time
	Callers     int           // that enqueue at a time
	Batch       int           // jobs of one enqueue
}

// Report is what was measured.
type Report struct {
	At      time.Time `json:"at"` // by this machine's clock
	Server  Server    `json:"server"`
	Client  Client    `json:"client"`
	Latency Latency   `json:"latency"`
	Enqueue []Rate    `json:"enqueue"`
	Work    Rate      `json:"work"`
}

// Client is this machine.
type Client struct {
	Go         string `json:"go"`
	Processors int    `json:"processors"` // that Go uses
	Slots      int    `json:"slots"`
}

// Rate is how many jobs were enqueued or done in a second.
type Rate struct {
	Callers   int     `json:"callers,omitempty"`
	Batch     int     `json:"batch,omitempty"`
	Jobs      int64   `json:"jobs"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"per_second"`
}

func newRate(jobs int64, took time.Duration) Rate {
	r := Rate{Jobs: jobs, Seconds: took.Seconds()}
	if took > 0 {
		r.PerSecond = float64(jobs) / took.Seconds()
	}
	return r
}

// Latency is how long it took from the call that enqueues one job, while the worker was idle, to
// the start of its handler.
type Latency struct {
	Jobs int     `json:"jobs"`
	P50  float64 `json:"p50_ms"`
	P95  float64 `json:"p95_ms"`
	P99  float64 `json:"p99_ms"`
}

// RemoveLeftovers drops the schemas of runs that were killed, an hour ago or more, and says so
// before.
func RemoveLeftovers(ctx context.Context, conn *pgx.Conn, notes io.Writer) error {
	schemas, err := scratch.List(ctx, conn, command)
	if err != nil {
		return err
	}
	for _, s := range schemas {
		if s.Age < leftoverAfter {
			continue
		}
		fmt.Fprintf(notes, "dropping the schema %s, which a run has left %v ago\n", s.Name, s.Age.Truncate(time.Minute))
		if err := scratch.Drop(ctx, conn, command, s.Name); err != nil {
			return err
		}
	}
	return nil
}

// Run makes a schema, measures, and drops it, also if ctx ends.
func Run(ctx context.Context, conn *pgx.Conn, options Options, notes io.Writer) (report Report, err error) {
	if report.Server, err = readServer(ctx, conn); err != nil {
		return report, err
	}
	report.At = time.Now().UTC()
	report.Client = Client{runtime.Version(), runtime.GOMAXPROCS(0), options.Slots}
	name := "backfill_bench_" + strings.ToLower(rand.Text()[:10])
	if err := scratch.Create(ctx, conn, command, name); err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, remove(ctx, options.DatabaseURL, name)) }()
	b, err := open(ctx, options, name, notes)
	if err != nil {
		return report, err
	}
	defer b.close()
	return report, b.measure(ctx, &report)
}

// remove drops the schema over a connection of its own: ctx may have ended, and conn with it.
func remove(ctx context.Context, databaseURL, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	conn, err := pg.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("drop the schema %s: %w; a later bench drops it", name, err)
	}
	defer conn.Close(ctx)
	return scratch.Drop(ctx, conn, command, name)
}

// bench is a run under way.
type bench struct {
	options Options
	pool    *pgxpool.Pool
	client  *backfill.Client
}

func open(ctx context.Context, options Options, schema string, notes io.Writer) (*bench, error) {
	config, err := pg.PoolConfig(options.DatabaseURL)
	if err != nil {
		return nil, err
	}
	b := &bench{options: options}
	if b.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("open connections: %w", err)
	}
	logger := slog.New(slog.NewTextHandler(notes, &slog.HandlerOptions{Level: slog.LevelError}))
	if b.client, err = backfill.NewClient(ctx, b.pool, backfill.WithSchema(schema), backfill.WithLogger(logger)); err != nil {
		b.pool.Close()
		return nil, err
	}
	return b, nil
}

func (b *bench) close() {
	b.client.Close()
	b.pool.Close()
}

// measure gives each of five measurements a fifth of the time. The latency comes first, while there
// are no other jobs; the jobs that are enqueued then are worked last.
func (b *bench) measure(ctx context.Context, report *Report) (err error) {
	share := b.options.For / 5
	if report.Latency, err = b.latency(ctx, share); err != nil {
		return fmt.Errorf("measure the latency: %w", err)
	}
	for _, way := range []Rate{{Callers: 1, Batch: 1}, {Callers: b.options.Callers, Batch: 1}, {Callers: 1, Batch: b.options.Batch}} {
		rate, err := b.enqueue(ctx, way.Callers, way.Batch, share)
		if err != nil {
			return fmt.Errorf("measure enqueues: %w", err)
		}
		report.Enqueue = append(report.Enqueue, rate)
	}
	var enqueued int64
	for _, rate := range report.Enqueue {
		enqueued += rate.Jobs
	}
	if report.Work, err = b.work(ctx, enqueued, share); err != nil {
		return fmt.Errorf("measure the worker: %w", err)
	}
	return nil
}
