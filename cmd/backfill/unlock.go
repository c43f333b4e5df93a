package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill/admin"
)

const flagForce = "force"

const unlockDescription = `It releases the jobs and queues that a dead worker has locked, so that others can run them. Workers do that
by themselves, within 40 seconds for a Go worker that was killed: this is for what they cannot tell.

WORKER is a value of locked_by as the tables show it, or the worker's id. For a Node worker it is its whole pool id.

A worker whose last heartbeat is no older than 30 seconds is alive, and refused: its jobs would start again while they
still run. Nobody can tell whether a Node worker is alive, or one that is not in backfill_workers. With --force you say
that you have made sure that its process is dead, and with --reason how you know.

Exit codes: 0, all was released; 1, it failed, or was refused; 2, the usage is wrong; 3, it has locked nothing; 4, some
is still locked, because another transaction has the rows locked: run it again.`

func unlockCommand() *cli.Command {
	return &cli.Command{
		Name: "unlock", Usage: "release what a dead worker has locked", ArgsUsage: "WORKER", Description: unlockDescription,
		Flags: append(changeFlags(),
			&cli.BoolFlag{Name: flagForce, Usage: "also if it is alive, or nobody can tell; needs --reason"},
			&cli.StringFlag{Name: flagReason, Usage: "how you know that its process is dead: a `TEXT` that is repeated in the output, and recorded"}, byFlag(),
		),
		HideHelpCommand: true, OnUsageError: onUsageError, Action: unlock,
	}
}

func unlock(ctx context.Context, cmd *cli.Command) error {
	lockedBy, force, reason := cmd.Args().First(), cmd.Bool(flagForce), cmd.String(flagReason)
	switch {
	case cmd.Args().Len() != 1 || lockedBy == "":
		return usageError{errors.New("unlock takes one worker: a value of locked_by, or an id")}
	case force && reason == "":
		return usageError{errors.New("--force needs --reason: say how you know that the worker's process is dead")}
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	if err := echo(cmd, "locks of worker "+cell(lockedBy), ""); err != nil {
		return err
	}
	if _, err := confirmProduction(cmd); err != nil {
		return err
	}
	unlocked, err := operator.UnlockWorker(asOperator(ctx, cmd), lockedBy, force, optionsOf(cmd))
	if err != nil {
		return refusedChange(err)
	}
	if err := refuse(unlocked); err != nil {
		return err
	}
	fmt.Fprintf(cmd.Root().Writer, "released %d jobs and %d queues of %s\n", unlocked.Jobs, unlocked.Queues, unlocked.ID)
	if force {
		fmt.Fprintf(cmd.Root().Writer, "forced: %s\n", indented(reason))
	}
	if unlocked.Left > 0 {
		return exitError{exitSkipped, fmt.Errorf("%d jobs and queues are still locked: another transaction has locked their rows; run this again", unlocked.Left)}
	}
	return nil
}

// refuse says why nothing was unlocked.
func refuse(u *admin.Unlocked) error {
	const advice = "make sure that its process is dead, then pass --force --reason 'how you know'"
	switch {
	case u.Skip == admin.SkipUnlocked:
		return exitError{exitNothing, errors.New("it has locked nothing: compare locked_by in the view jobs and in _private_job_queues")}
	case u.Skip == admin.SkipRunning:
		return fmt.Errorf("worker %s is alive: %s; its jobs would start again while they still run; stop it, or, %s", u.ID, oneLine(u.Detail), advice)
	case u.Skip == admin.SkipForeign:
		return fmt.Errorf("nobody can tell whether the worker is alive: it is a Node worker, or one without a row with heartbeats in backfill_workers; %s", advice)
	}
	return nil
}
