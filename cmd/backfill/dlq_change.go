package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
)

const (
	flagAll       = "all"
	flagDryRun    = "dry-run"
	flagYes       = "yes"
	flagAllowNone = "allow-none"
	flagPerSecond = "per-second"
	flagNotes     = "notes"
)

// changeCommand is a command that changes the dead letters that its flags select.
func changeCommand(name, usage string, change letterVerb, more ...cli.Flag) *cli.Command {
	flags := append(append(changeFlags(), letterFlags()...),
		&cli.BoolFlag{Name: flagAll, Usage: "all dead letters: instead of flags that select some"},
		&cli.BoolFlag{Name: flagDryRun, Usage: "change nothing; say what would be done"},
		&cli.BoolFlag{Name: flagYes, Usage: "do not count and ask first"},
		&cli.BoolFlag{Name: flagAllowNone, Usage: "exit with 0 if nothing matches"},
		&cli.FloatFlag{Name: flagPerSecond, Usage: "change `N` in a second at most"},
		&cli.StringFlag{Name: flagBecause, Usage: "why: a `TEXT` that is kept in the record of the change"}, byFlag(),
		jsonFlag(),
	)
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "[ID]…", Description: dlqDescription, Flags: append(flags, more...),
		DisableSliceFlagSeparator: true, HideHelpCommand: true, OnUsageError: onUsageError,
		Action: func(ctx context.Context, cmd *cli.Command) error { return changeLetters(ctx, cmd, change) },
	}
}

// letterVerb is what is done to dead letters, and how it is told.
type letterVerb struct {
	name, done string
	action     admin.Action
	run        func(*backfill.Client, context.Context, backfill.DeadLetterFilter, backfill.DeadLetterOptions) (*backfill.DeadLetterResult, error)
}

var (
	requeueLetters = letterVerb{"requeue", "requeued", admin.ActionRequeue, (*backfill.Client).RequeueDeadLetters}
	deleteLetters  = letterVerb{"delete", "deleted", admin.ActionDelete, (*backfill.Client).DeleteDeadLetters}
)

func changeLetters(ctx context.Context, cmd *cli.Command, verb letterVerb) error {
	ids, err := parseIDs(cmd)
	if err != nil {
		return err
	}
	filter, words, err := filterOf(cmd, ids)
	if err != nil {
		return err
	}
	filter.All = cmd.Bool(flagAll)
	switch rate := cmd.Float(flagPerSecond); {
	case words == "all" && !filter.All:
		return usageError{fmt.Errorf("%s all dead letters? Select some with flags or numbers, or pass --all", verb.name)}
	case words != "all" && filter.All:
		return usageError{errors.New("--all and flags that select some: choose one")}
	case cmd.IsSet(flagPerSecond) && !(rate > 0): // NaN, too
		return usageError{errors.New("--per-second: want a number above 0")}
	}
	if !cmd.Bool(flagDryRun) {
		bulk := admin.Bulk{Action: verb.action, All: filter.All, DeadLetters: &admin.LetterFilter{
			IDs: filter.IDs, JobIDs: filter.JobIDs, Tasks: filter.Tasks, Queues: filter.Queues, Keys: filter.Keys,
			FailedFrom: filter.FailedAfter, FailedBefore: filter.FailedBefore, ErrorContains: filter.ErrorContains,
		}}
		for _, reason := range filter.Reasons {
			bulk.DeadLetters.Reasons = append(bulk.DeadLetters.Reasons, string(reason))
		}
		if verb.action == admin.ActionRequeue {
			bulk.Notes = cmd.String(flagNotes)
		}
		return changeMany(ctx, cmd, bulkVerb{verb.action, verb.done, deadLetters}, bulk, words, words == "all")
	}
	client, err := openClient(ctx, cmd)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := echo(cmd, deadLetters, words); err != nil {
		return err
	}
	options := backfill.DeadLetterOptions{DryRun: true, Each: func(outcome backfill.DeadLetterOutcome) { writeOutcome(cmd, verb, outcome) }}
	result, err := verb.run(client, ctx, filter, options)
	if err != nil {
		return refusal(err)
	}
	return finish(cmd, verb, result)
}

// reasons says why dead letters are skipped.
func reasons(result *backfill.DeadLetterResult) string {
	var parts []string
	for _, why := range slices.Sorted(maps.Keys(result.SkippedBy)) {
		parts = append(parts, fmt.Sprintf("%d %s", result.SkippedBy[why], why))
	}
	return strings.Join(parts, ", ")
}

// confirm asks a person, in production for the name of the context.
func confirm(cmd *cli.Command, verb letterVerb) error {
	if asked, err := confirmProduction(cmd); asked || err != nil {
		return err
	}
	return confirmed(cmd, "To "+verb.name+" them")
}

