package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
)

const (
	flagBecause = "because" // where --reason selects dead letters
	flagBy      = "by"
	flagSkip    = "skip"
	flagBehind  = "behind"
)

// deadLetters is the place of dead letters.
const deadLetters = "dead letters"

// asOperator names who changes something.
func asOperator(ctx context.Context, cmd *cli.Command) context.Context {
	return admin.As(ctx, admin.Principal{Name: cmp.Or(cmd.String(flagBy), userOfMachine())})
}

func userOfMachine() string {
	name := os.Getenv("USER")
	if who, err := user.Current(); err == nil {
		name = who.Username
	}
	host, _ := os.Hostname() // it may have none
	if host == "" {
		return name
	}
	return name + "@" + host
}

func optionsOf(cmd *cli.Command) admin.ChangeOptions {
	return admin.ChangeOptions{Reason: cmp.Or(cmd.String(flagBecause), cmd.String(flagReason))}
}

// changeMany previews an operation, asks, starts it, and carries it on.
func changeMany(ctx context.Context, cmd *cli.Command, verb bulkVerb, bulk admin.Bulk, words string, empty bool) error {
	verbName := string(verb.action)
	switch rate := cmd.Float(flagPerSecond); {
	case empty && !bulk.All:
		return usageError{fmt.Errorf("%s all %s? Select some with flags or numbers, or pass --all", verbName, verb.place)}
	case !empty && bulk.All:
		return usageError{errors.New("--all and flags that select some: choose one")}
	case cmd.IsSet(flagPerSecond) && !(rate > 0): // NaN, too
		return usageError{errors.New("--per-second: want a number above 0")}
	case cmd.Bool(flagDryRun) && cmd.Bool(flagYes):
		return usageError{errors.New("--dry-run changes nothing: leave --yes out")}
	}
	bulk.PerSecond, bulk.Uncounted = cmd.Float(flagPerSecond), cmd.Bool(flagYes)
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	ctx = asOperator(ctx, cmd)
	if err := echo(cmd, verb.place, words); err != nil {
		return err
	}
	preview, err := operator.Preview(ctx, bulk)
	if err != nil {
		return refusedChange(err)
	}
	if !bulk.Uncounted {
		w, o := cmd.Root().ErrWriter, &preview.Operation
		fmt.Fprintf(w, "matching  %s\n", matching(o))
		if len(o.SkippedBy) > 0 {
			fmt.Fprintf(w, "to skip   %s\n", skips(o.SkippedBy))
		}
		if preview.Token == "" {
			return nothingMatches(cmd, verb)
		}
	}
	if cmd.Bool(flagDryRun) {
		for _, item := range preview.Items {
			writeItem(cmd, verb, item)
		}
		if n := preview.Operation.Matched; n > len(preview.Items) {
			fmt.Fprintf(cmd.Root().ErrWriter, "shown are the first %d\n", len(preview.Items))
		}
		if len(preview.Operation.SkippedBy) > 0 {
			return exitError{exitSkipped, fmt.Errorf("not all of them would be %s", verb.done)}
		}
		return nil
	}
	if !cmd.Bool(flagYes) {
		if err := confirm(cmd, letterVerb{name: verbName}); err != nil {
			return err
		}
	} else if _, err := confirmProduction(cmd); err != nil {
		return err
	}
	operation, err := operator.Start(ctx, preview.Token, optionsOf(cmd))
	if err != nil {
		return refusedChange(err)
	}
	fmt.Fprintf(cmd.Root().ErrWriter, "operation %d\n", operation.ID)
	return carry(ctx, cmd, operator, operation.ID, verb)
}

func nothingMatches(cmd *cli.Command, verb bulkVerb) error {
	none := "no job matches"
	if verb.place == deadLetters {
		none = "no dead letter matches"
	}
	if cmd.Bool(flagAllowNone) {
		fmt.Fprintln(cmd.Root().ErrWriter, none)
		return nil
	}
	return exitError{exitNothing, errors.New(none)}
}

func matching(o *admin.Operation) string {
	if o.More {
		return "at least " + strconv.Itoa(o.Matched)
	}
	return strconv.Itoa(o.Matched)
}

func skips(by map[admin.Skip]int) string {
	var parts []string
	for _, why := range slices.Sorted(maps.Keys(by)) {
		parts = append(parts, fmt.Sprintf("%d %s", by[why], why))
	}
	return strings.Join(parts, ", ")
}

