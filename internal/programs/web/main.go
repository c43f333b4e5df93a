// Command web takes the orders of a shop over HTTP.
//
//	web migrate    make the tables of the shop and of the jobs, or bring them up to date
//	web            serve on ADDR, such as :8080
//
// DATABASE_URL names the database.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/backfillotel"
	"github.com/backfillhq/go/internal/programs/orders"
	"github.com/backfillhq/go/internal/programs/telemetry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	err := run(ctx, os.Args[1:])
	if err != nil {
		slog.Error("web", slog.Any("error", err))
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	traces, flush, err := telemetry.Start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, flush(context.WithoutCancel(ctx))) }()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	switch {
	case len(args) == 0:
		return serve(ctx, pool, traces)
	case len(args) == 1 && args[0] == "migrate":
		return migrate(ctx, pool)
	default:
		return fmt.Errorf("unknown arguments %q: want none, or migrate", args)
	}
}

// migrate is a step of the deployment of its own, with a role that may make tables.
func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	if _, err := pool.Exec(ctx, orders.Schema); err != nil {
		return fmt.Errorf("migrate the shop: %w", err)
	}
	client, err := backfill.NewClient(ctx, pool) // migrates
	if err != nil {
		return err
	}
	client.Close()
	return nil
}

// serve takes orders until ctx ends, and then answers the requests that it has.
func serve(ctx context.Context, pool *pgxpool.Pool, traces *backfillotel.Telemetry) error {
	client, err := backfill.NewClient(ctx, pool,
		backfill.WithMigrations(backfill.MigrateVerify), // migrate does it
		traces.Client())
	if err != nil {
		return err
	}
	defer client.Close()
	listener, err := net.Listen("tcp", os.Getenv("ADDR"))
	if err != nil {
		return err
	}
	slog.Info("listening", slog.String("address", listener.Addr().String()))
	server := &http.Server{Handler: newSite(client), ReadTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return server.Shutdown(ctx)
}
