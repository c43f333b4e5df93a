package main

import (
	"context"
	"errors"

	"github.com/urfave/cli/v3"
)

const triggerDescription = `It enqueues the job of an entry of a crontab out of its turn, with the args, queue, key, priority and flags that the entry
has in the Go worker that was started last. The ticks of the entry come as before. What Node workers have in their
crontabs is not known to others: enqueue the job of the task instead.

   backfill cron trigger nightly_report --reason 'the disk was full'

With --id, a call that is repeated enqueues nothing, and says which job the first has made: for scripts.

Exit codes: 0, it is enqueued; 1, it failed, or no worker has the entry; 2, the usage is wrong; 5, it was not confirmed.`

func triggerCommand() *cli.Command {
	return &cli.Command{
		Name: "trigger", Usage: "enqueue the job of an entry now", ArgsUsage: "ID", Description: triggerDescription,
		Flags:           append(append(changeFlags(), recordFlags()...), &cli.StringFlag{Name: flagRecord, Usage: "the `ID` of the request"}, jsonFlag()),
		HideHelpCommand: true, OnUsageError: onUsageError, Action: triggerCron,
	}
}

func triggerCron(ctx context.Context, cmd *cli.Command) error {
	if cmd.Args().Len() != 1 || cmd.Args().First() == "" {
		return usageError{errors.New("cron trigger takes the id of one entry")}
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
	outcome, err := operator.TriggerCron(asOperator(ctx, cmd), cmd.Args().First(), options)
	if err != nil {
		return refusedChange(err)
	}
	return writeEnqueued(cmd, outcome)
}
