package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
)

const (
	flagPausedQueue = "queue"
	flagPausedBy    = "by"
	flagPauseReason = "reason"
	flagPauseFor    = "for"
	flagPauseUntil  = "until"
	flagPauses      = "list"
)

const pauseDescription = `It keeps the jobs of a task, or of a queue, from starting, on all Go workers of the database, within 2 seconds.
Running jobs go on, and new jobs wait. The pause is stored: it lasts over restarts, until resume, or the time of --for or
--until, ends it. Pause again to change it. Node workers do not know pauses: they go on.

   backfill pause send_email --by ada --reason "mails go out twice" --for 2h
   backfill pause --queue imports
   backfill pause --list

A task is named as on the wire, and must be known: a worker has served it, or a job has had it. A queue needs no jobs.

Exit codes: 0, all is well; 1, it failed; 2, the usage is wrong; 3, no task has this name.`

const resumeDescription = `It ends a pause. The jobs start within 2 seconds, as far as workers have room for them.

Exit codes: 0, all is well; 1, it failed; 2, the usage is wrong; 3, it is not paused.`

func pauseCommand() *cli.Command {
	return &cli.Command{
		Name: "pause", Usage: "keep the jobs of a task or a queue from starting, or list what is paused",
		ArgsUsage: "TASK | --queue NAME | --list", Description: pauseDescription,
		Flags: append(changeFlags(),
			&cli.StringFlag{Name: flagPausedQueue, Usage: "pause the queue `NAME`, whatever the tasks of its jobs are"},
			&cli.StringFlag{Name: flagPausedBy, Usage: "who pauses it: a `NAME` for the list and the logs of workers"},
			&cli.StringFlag{Name: flagPauseReason, Usage: "why: a `TEXT` for the same"},
			&cli.DurationFlag{Name: flagPauseFor, Usage: "end the pause after this `DURATION`, as in 90m"},
			&cli.StringFlag{Name: flagPauseUntil, Usage: "end the pause at this `TIME`, as in 2026-11-29T14:00:00Z"},
			&cli.BoolFlag{Name: flagPauses, Usage: "list what is paused, and change nothing"},
		),
		HideHelpCommand: true, OnUsageError: onUsageError, Action: pause,
	}
}

func resumeCommand() *cli.Command {
	return &cli.Command{
		Name: "resume", Usage: "let the jobs of a task or a queue start again", ArgsUsage: "TASK | --queue NAME",
		Description: resumeDescription,
		Flags: append(changeFlags(),
			append(recordFlags(), &cli.StringFlag{Name: flagPausedQueue, Usage: "resume the queue `NAME`"})...),
		HideHelpCommand: true, OnUsageError: onUsageError, Action: resume,
	}
}

