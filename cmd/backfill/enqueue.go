package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
)

const (
	flagKeyMode = "key-mode"
	flagFlag    = "flag"
	flagRecord  = "id"
)

const enqueueDescription = `It enqueues one job, as Graphile Worker's add_job does: the args are JSON, {} unless they are given. Nothing checks
whether a worker knows the task, or what it wants.

   backfill enqueue send_email '{"to": "ada@example.com"}' --queue mails --in 10m

With --id, a call that is repeated enqueues nothing, and says which job the first has made: for scripts.

Exit codes: 0, it is enqueued; 1, it failed; 2, the usage is wrong.`

func enqueueCommand() *cli.Command {
	return &cli.Command{
		Name: "enqueue", Usage: "enqueue a job", ArgsUsage: "TASK [JSON]", Description: enqueueDescription,
		Flags: append(append(changeFlags(), recordFlags()...),
			&cli.StringFlag{Name: flagQueue, Usage: "in the queue `NAME`"},
			&cli.StringFlag{Name: flagKey, Usage: "with the job key `KEY`"},
			&cli.StringFlag{Name: flagKeyMode, Usage: "replace, preserve_run_at or unsafe_dedupe: what becomes of a job with the key"},
			&cli.StringFlag{Name: flagRunAt, Usage: "due at this `TIME`, as in 2026-11-29T14:00:00Z"},
			&cli.DurationFlag{Name: flagIn, Usage: "due after this `TIME`, as in 2h"},
			&cli.IntFlag{Name: flagPriority, Usage: "with this priority `NUMBER`: a lower one runs first"},
			&cli.IntFlag{Name: flagMaxTries, Usage: "tried `N` times in all. Default: 25"},
			&cli.StringSliceFlag{Name: flagFlag, Usage: "with the flag `NAME`"},
			&cli.StringFlag{Name: flagRecord, Usage: "the `ID` of the request"},
			jsonFlag()),
		DisableSliceFlagSeparator: true, HideHelpCommand: true, OnUsageError: onUsageError, Action: enqueueJob,
	}
}

