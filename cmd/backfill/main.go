// Backfill is the operator's command for the job queue of package backfill.
//
//	backfill migrate    install or upgrade the tables, show their SQL, verify them, give rights to roles
//	backfill why        say why a job does not run, or what it is doing
//	backfill doctor     look for what is wrong with the database of a queue
//	backfill jobs       list, show, retry, cancel, delete, reschedule and edit jobs
//	backfill queues     list queues
//	backfill workers    list workers
//	backfill locks      list who has locked what
//	backfill cron       list what schedules have enqueued
//	backfill dlq        list, show, requeue and delete dead letters
//	backfill enqueue    enqueue a job
//	backfill bulk       list, show, stop and resume changes of many jobs or dead letters
//	backfill pause      keep the jobs of a task or a queue from starting, or list what is paused
//	backfill resume     let them start again
//	backfill unlock     release what a dead worker has locked
//	backfill audit      list what operators have changed
//	backfill dev        run sample jobs on a private PostgreSQL, to try things out
//	backfill bench      measure how fast a server takes jobs and gives them out
//	backfill ui         serve the HTTP API
//
// The database is that of --database-url, of --context, of DATABASE_URL, of the PG* variables, or, for
// commands that change nothing, of the default context, in this order.
// Exit codes: 0, all is well; 1, it failed, or something is missing; 2, the usage is wrong; 3,
// nothing matched; 4, a part was skipped; 5, it was not confirmed, and nothing was changed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/internal/mask"
	"github.com/backfillhq/go/internal/pg"
)

const (
	exitProblem     = 1
	exitUsage       = 2
	exitNothing     = 3
	exitSkipped     = 4
	exitUnconfirmed = 5
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main with arguments, input and output as parameters.
func run(ctx context.Context, arguments []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := &cli.Command{
		Name:      "backfill",
		Usage:     "operate a backfill job queue",
		Reader:    stdin,
		Writer:    stdout,
		ErrWriter: stderr,
		Commands: []*cli.Command{
			migrateCommand(), whyCommand(), doctorCommand(), jobsCommand(), queuesCommand(), workersCommand(), locksCommand(), cronCommand(), dlqCommand(),
			enqueueCommand(), bulkCommand(), pauseCommand(), resumeCommand(), unlockCommand(), auditCommand(),
			uiCommand(), devCommand(), benchCommand(), helpCommand(),
		},
		EnableShellCompletion:           true,
		ConfigureShellCompletionCommand: func(cmd *cli.Command) { cmd.Hidden = false },
		OnUsageError:                    onUsageError,
		ExitErrHandler:                  func(context.Context, *cli.Command, error) {}, // below
		Action: func(_ context.Context, cmd *cli.Command) error {
			if cmd.Args().Present() {
				return errUnknownCommand // It may be a URL with a password.
			}
			return cli.ShowRootCommandHelp(cmd)
		},
	}
	err := root.Run(ctx, arguments)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "backfill:", mask.Secrets(err.Error()))
	if _, usage := errors.AsType[usageError](err); usage {
		fmt.Fprintln(stderr, `Run "backfill help", or "backfill help" and a command.`)
		return exitUsage
	}
	if exit, ok := errors.AsType[exitError](err); ok {
		return exit.code
	}
	return exitProblem
}

var errUnknownCommand = usageError{errors.New("unknown command: want migrate, why, doctor, jobs, queues, workers, locks, cron, dlq, enqueue, bulk, pause, resume, unlock, audit, ui, dev or bench")}

// helpCommand replaces the library's, which repeats arguments that it does not know.
func helpCommand() *cli.Command {
	return &cli.Command{
		Name: "help", Aliases: []string{"h"}, Usage: "show the help of backfill, or of a command", ArgsUsage: "[command]…",
		HideHelpCommand: true, OnUsageError: onUsageError,
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if !cmd.Args().Present() {
				return cli.ShowRootCommandHelp(cmd)
			}
			parent, found := cmd.Root(), cmd.Root()
			for _, name := range cmd.Args().Slice() {
				parent, found = found, found.Command(name)
				if found == nil {
					return errUnknownCommand
				}
			}
			return cli.ShowCommandHelp(ctx, parent, found.Name)
		},
	}
}

// usageError is a wrong usage.
type usageError struct{ error }

// exitError ends the program with a code of its own.
type exitError struct {
	code int
	error
}

// onUsageError leaves out values of flags, and texts that cannot be a flag's name: they may be URLs
// with a password.
func onUsageError(_ context.Context, _ *cli.Command, err error, _ bool) error {
	text := err.Error()
	switch _, flag, undefined := strings.Cut(text, "not defined: "); {
	case strings.HasPrefix(text, "invalid value"):
		flag, _, _ := strings.Cut(text[strings.LastIndex(text, " for flag"):], ":") // what follows repeats the value
		err = errors.New("invalid value" + flag)
	case undefined && strings.ContainsFunc(flag, notInFlag):
		err = errors.New("flag provided but not defined")
	}
	return usageError{err}
}

func notInFlag(r rune) bool { return r != '-' && (r < 'a' || r > 'z') }

const (
	flagDatabase = "database-url"
	flagSchema   = "schema"
)

// changeFlags say where the jobs are that a command changes.
func changeFlags() []cli.Flag {
	return append(databaseFlags(), confirmFlag())
}

func confirmFlag() cli.Flag {
	return &cli.StringFlag{Name: flagConfirm, Usage: "the `NAME` of the context, which production asks for, if nobody is there to type it"}
}

// databaseFlags say where the jobs are. The flag does not read its environment variable, because
// help would show the value.
func databaseFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: flagDatabase, Usage: "the database, as in postgres://user:password@host:5432/database. Default: DATABASE_URL, or the PG* variables"},
		&cli.StringFlag{Name: flagContext, Usage: "the database of the context `NAME`, which the file backfill/config.toml of your configuration has"},
		&cli.StringFlag{Name: flagSchema, Usage: "the `NAME` of the schema that holds the jobs", Value: pg.DefaultSchema},
	}
}