func pause(ctx context.Context, cmd *cli.Command) error {
	if cmd.Bool(flagPauses) {
		return listPauses(ctx, cmd)
	}
	name, queue, err := paused(cmd)
	if err != nil {
		return err
	}
	until, err := pauseEnds(cmd)
	if err != nil {
		return usageError{err}
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	if err := echoAlone(cmd, "pauses"); err != nil {
		return err
	}
	request, what := pauseOf(name, queue)
	request.Until = until
	if _, err := operator.Pause(asOperator(ctx, cmd), request, optionsOf(cmd)); err != nil {
		return unmatched(refusedChange(err), admin.ErrNotFound)
	}
	ends := "until it is resumed"
	if !until.IsZero() {
		ends = "until " + until.UTC().Format(time.RFC3339)
	}
	fmt.Fprintf(cmd.Root().Writer, "%s%s is paused %s, in 2 seconds on all Go workers; Node workers do not know pauses\n", what, cell(name), ends)
	return nil
}

func resume(ctx context.Context, cmd *cli.Command) error {
	name, queue, err := paused(cmd)
	if err != nil {
		return err
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	if err := echoAlone(cmd, "pauses"); err != nil {
		return err
	}
	request, what := pauseOf(name, queue)
	outcome, err := operator.Resume(asOperator(ctx, cmd), request, optionsOf(cmd))
	switch {
	case err != nil:
		return refusedChange(err)
	case outcome.Skip != "":
		return exitError{exitNothing, fmt.Errorf("resume %s%s: %s", what, strconv.Quote(name), outcome.Detail)}
	}
	fmt.Fprintf(cmd.Root().Writer, "%s%s is resumed\n", what, cell(name))
	return nil
}

// pauseOf is what a task or a queue is called in a request, and in words.
func pauseOf(name string, queue bool) (request admin.PauseRequest, what string) {
	if queue {
		return admin.PauseRequest{Queue: name}, "queue "
	}
	return admin.PauseRequest{Task: name}, "task "
}

// paused returns the name of the task or the queue that a command is about. Arguments that are too
// many are not repeated: one may be a URL with a password.
func paused(cmd *cli.Command) (name string, queue bool, err error) {
	name, queue = cmd.Args().First(), cmd.IsSet(flagPausedQueue)
	if queue {
		name = cmd.String(flagPausedQueue)
	}
	switch arguments := cmd.Args().Len(); {
	case queue && arguments > 0:
		err = usageError{fmt.Errorf("%s takes a task or --queue: choose one", cmd.Name)}
	case !queue && arguments != 1 || name == "":
		err = usageError{fmt.Errorf("%s takes the name of one task, or --queue and the name of a queue", cmd.Name)}
	}
	return name, queue, err
}

// pauseEnds returns when a pause ends by itself; zero: never.
func pauseEnds(cmd *cli.Command) (until time.Time, err error) {
	length, at := cmd.IsSet(flagPauseFor), cmd.IsSet(flagPauseUntil)
	switch {
	case length && at:
		return until, errors.New("--for and --until: choose one")
	case length:
		until = time.Now().Add(cmd.Duration(flagPauseFor))
	case at:
		if until, err = time.Parse(time.RFC3339, cmd.String(flagPauseUntil)); err != nil {
			return until, errors.New("--until: want a time as in 2026-11-29T14:00:00Z")
		}
	}
	if (length || at) && !until.After(time.Now()) {
		return until, errors.New("the pause would be over already: want a time to come")
	}
	return until, nil
}

// unmatched gives an error that says that nothing has this name the code for that.
func unmatched(err, kind error) error {
	if errors.Is(err, kind) {
		return exitError{exitNothing, err}
	}
	return err
}

func listPauses(ctx context.Context, cmd *cli.Command) error {
	for _, flag := range []string{flagPausedQueue, flagPausedBy, flagPauseReason, flagPauseFor, flagPauseUntil} {
		if cmd.IsSet(flag) {
			return usageError{fmt.Errorf("--list changes nothing: leave --%s out", flag)}
		}
	}
	if cmd.Args().Present() {
		return usageError{errors.New("--list changes nothing: leave the task out")}
	}
	client, err := openClient(ctx, cmd)
	if err != nil {
		return err
	}
	defer client.Close()
	pauses, err := client.Paused(ctx)
	if err != nil {
		return err
	}
	if len(pauses) == 0 {
		fmt.Fprintln(cmd.Root().ErrWriter, "nothing is paused")
		return nil
	}
	return writePauses(cmd.Root().Writer, pauses)
}

// writePauses writes a table.
func writePauses(w io.Writer, pauses []backfill.Pause) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "PAUSED\tNAME\tSINCE\tUNTIL\tBY\tREASON")
	for _, p := range pauses {
		what, name, until := "task", p.Task, "-"
		if p.Queue != "" {
			what, name = "queue", p.Queue
		}
		if !p.Until.IsZero() {
			until = p.Until.UTC().Format(time.RFC3339)
		}
		since := p.At.UTC().Format(time.RFC3339)
		fmt.Fprintln(table, strings.Join([]string{what, cell(name), since, until, cell(p.By), cell(p.Reason)}, "\t"))
	}
	return table.Flush()
}

// cell is a text without what a terminal, or the table, could take for a command.
func cell(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}