// confirmed asks a person. Without a terminal nobody answers.
func confirmed(cmd *cli.Command, prompt string) error {
	return confirmedBy(bufio.NewReader(cmd.Root().Reader), cmd, prompt)
}

func confirmedBy(in *bufio.Reader, cmd *cli.Command, prompt string) error {
	w := cmd.Root().ErrWriter
	if isTerminal(cmd.Root().Reader) {
		fmt.Fprint(w, prompt+", type yes: ")
		answer, err := in.ReadString('\n')
		if err != nil {
			fmt.Fprintln(w)
		}
		if strings.TrimSpace(answer) == "yes" {
			return nil
		}
		return exitError{exitUnconfirmed, errors.New("nothing was changed")}
	}
	return exitError{exitUnconfirmed, errors.New("nothing was changed: standard input is not a terminal, so pass --yes")}
}

// isTerminal reports whether a person may be there. Devices that are no terminal are at their end.
func isTerminal(stream any) bool {
	file, ok := stream.(interface{ Stat() (os.FileInfo, error) })
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// outcomeJSON is a line of what became of a dead letter.
type outcomeJSON struct {
	ID      int64  `json:"id"`
	Outcome string `json:"outcome"`
	Why     string `json:"why,omitempty"`
	JobID   int64  `json:"job_id,omitempty"`
	Detail  string `json:"detail,omitempty"`
}

func writeOutcome(cmd *cli.Command, verb letterVerb, o backfill.DeadLetterOutcome) {
	w, done := cmd.Root().Writer, verb.done
	if cmd.Bool(flagDryRun) {
		done = "would be " + done
	}
	switch {
	case cmd.Bool(flagJSON):
		line := outcomeJSON{ID: o.ID, Outcome: strings.ReplaceAll(done, " ", "_"), Why: string(o.Skip), JobID: o.JobID, Detail: o.Detail}
		if o.Skip != "" {
			line.Outcome = "skipped"
		}
		_ = writeJSON(w, line) // whoever does not read on does not keep the others from being done
	case o.Skip != "":
		fmt.Fprintf(w, "%d\tskipped: %s\n", o.ID, whySkipped(o))
	case o.JobID != 0:
		fmt.Fprintf(w, "%d\t%s as job %d\n", o.ID, done, o.JobID)
	default:
		fmt.Fprintf(w, "%d\t%s\n", o.ID, done)
	}
}

// whySkipped says in words why a dead letter was skipped.
func whySkipped(o backfill.DeadLetterOutcome) string {
	switch o.Skip {
	case backfill.SkipGone:
		return "there is no such dead letter"
	case backfill.SkipUnmatched:
		return "the other flags do not match it"
	case backfill.SkipRequeued:
		return fmt.Sprintf("it is requeued as job %d", o.JobID)
	case backfill.SkipChanged:
		return "it has failed again meanwhile"
	case backfill.SkipKeyHeld:
		return fmt.Sprintf("job %d has its key", o.JobID)
	case backfill.SkipLocked:
		return "another transaction has locked it, or what it needs"
	case backfill.SkipRefused:
		return "the database refuses the job: " + strings.Map(printable, o.Detail)
	case backfill.SkipUnknown:
		return "the connection broke, and whether it was done is not known: look at it again"
	default:
		return string(o.Skip)
	}
}

// summarize says how many were changed.
func summarize(cmd *cli.Command, verb letterVerb, result *backfill.DeadLetterResult) {
	text := fmt.Sprintf("%s %d", verb.done, result.Acted)
	if cmd.Bool(flagDryRun) {
		text = fmt.Sprintf("would be %s: %d", verb.done, result.Acted)
		if result.More {
			text += ", and more"
		}
	}
	if result.Skipped > 0 {
		text += fmt.Sprintf(", skipped %d (%s)", result.Skipped, reasons(result))
	}
	fmt.Fprintln(cmd.Root().ErrWriter, text)
}

// nothing reports whether no dead letter matched.
func nothing(result *backfill.DeadLetterResult) bool {
	return result.Acted+result.Skipped == result.SkippedBy[backfill.SkipGone]+result.SkippedBy[backfill.SkipUnmatched]
}

func finish(cmd *cli.Command, verb letterVerb, result *backfill.DeadLetterResult) error {
	switch {
	case nothing(result) && cmd.Bool(flagAllowNone):
		fmt.Fprintln(cmd.Root().ErrWriter, "no dead letter matches")
		return nil
	case nothing(result):
		return exitError{exitNothing, errors.New("no dead letter matches")}
	}
	summarize(cmd, verb, result)
	switch {
	case result.Skipped > 0 && cmd.Bool(flagDryRun):
		return exitError{exitSkipped, fmt.Errorf("not all of them would be %s", verb.done)}
	case result.Skipped > 0:
		return exitError{exitSkipped, fmt.Errorf("not all of them were %s", verb.done)}
	}
	return nil
}
