package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill"
)

const (
	flagID       = "id"
	flagJobID    = "job-id"
	flagTask     = "task"
	flagQueue    = "queue"
	flagKey      = "key"
	flagReason   = "reason"
	flagAfter    = "failed-after"
	flagBefore   = "failed-before"
	flagContains = "error-contains"
	flagJSON     = "json"
)

const dlqDescription = `A dead letter is a job that failed for good: it is kept in the table backfill_dlq, and runs no more until it is
requeued. Numbers are those of the dead letters, not of the jobs.

Each flag that selects dead letters can be given several times and then matches any of its values; different flags
must all match. Times are as in 2026-11-29T14:00:00Z, or a duration: 24h means 24 hours ago.

Exit codes: 0, all is well; 1, it failed; 2, the usage is wrong; 3, nothing matched; 4, some dead letters were skipped;
5, it was not confirmed, and nothing was changed.`

func dlqCommand() *cli.Command {
	return &cli.Command{
		Name:        "dlq",
		Usage:       "list, show, requeue and delete dead letters: jobs that failed for good",
		Description: dlqDescription,
		Commands: []*cli.Command{
			{
				Name: "list", Usage: "list dead letters, those that failed last first", ArgsUsage: " ", Description: dlqDescription,
				Flags: append(append(databaseFlags(), letterFlags()...),
					&cli.BoolFlag{Name: flagRequeued, Usage: "also list those that are requeued"},
					&cli.IntFlag{Name: flagLimit, Usage: "list `N` at most, 1 to 1000", Value: 50},
					&cli.StringFlag{Name: flagPage, Usage: "go on behind the `PAGE` that the list before ends with"},
					jsonFlag()),
				DisableSliceFlagSeparator: true, HideHelpCommand: true, OnUsageError: onUsageError, Action: listLetters,
			},
			{
				Name: "show", Usage: "show a dead letter with its args", ArgsUsage: "ID",
				Flags:           append(databaseFlags(), jsonFlag()),
				HideHelpCommand: true, OnUsageError: onUsageError, Action: showLetter,
			},
			changeCommand("requeue", "enqueue the jobs of dead letters anew, as they are stored", requeueLetters,
				&cli.StringFlag{Name: flagNotes, Usage: "replace the notes of each by `TEXT`"}),
			changeCommand("delete", "delete dead letters", deleteLetters),
		},
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Action: func(_ context.Context, cmd *cli.Command) error {
			if cmd.Args().Present() {
				return usageError{errors.New("unknown command of dlq: want list, show, requeue or delete")}
			}
			return cli.ShowSubcommandHelp(cmd)
		},
	}
}

// letterFlags select dead letters.
func letterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.Int64SliceFlag{Name: flagID, Usage: "the dead letter `ID`"},
		&cli.Int64SliceFlag{Name: flagJobID, Usage: "the one whose job had this `ID` when it failed last"},
		&cli.StringSliceFlag{Name: flagTask, Usage: "of the task `NAME`"},
		&cli.StringSliceFlag{Name: flagQueue, Usage: "of the queue `NAME`"},
		&cli.StringSliceFlag{Name: flagKey, Usage: "with the job key `KEY`"},
		&cli.StringSliceFlag{Name: flagReason, Usage: "exhausted, permanent, crashed, interrupted or swept: the `REASON`"},
		&cli.StringFlag{Name: flagAfter, Usage: "that failed at this `TIME` or later"},
		&cli.StringFlag{Name: flagBefore, Usage: "that failed before this `TIME`"},
		&cli.StringFlag{Name: flagContains, Usage: "whose last error has this `TEXT` in it"},
	}
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: flagJSON, Usage: "write a line of JSON for each dead letter"}
}