// carry carries an operation on in the foreground, and tells what becomes of each item.
func carry(ctx context.Context, cmd *cli.Command, operator *admin.Admin, id int64, verb bulkVerb) error {
	operation, err := operator.CarryOperation(ctx, id, func(item admin.OperationItem) { writeItem(cmd, verb, item) })
	if ctx.Err() != nil {
		return interrupted(ctx, cmd, operator, id)
	}
	if err != nil {
		return fmt.Errorf("%w; backfill bulk resume %d goes on with it", err, id)
	}
	return tellOperation(cmd, operation, verb)
}

// tellOperation says what an operation has come to that does not run any more.
func tellOperation(cmd *cli.Command, o *admin.Operation, verb bulkVerb) error {
	if o.State == admin.OperationDone && o.Acted+o.Skipped == int64(o.SkippedBy[admin.SkipUnmatched]+o.SkippedBy[admin.SkipGone]) {
		return nothingMatches(cmd, verb)
	}
	text := fmt.Sprintf("%s %d", verb.done, o.Acted)
	if o.Skipped > 0 {
		text += fmt.Sprintf(", skipped %d (%s)", o.Skipped, skips(o.SkippedBy))
	}
	fmt.Fprintln(cmd.Root().ErrWriter, text)
	switch {
	case o.State == admin.OperationStopped:
		return fmt.Errorf("operation %d was stopped: %s", o.ID, cmp.Or(o.Error, fmt.Sprintf("backfill bulk resume %d goes on with it", o.ID)))
	case o.Skipped > 0:
		return exitError{exitSkipped, fmt.Errorf("not all of them were %s", verb.done)}
	}
	return nil
}

// interrupted asks whether an operation is to stop or to be left running, if somebody is there, and
// says how to go on.
func interrupted(ctx context.Context, cmd *cli.Command, operator *admin.Admin, id int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	w := cmd.Root().ErrWriter
	if isTerminal(cmd.Root().Reader) {
		fmt.Fprintf(w, "\noperation %d is not done. Type stop to stop it, or leave to leave it running: ", id)
		if answerOf(cmd) == "stop" {
			operation, err := operator.StopOperation(ctx, id, optionsOf(cmd))
			if err != nil {
				return fmt.Errorf("stop operation %d: %w", id, err)
			}
			return fmt.Errorf("operation %d is stopped, with %d changed: backfill bulk resume %d goes on with it", id, operation.Acted, id)
		}
	}
	return fmt.Errorf("operation %d is left running: whoever runs backfill bulk resume %d, or backfill ui, carries it on; "+
		"backfill bulk stop %d stops it", id, id, id)
}

// answerOf reads an answer; a second interrupt is none.
func answerOf(cmd *cli.Command) string {
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt)
	defer signal.Stop(again)
	answer := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(cmd.Root().Reader).ReadString('\n') // at the end it is empty
		answer <- strings.TrimSpace(text)
	}()
	select {
	case text := <-answer:
		return text
	case <-again:
		return ""
	}
}

// itemJSON is a line of what became of an item.
type itemJSON struct {
	ID      int64      `json:"id"`
	Outcome string     `json:"outcome"`
	Why     admin.Skip `json:"why,omitempty"`
	Worker  string     `json:"worker,omitempty"`
	JobID   int64      `json:"job_id,omitempty"`
	Detail  string     `json:"detail,omitempty"`
}

func writeItem(cmd *cli.Command, verb bulkVerb, item admin.OperationItem) {
	w, done := cmd.Root().Writer, verb.done
	if cmd.Bool(flagDryRun) {
		done = "would be " + done
	}
	if verb.place == deadLetters {
		outcome := backfill.DeadLetterOutcome{ID: item.ID, Skip: backfill.DeadLetterSkip(item.Skip), JobID: item.JobID}
		if item.Skip == admin.SkipRefused || item.Skip == admin.SkipLocked { // of others there is nothing more to say
			outcome.Detail = item.Detail
		}
		writeOutcome(cmd, letterVerb{done: verb.done}, outcome)
		return
	}
	switch {
	case cmd.Bool(flagJSON):
		line := itemJSON{item.ID, strings.ReplaceAll(done, " ", "_"), item.Skip, item.Worker, item.JobID, item.Detail}
		if item.Skip != "" {
			line.Outcome = "skipped"
		}
		_ = writeJSON(w, line) // whoever does not read on does not keep the others from being done
	case item.Skip != "":
		fmt.Fprintf(w, "%d\tskipped: %s\n", item.ID, whyLeft(item.Skip, item.Worker, item.JobID, item.Detail))
	case item.JobID != 0:
		fmt.Fprintf(w, "%d\t%s as job %d\n", item.ID, done, item.JobID)
	case item.Worker != "":
		fmt.Fprintf(w, "%d\tasked to end: worker %s runs it\n", item.ID, cell(item.Worker))
	default:
		fmt.Fprintf(w, "%d\t%s\n", item.ID, done)
	}
}

