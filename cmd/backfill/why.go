package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill/admin"
)

const whyDescription = `It says what keeps a job from running, in the order in which workers ask, or what the job is doing, and what can
be done. It works on each database that has Graphile Worker's tables, also if only Node workers use it. It waits for no
lock, and takes 5 seconds at most. Times are the database's.

With --json it writes one object; blocker.code says which kind of answer it is.

Exit codes: 0, the job, its dead letter, or its end is explained; 1, there is no such job, or it cannot be seen, or the command
failed; 2, the usage is wrong.`

func whyCommand() *cli.Command {
	return &cli.Command{
		Name: "why", Usage: "say why a job does not run, or what it is doing", ArgsUsage: "JOB", Description: whyDescription,
		Flags: append(databaseFlags(), &cli.StringFlag{Name: flagCron, Usage: "say when the entry `ID` of the crontab is due, instead, and who enqueues it"},
			&cli.BoolFlag{Name: flagJSON, Usage: "write an object of JSON"}),
		HideHelpCommand: true, OnUsageError: onUsageError, Action: why,
	}
}

const flagCron = "cron"

func why(ctx context.Context, cmd *cli.Command) error {
	if cmd.IsSet(flagCron) {
		return whyCron(ctx, cmd)
	}
	id, err := strconv.ParseInt(cmd.Args().First(), 10, 64)
	if err != nil || id < 0 || cmd.Args().Len() != 1 {
		return usageError{errors.New("why takes the id of one job")}
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	explanation, err := operator.Why(ctx, id)
	if err != nil {
		return err
	}
	out := cmd.Root().Writer
	if cmd.Bool(flagJSON) {
		err = writeJSON(out, explanation)
	} else {
		err = writeExplanation(out, explanation)
	}
	if err == nil && explanation.Job == nil && explanation.Blocker.Code != admin.DeadLetter && explanation.Blocker.Code != admin.Ended {
		err = exitError{exitProblem, fmt.Errorf("job %d is not there: %s", id, explanation.Blocker.Code)}
	}
	return err
}

func whyCron(ctx context.Context, cmd *cli.Command) error {
	identifier := cmd.String(flagCron)
	if identifier == "" || cmd.Args().Present() {
		return usageError{errors.New("why --cron takes the id of one entry, and no job")}
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	x, err := operator.WhyCron(ctx, identifier)
	if err != nil {
		return err
	}
	out := cmd.Root().Writer
	if cmd.Bool(flagJSON) {
		err = writeJSON(out, x)
	} else {
		err = writeExplanation(out, &admin.Explanation{Blocker: x.Blocker, Notes: x.Notes, Missing: x.Missing})
	}
	if err == nil && (x.Blocker.Code == admin.CronUnknown || x.Blocker.Code == admin.Unseen) {
		err = exitError{exitProblem, fmt.Errorf("the cron entry %q is not there: %s", identifier, x.Blocker.Code)}
	}
	return err
}

// writeExplanation writes the blocker, its remedies, and what else is known, one after the other.
func writeExplanation(w io.Writer, x *admin.Explanation) error {
	var text strings.Builder
	blocker := func(b admin.Blocker) {
		fmt.Fprintln(&text, plainText(b.Text))
		writeRemedies(&text, b.Remedies)
		writeStack(&text, b.Stack)
	}
	blocker(x.Blocker)
	for i, then := range x.Then {
		if i == 0 {
			fmt.Fprintln(&text, "\nThen:")
		}
		blocker(then)
	}
	if len(x.Notes) > 0 {
		fmt.Fprintln(&text)
	}
	for _, note := range x.Notes {
		fmt.Fprintln(&text, plainText(note))
	}
	writePast(&text, x.Past)
	writeMissing(&text, x.Missing)
	_, err := io.WriteString(w, text.String())
	return err
}

// writePast writes a line for each attempt.
func writePast(w io.Writer, past *admin.Past) {
	if past == nil {
		return
	}
	fmt.Fprintln(w, "\nSo far:")
	if past.More {
		fmt.Fprintln(w, "  … others before")
	}
	for i, attempt := range past.Attempts {
		fmt.Fprintln(w, "  "+plainText(attempt.Text))
		if i == 2 && past.LeftOut > 0 {
			fmt.Fprintf(w, "  … %d others\n", past.LeftOut)
		}
	}
}

func writeRemedies(w io.Writer, remedies []admin.Remedy) {
	for _, remedy := range remedies {
		fmt.Fprintln(w, plainText(remedy.Text))
		if remedy.Command != "" {
			fmt.Fprintln(w, "  "+plainText(remedy.Command))
		}
	}
}

// writeStack writes the lines of a stack.
func writeStack(w io.Writer, stack string) {
	for line := range strings.Lines(stack) {
		fmt.Fprintln(w, strings.TrimRight(strings.Replace(plainText(line), " ", "  ", 1), " "))
	}
}

func writeMissing(w io.Writer, missing []admin.Missing) {
	if len(missing) > 0 {
		fmt.Fprintln(w, "\nNot known:")
	}
	for _, m := range missing {
		fmt.Fprintf(w, "  %s: %s\n", plainText(m.What), plainText(m.Why))
	}
}

// plainText keeps what others have written from controlling the terminal.
func plainText(text string) string { return strings.Map(printable, text) }