// filterOf reads the flags that select dead letters, and what they say in words. A value that is
// empty is an error: it could be a variable of a script that is not set.
func filterOf(cmd *cli.Command, ids []int64) (filter backfill.DeadLetterFilter, words string, err error) {
	filter = backfill.DeadLetterFilter{
		JobIDs: cmd.Int64Slice(flagJobID), Tasks: cmd.StringSlice(flagTask), Queues: cmd.StringSlice(flagQueue),
		Keys: cmd.StringSlice(flagKey), ErrorContains: cmd.String(flagContains),
	}
	if ids = append(ids, cmd.Int64Slice(flagID)...); len(ids) > 0 {
		filter.IDs = ids
	}
	if len(filter.JobIDs) == 0 {
		filter.JobIDs = nil
	}
	for _, list := range []*[]string{&filter.Tasks, &filter.Queues, &filter.Keys} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	for _, reason := range cmd.StringSlice(flagReason) {
		filter.Reasons = append(filter.Reasons, backfill.DeadLetterReason(reason))
	}
	var problems []error
	for name, texts := range map[string][]string{flagTask: filter.Tasks, flagQueue: filter.Queues, flagKey: filter.Keys, flagContains: {filter.ErrorContains}} {
		if cmd.IsSet(name) && slices.Contains(texts, "") {
			problems = append(problems, fmt.Errorf("--%s is empty", name))
		}
	}
	for name, at := range map[string]*time.Time{flagAfter: &filter.FailedAfter, flagBefore: &filter.FailedBefore} {
		if cmd.IsSet(name) {
			var problem error
			*at, problem = parseTime(cmd.String(name))
			if problem != nil {
				problems = append(problems, fmt.Errorf("--%s: %w", name, problem))
			}
		}
	}
	if len(problems) > 0 {
		return filter, "", usageError{errors.Join(problems...)}
	}
	return filter, describe(filter), nil
}

// refusal makes an error a wrong usage if the client refuses the filter.
func refusal(err error) error {
	if errors.Is(err, backfill.ErrInvalidRequest) {
		return usageError{err}
	}
	return err
}

func parseTime(text string) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, errors.New("want a time as in 2026-11-29T14:00:00Z or 2026-11-29, or a duration as in 24h")
}

// describe says what a filter asks for.
func describe(f backfill.DeadLetterFilter) string {
	var parts []string
	add := func(name string, values ...string) {
		if len(values) > 0 {
			parts = append(parts, name+" "+strings.Join(values, " or "))
		}
	}
	quoted := func(list []string) (quoted []string) {
		for _, text := range list {
			quoted = append(quoted, strconv.Quote(text))
		}
		return quoted
	}
	numbers := func(ids []int64) (numbers []string) {
		const most = 10
		for _, id := range ids[:min(len(ids), most)] {
			numbers = append(numbers, strconv.FormatInt(id, 10))
		}
		if len(ids) > most {
			numbers = append(numbers, fmt.Sprintf("%d more", len(ids)-most))
		}
		return numbers
	}
	add("id", numbers(f.IDs)...)
	add("job", numbers(f.JobIDs)...)
	add("task", quoted(f.Tasks)...)
	add("queue", quoted(f.Queues)...)
	add("key", quoted(f.Keys)...)
	for i, reason := range f.Reasons {
		if i == 0 {
			add("reason", string(reason))
		} else {
			parts[len(parts)-1] += " or " + string(reason)
		}
	}
	if !f.FailedAfter.IsZero() {
		add("failed at or after", stamp(f.FailedAfter))
	}
	if !f.FailedBefore.IsZero() {
		add("failed before", stamp(f.FailedBefore))
	}
	if f.ErrorContains != "" {
		add("error with", strconv.Quote(f.ErrorContains))
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, ", and ")
}

// stamp is a time as it is shown.
func stamp(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format("2006-01-02T15:04:05Z")
}

// parseIDs reads arguments that are ids. It does not repeat one that is none: it may be a URL with
// a password.
func parseIDs(cmd *cli.Command) (ids []int64, err error) {
	for _, argument := range cmd.Args().Slice() {
		id, err := strconv.ParseInt(argument, 10, 64)
		if err != nil || id <= 0 {
			return nil, usageError{errors.New("an argument is not the number of a dead letter; the database is that of --database-url")}
		}
		ids = append(ids, id)
	}
	return ids, nil
}