const bulkDescription = `A change of many jobs or dead letters is an operation: it is stored, with what became of each item, and any process can
carry it on, each item once. One that nobody carries on waits.

Exit codes: 0, all is well; 1, it failed, or was stopped; 2, the usage is wrong; 3, there is no such operation; 4, some
items were skipped.`

func bulkCommand() *cli.Command {
	return &cli.Command{
		Name: "bulk", Usage: "list, show, stop and resume changes of many jobs or dead letters", Description: bulkDescription,
		Commands: []*cli.Command{
			{
				Name: "list", Usage: "list operations, the newest first", ArgsUsage: " ",
				Flags: append(databaseFlags(),
					&cli.IntFlag{Name: flagLimit, Usage: "list `N` at most, 1 to 1000", Value: 50},
					&cli.Int64Flag{Name: flagBehind, Usage: "go on behind the operation `ID`"},
					&cli.BoolFlag{Name: flagJSON, Usage: "write an object of JSON"}),
				HideHelpCommand: true, OnUsageError: onUsageError, Action: listOperations,
			},
			{
				Name: "show", Usage: "show an operation, and what became of its items", ArgsUsage: "ID",
				Flags: append(databaseFlags(),
					&cli.StringSliceFlag{Name: flagSkip, Usage: "only items that were skipped for this `REASON`"},
					&cli.IntFlag{Name: flagLimit, Usage: "show `N` items at most, 1 to 1000", Value: 50},
					&cli.Int64Flag{Name: flagBehind, Usage: "go on behind the item `ID`"},
					&cli.BoolFlag{Name: flagJSON, Usage: "write an object of JSON"}),
				HideHelpCommand: true, OnUsageError: onUsageError, Action: showOperation,
			},
			{
				Name: "stop", Usage: "stop an operation", ArgsUsage: "ID", Flags: append(changeFlags(), recordFlags()...),
				HideHelpCommand: true, OnUsageError: onUsageError, Action: stopOperation,
			},
			{
				Name: "resume", Usage: "carry an operation on that runs, or was stopped", ArgsUsage: "ID",
				Flags: append(append(changeFlags(), recordFlags()...),
					&cli.BoolFlag{Name: flagJSON, Usage: "write a line of JSON for each item"}),
				HideHelpCommand: true, OnUsageError: onUsageError, Action: resumeOperation,
			},
		},
		HideHelpCommand: true, OnUsageError: onUsageError, Action: onlyCommands("bulk", "list, show, stop or resume"),
	}
}

