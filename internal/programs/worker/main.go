// Command worker runs the jobs of a shop until SIGTERM. Then it takes no more jobs, lets those that
// run finish, and ends: with code 0, if it has recorded what became of each.
//
//	ADDR=:8081              answers /livez, /readyz and /debug/vars
//	MAIL_URL=https://…      where receipts are mailed
//	DRAIN_TIMEOUT=15s       how long running jobs may take to finish
//
// DATABASE_URL names the database, which has the tables already: see command web.
package main

import (
	"context"
	"errors"
	"expvar" // adds /debug/vars to http.DefaultServeMux
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/programs/orders"
	"github.com/backfillhq/go/internal/programs/telemetry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := run(ctx); err != nil {
		slog.Error("worker", slog.Any("error", err))
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	traces, flush, err := telemetry.Start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, flush(context.WithoutCancel(ctx))) }()
	drain, err := time.ParseDuration(os.Getenv("DRAIN_TIMEOUT"))
	if err != nil {
		return fmt.Errorf("DRAIN_TIMEOUT: %w", err)
	}
	probes := new(backfill.Probes)
	if err := serveProbes(probes); err != nil { // first, so that the platform sees that it starts
		return err
	}
	client, err := backfill.Open(ctx, os.Getenv("DATABASE_URL"),
		backfill.WithMigrations(backfill.MigrateVerify),
		traces.Client()) // for jobs that enqueue others
	if err != nil {
		return err
	}
	defer client.Close()
	expvar.Publish("jobs", expvar.Func(func() any { return queueDepth(client) }))
	registry := orders.NewRegistry(orders.Handlers{Receipts: &orders.Receipts{URL: os.Getenv("MAIL_URL")}})
	return backfill.Run(ctx, registry,
		backfill.WithClient(client),
		backfill.WithProbes(probes),
		backfill.WithObserver(count),
		traces.Worker(),
		backfill.WithMiddleware(logged),
		backfill.WithDrainTimeout(drain))
}

// serveProbes answers the platform until the process ends: it asks while the worker stops, too.
func serveProbes(probes *backfill.Probes) error {
	listener, err := net.Listen("tcp", os.Getenv("ADDR"))
	if err != nil {
		return err
	}
	http.Handle("/livez", probes.Live())
	http.Handle("/readyz", probes.Ready())
	slog.Info("listening", slog.String("address", listener.Addr().String()))
	server := &http.Server{ReadTimeout: 10 * time.Second}
	go func() { slog.Error("probes", slog.Any("error", server.Serve(listener))) }()
	return nil
}

var events = expvar.NewMap("job_events")

// count is the worker's observer.
func count(e backfill.Event) {
	events.Add(string(e.Kind), 1)
	if e.Kind == backfill.EventFailed && e.Final {
		events.Add("failed_for_good", 1)
	}
}

// queueDepth is read at /debug/vars: ask for it every 10 seconds or more.
func queueDepth(client *backfill.Client) any {
	stats, err := client.Stats(context.Background()) // takes 30 seconds at most
	if err != nil {
		return err.Error()
	}
	return stats.Tasks
}

// logged writes a line for each job, with its trace: the span is outside of it.
func logged(next backfill.HandlerFunc) backfill.HandlerFunc {
	return func(ctx context.Context, job *backfill.Job) error {
		err := next(ctx, job)
		level, verdict := slog.LevelInfo, backfill.VerdictOf(ctx, err)
		if verdict.Failed() {
			level = slog.LevelWarn
		}
		slog.LogAttrs(ctx, level, "job", slog.String("task", job.Task), slog.Int64("job_id", job.ID), slog.Int("attempt", job.Attempt),
			slog.String("verdict", string(verdict.Kind)), slog.Any("error", err))
		return err
	}
}
