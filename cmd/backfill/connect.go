package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/pg"
)

// openClient opens a client on the database of the flags or the environment. It installs nothing:
// that is for migrate.
func openClient(ctx context.Context, cmd *cli.Command) (*backfill.Client, error) {
	if err := pg.CheckSchemaName(cmd.String(flagSchema)); err != nil {
		return nil, usageError{err}
	}
	url, err := databaseURL(cmd)
	if err != nil {
		return nil, err
	}
	return backfill.Open(ctx, url, clientOptions(cmd)...)
}

// openPool is openClient for a command that has statements of its own, too.
func openPool(ctx context.Context, cmd *cli.Command) (*pgxpool.Pool, *backfill.Client, error) {
	if err := pg.CheckSchemaName(cmd.String(flagSchema)); err != nil {
		return nil, nil, usageError{err}
	}
	config, err := poolConfig(cmd)
	if err != nil {
		return nil, nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, nil, fmt.Errorf("open connections: %w", err)
	}
	client, err := backfill.NewClient(ctx, pool, clientOptions(cmd)...)
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	return pool, client, nil
}

func clientOptions(cmd *cli.Command) []backfill.ClientOption {
	logger := slog.New(slog.NewTextHandler(cmd.Root().ErrWriter, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return []backfill.ClientOption{
		backfill.WithSchema(cmd.String(flagSchema)), backfill.WithMigrations(backfill.MigrateVerify), backfill.WithLogger(logger),
	}
}

func poolConfig(cmd *cli.Command) (*pgxpool.Config, error) {
	url, err := databaseURL(cmd)
	if err != nil {
		return nil, err
	}
	return pg.PoolConfig(url)
}

// servers names the host and port that a connection goes to, or all that it tries.
func servers(c *pgx.ConnConfig) string {
	all := []string{net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))}
	for _, next := range c.Fallbacks { // the same host too, with and without TLS
		if name := net.JoinHostPort(next.Host, strconv.Itoa(int(next.Port))); !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return strings.Join(all, " or ")
}

// echo says where a command is about to change something, and what.
func echo(cmd *cli.Command, place, filter string) error {
	config, err := poolConfig(cmd)
	if err != nil {
		return err
	}
	c, w := config.ConnConfig, cmd.Root().ErrWriter
	fmt.Fprintf(w, "database  %s on %s, as role %s\n", c.Database, servers(c), c.User)
	fmt.Fprintf(w, "schema    %s\n", cmd.String(flagSchema))
	fmt.Fprintf(w, "place     %s\n", place)
	if filter != "" {
		fmt.Fprintf(w, "filter    %s\n", filter)
	}
	return nil
}