// onOperation runs an action with the operation that the argument names.
func onOperation(ctx context.Context, cmd *cli.Command, act func(context.Context, *admin.Admin, int64) error) error {
	id, err := strconv.ParseInt(cmd.Args().First(), 10, 64)
	if err != nil || id <= 0 || cmd.Args().Len() != 1 {
		return usageError{fmt.Errorf("%s takes the number of one operation", cmd.Name)}
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	err = act(asOperator(ctx, cmd), operator, id)
	if errors.Is(err, admin.ErrNotFound) {
		return exitError{exitNothing, err}
	}
	return refusedChange(err)
}

func stopOperation(ctx context.Context, cmd *cli.Command) error {
	return onOperation(ctx, cmd, func(ctx context.Context, operator *admin.Admin, id int64) error {
		if err := echo(cmd, "operation "+strconv.FormatInt(id, 10), ""); err != nil {
			return err
		}
		o, err := operator.StopOperation(ctx, id, optionsOf(cmd))
		if err == nil {
			_, err = fmt.Fprintf(cmd.Root().Writer, "operation %d is %s: %d changed, %d skipped\n", id, o.State, o.Acted, o.Skipped)
		}
		return err
	})
}

func resumeOperation(ctx context.Context, cmd *cli.Command) error {
	return onOperation(ctx, cmd, func(ctx context.Context, operator *admin.Admin, id int64) error {
		o, err := operator.ResumeOperation(ctx, id, optionsOf(cmd))
		if err != nil {
			return err
		}
		if err := echo(cmd, strings.ReplaceAll(string(o.Place), "_", " "), o.Words); err != nil {
			return err
		}
		return carry(ctx, cmd, operator, id, verbOf(o))
	})
}

func verbOf(o *admin.Operation) bulkVerb {
	place := strings.ReplaceAll(string(o.Place), "_", " ")
	for _, verb := range []bulkVerb{retryJobs, cancelJobs, deleteJobs, rescheduleJobs, {admin.ActionRequeue, "requeued", ""}} {
		if verb.action == o.Action {
			return bulkVerb{o.Action, verb.done, place}
		}
	}
	return bulkVerb{o.Action, string(o.Action), place}
}

func listOperations(ctx context.Context, cmd *cli.Command) error {
	if cmd.Args().Present() {
		return usageError{errors.New("list takes flags only")}
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	list, err := operator.Operations(ctx, cmd.Int64(flagBehind), cmd.Int(flagLimit))
	if err != nil {
		return refusedChange(err)
	}
	switch {
	case cmd.Bool(flagJSON):
		return writeJSON(cmd.Root().Writer, list)
	case list.Missing != "":
		return errors.New(list.Missing)
	case len(list.Operations) == 0:
		fmt.Fprintln(cmd.Root().ErrWriter, "no operations")
		return nil
	}
	table := tabwriter.NewWriter(cmd.Root().Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tSTATE\tWHAT\tPLACE\tFILTER\tCHANGED\tSKIPPED\tSTARTED\tBY\tREASON")
	for _, o := range list.Operations {
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", o.ID, o.State, o.Action, strings.ReplaceAll(string(o.Place), "_", " "), cell(o.Words),
			o.Acted, o.Skipped, stamp(o.StartedAt), cell(o.Principal), cell(o.Reason))
	}
	if list.Next != 0 {
		fmt.Fprintf(cmd.Root().ErrWriter, "there are more: --behind=%d\n", list.Next)
	}
	return table.Flush()
}

// shownOperation is an operation with a page of its items.
type shownOperation struct {
	Operation *admin.Operation `json:"operation"`
	*admin.ItemList
}

func showOperation(ctx context.Context, cmd *cli.Command) error {
	return onOperation(ctx, cmd, func(ctx context.Context, operator *admin.Admin, id int64) error {
		o, err := operator.Operation(ctx, id)
		if err != nil {
			return err
		}
		var reasons []admin.Skip
		for _, reason := range cmd.StringSlice(flagSkip) {
			reasons = append(reasons, admin.Skip(reason))
		}
		items, err := operator.OperationItems(ctx, id, cmd.Int64(flagBehind), reasons, cmd.Int(flagLimit))
		if err != nil {
			return err
		}
		w := cmd.Root().Writer
		if cmd.Bool(flagJSON) {
			return writeJSON(w, shownOperation{o, items})
		}
		for _, line := range [][2]string{
			{"operation", strconv.FormatInt(o.ID, 10)},
			{"state", string(o.State)},
			{"what", string(o.Action)},
			{"place", strings.ReplaceAll(string(o.Place), "_", " ")},
			{"filter", cell(o.Words)},
			{"changed", strconv.FormatInt(o.Acted, 10)},
			{"skipped", strings.TrimSpace(strconv.FormatInt(o.Skipped, 10) + "  " + skips(o.SkippedBy))},
			{"started", stamp(o.StartedAt)},
			{"last step", stamp(o.CarriedAt)},
			{"ended", stamp(o.EndedAt)},
			{"by", cell(o.Principal)},
			{"reason", cell(o.Reason)},
			{"error", cell(o.Error)},
		} {
			if line[1] != "" {
				fmt.Fprintf(w, "%-10s%s\n", line[0], line[1])
			}
		}
		for _, item := range items.Items {
			writeItem(cmd, verbOf(o), item)
		}
		if items.Next != 0 {
			fmt.Fprintf(cmd.Root().ErrWriter, "there are more: --behind=%d\n", items.Next)
		}
		return nil
	})
}