func enqueueJob(ctx context.Context, cmd *cli.Command) error {
	n := cmd.Args().Len()
	if n < 1 || n > 2 {
		return usageError{errors.New("enqueue takes the name of a task, and args as JSON")}
	}
	request := backfill.Request{
		Task: cmd.Args().First(), Queue: cmd.String(flagQueue), Key: cmd.String(flagKey), KeyMode: backfill.KeyMode(cmd.String(flagKeyMode)),
		Delay: cmd.Duration(flagIn), Priority: backfill.Priority(cmd.Int(flagPriority)), MaxAttempts: cmd.Int(flagMaxTries), Flags: cmd.StringSlice(flagFlag), //nolint:gosec // checked below
	}
	if n == 2 {
		request.Args = json.RawMessage(cmd.Args().Get(1))
	}
	if int(request.Priority) != cmd.Int(flagPriority) {
		return usageError{errors.New("--priority: want -32768 to 32767")}
	}
	if cmd.IsSet(flagRunAt) {
		var err error
		if request.RunAt, err = time.Parse(time.RFC3339, cmd.String(flagRunAt)); err != nil {
			return usageError{errors.New("--run-at: want a time as in 2026-11-29T14:00:00Z")}
		}
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	if err := echoAlone(cmd, "jobs"); err != nil {
		return err
	}
	options := optionsOf(cmd)
	options.ID = cmd.String(flagRecord)
	outcome, err := operator.EnqueueJob(asOperator(ctx, cmd), request, options)
	if err != nil {
		return refusedChange(err)
	}
	return writeEnqueued(cmd, outcome)
}

// writeEnqueued says which job it is.
func writeEnqueued(cmd *cli.Command, outcome *admin.Outcome) error {
	if cmd.Bool(flagJSON) {
		return writeJSON(cmd.Root().Writer, outcome)
	}
	again := ""
	if outcome.Repeated {
		again = " (by an earlier call with this id)"
	}
	_, err := fmt.Fprintf(cmd.Root().Writer, "job %d is enqueued%s\n", outcome.JobID, again)
	return err
}

const (
	flagAction = "action"
	flagKind   = "kind"
	flagTarget = "target"
	flagFrom   = "from"
	flagUntil  = "before"
)

const auditDescription = `It lists what operators have changed: when, by the database's clock, who, what, and why. A change of many jobs or dead
letters is one line; backfill bulk show says what became of each.

Exit codes: 0, all is well; 1, it failed; 2, the usage is wrong.`

func auditCommand() *cli.Command {
	return &cli.Command{
		Name: "audit", Usage: "list what operators have changed, the newest first", ArgsUsage: " ", Description: auditDescription,
		Flags: append(databaseFlags(),
			&cli.StringSliceFlag{Name: flagBy, Usage: "changed by `NAME`"},
			&cli.StringSliceFlag{Name: flagAction, Usage: "retry, cancel, delete, reschedule, edit, requeue, pause, unlock, enqueue, …: the `ACTION`"},
			&cli.StringFlag{Name: flagKind, Usage: "job, dead_letter, task, queue, worker, operation, …: the `KIND` of what was changed"},
			&cli.StringFlag{Name: flagTarget, Usage: "the `ID`, or name, of what was changed"},
			&cli.StringFlag{Name: flagFrom, Usage: "at this `TIME` or later: 24h means 24 hours ago"},
			&cli.StringFlag{Name: flagUntil, Usage: "before this `TIME`"},
			&cli.IntFlag{Name: flagLimit, Usage: "list `N` at most, 1 to 1000", Value: 50},
			&cli.StringFlag{Name: flagPage, Usage: "go on behind the `PAGE` that the list before ends with"},
			&cli.BoolFlag{Name: flagJSON, Usage: "write an object of JSON"}),
		DisableSliceFlagSeparator: true, HideHelpCommand: true, OnUsageError: onUsageError, Action: audit,
	}
}

func audit(ctx context.Context, cmd *cli.Command) error {
	if cmd.Args().Present() {
		return usageError{errors.New("audit takes flags only")}
	}
	filter := admin.RecordFilter{Principals: given(cmd.StringSlice(flagBy)), Kind: admin.Kind(cmd.String(flagKind)), Target: cmd.String(flagTarget)}
	for _, action := range cmd.StringSlice(flagAction) {
		filter.Actions = append(filter.Actions, admin.Action(action))
	}
	for name, to := range map[string]*time.Time{flagFrom: &filter.From, flagUntil: &filter.Before} {
		if cmd.IsSet(name) {
			var err error
			if *to, err = parseTime(cmd.String(name)); err != nil {
				return usageError{fmt.Errorf("--%s: %w", name, err)}
			}
		}
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	list, err := operator.Records(ctx, filter, cmd.String(flagPage), cmd.Int(flagLimit))
	switch {
	case err != nil:
		return refusedChange(err)
	case cmd.Bool(flagJSON):
		return writeJSON(cmd.Root().Writer, list)
	case list.Missing != "":
		return errors.New(list.Missing)
	case len(list.Records) == 0:
		fmt.Fprintln(cmd.Root().ErrWriter, "nothing is recorded")
		return nil
	}
	t := &table{header: []string{"AT", "BY", "WHAT", "OF", "ID", "TASK", "REASON"}, whole: []string{"AT", "ID"}}
	for _, record := range list.Records {
		t.rows = append(t.rows, []string{stamp(record.At), record.Principal, string(record.Action), string(record.Kind), record.Target, record.Task, record.Reason})
	}
	if list.Next != "" {
		fmt.Fprintf(cmd.Root().ErrWriter, "there are more: --page='%s'\n", list.Next)
	}
	return t.write(cmd.Root().Writer)
}
