package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/pg"
)

// openClient opens a client on the database of the flags or the environment. It installs nothing:
// that is for migrate.
func openClient(ctx context.Context, cmd *cli.Command) (*backfill.Client, error) {
	t, err := targetOf(cmd)
	if err != nil {
		return nil, err
	}
	return backfill.Open(ctx, t.url, clientOptions(cmd, t)...)
}

// openAdmin returns what answers about the database of the flags or the environment.
func openAdmin(cmd *cli.Command) (*admin.Admin, error) {
	t, err := targetOf(cmd)
	if err != nil {
		return nil, err
	}
	operator, err := admin.Open(t.url, admin.WithSchema(t.Schema), admin.WithRedaction(func(task, path string) bool {
		return admin.DefaultRedaction(task, path) || t.hides(path)
	}))
	if err != nil {
		return nil, usageError{err}
	}
	return operator, nil
}

// connect connects to the database of the flags or the environment.
func connect(ctx context.Context, cmd *cli.Command) (*pgx.Conn, error) {
	t, err := targetOf(cmd)
	if err != nil {
		return nil, err
	}
	return pg.Connect(ctx, t.url)
}

func clientOptions(cmd *cli.Command, t *target) []backfill.ClientOption {
	logger := slog.New(slog.NewTextHandler(cmd.Root().ErrWriter, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return []backfill.ClientOption{backfill.WithSchema(t.Schema), backfill.WithMigrations(backfill.MigrateVerify), backfill.WithLogger(logger)}
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
	t, err := targetOf(cmd)
	if err != nil {
		return err
	}
	config, err := pg.PoolConfig(t.url)
	if err != nil {
		return err
	}
	c, w := config.ConnConfig, cmd.Root().ErrWriter
	if t.context != "" {
		name := t.context
		if t.Production {
			name += " (production)"
		}
		fmt.Fprintf(w, "context   %s\n", paint(w, t.Colour, name))
	}
	fmt.Fprintf(w, "database  %s on %s, as role %s\n", c.Database, servers(c), c.User)
	fmt.Fprintf(w, "schema    %s\n", t.Schema)
	fmt.Fprintf(w, "place     %s\n", place)
	if filter != "" {
		fmt.Fprintf(w, "filter    %s\n", filter)
	}
	return nil
}

// echoAlone is echo for a command that changes a single thing, which the caller has named: it asks in
// production alone.
func echoAlone(cmd *cli.Command, place string) error {
	t, err := targetOf(cmd)
	if err != nil || t.context == "" { // the caller has named the database
		return err
	}
	if err := echo(cmd, place, ""); err != nil {
		return err
	}
	_, err = confirmProduction(cmd)
	return err
}

// confirmProduction asks for the name of the context if it is production's: typed by a person, or as
// --confirm. asked: it was, and is right.
func confirmProduction(cmd *cli.Command) (asked bool, err error) {
	t, err := targetOf(cmd)
	switch {
	case err != nil:
		return false, err
	case !t.Production:
		if cmd.IsSet(flagConfirm) && cmd.String(flagConfirm) != t.context {
			return false, exitError{exitUnconfirmed, errors.New("nothing was changed: --confirm is not the name of the context")}
		}
		return false, nil
	case cmd.IsSet(flagConfirm):
		if cmd.String(flagConfirm) != t.context {
			return false, exitError{exitUnconfirmed, errors.New("nothing was changed: --confirm is not the name of the context")}
		}
		return true, nil
	}
	in, w := cmd.Root().Reader, cmd.Root().ErrWriter
	if !isTerminal(in) {
		return false, exitError{exitUnconfirmed, fmt.Errorf("nothing was changed: this is production, and standard input is not a terminal, so pass --confirm %s", t.context)}
	}
	fmt.Fprintf(w, "This is production. To go on, type the name of the context: ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil {
		fmt.Fprintln(w)
	}
	if strings.TrimSpace(answer) != t.context {
		return false, exitError{exitUnconfirmed, errors.New("nothing was changed")}
	}
	return true, nil
}
