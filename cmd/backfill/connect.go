package main

import (
	"context"
	"log/slog"

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
	logger := slog.New(slog.NewTextHandler(cmd.Root().ErrWriter, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return backfill.Open(ctx, url, backfill.WithSchema(cmd.String(flagSchema)),
		backfill.WithMigrations(backfill.MigrateVerify), backfill.WithLogger(logger))
}
