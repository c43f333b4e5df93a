package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill/admin"
)

const (
	flagRunAt       = "run-at"
	flagIn          = "in"
	flagPriority    = "priority"
	flagMaxTries    = "max-tries"
	flagPayload     = "payload"
	flagPayloadFile = "payload-file"
	flagRevision    = "if-revision"
	flagUpdatedAt   = "if-updated-at"
)

const jobsChangeDescription = `It changes jobs that nobody runs: one that a worker has is skipped, and its worker is named. A cancel also asks for the
end of jobs that Go workers run; it deletes the others.

Jobs are selected by numbers and flags, as by backfill jobs list. Each flag can be given several times and then matches
any of its values; different flags must all match. What comes later than the preview is out, and what somebody changes
meanwhile is skipped. What is changed is recorded (backfill audit), and what became of each job (backfill bulk show).

Exit codes: 0, all were changed; 1, it failed; 2, the usage is wrong; 3, nothing matched; 4, some were skipped;
5, it was not confirmed, and nothing was changed.`

// bulkVerb is what is done to many jobs or dead letters, and how it is told.
type bulkVerb struct {
	action      admin.Action
	done, place string
}

var (
	retryJobs      = bulkVerb{admin.ActionRetry, "retried", "jobs"}
	cancelJobs     = bulkVerb{admin.ActionCancel, "cancelled", "jobs"}
	deleteJobs     = bulkVerb{admin.ActionDelete, "deleted", "jobs"}
	rescheduleJobs = bulkVerb{admin.ActionReschedule, "rescheduled", "jobs"}
)

// jobChangeCommands are the commands of jobs that change some.
func jobChangeCommands() []*cli.Command {
	return []*cli.Command{
		jobChangeCommand("retry", "make jobs due now that have failed, also for good", retryJobs),
		jobChangeCommand("cancel", "delete jobs that wait, and ask for the end of those that run", cancelJobs),
		jobChangeCommand("delete", "delete jobs that nobody runs", deleteJobs),
		jobChangeCommand("reschedule", "change when and how often jobs that wait run", rescheduleJobs,
			&cli.StringFlag{Name: flagRunAt, Usage: "they are due at this `TIME`, as in 2026-11-29T14:00:00Z"},
			&cli.DurationFlag{Name: flagIn, Usage: "they are due after this `TIME`, as in 2h; 0s: now"},
			&cli.IntFlag{Name: flagPriority, Usage: "they get this priority `NUMBER`: a lower one runs first"},
			&cli.IntFlag{Name: flagMaxTries, Usage: "they are tried `N` times in all: more than they were"}),
		{
			Name: "edit", Usage: "replace the args of a job that nobody runs", ArgsUsage: "ID",
			Description: "It replaces the args of a job. Fields that are hidden stay as they are where the new args have what hides them.\n\n" +
				"Exit codes: 0, it was changed; 1, it failed; 2, the usage is wrong; 3, there is no such job; 4, it was skipped.",
			Flags: append(append(changeFlags(), recordFlags()...),
				&cli.StringFlag{Name: flagPayload, Usage: "the new args, as `JSON`"},
				&cli.StringFlag{Name: flagPayloadFile, Usage: "read them from this `FILE`; - is standard input"},
				&cli.IntFlag{Name: flagRevision, Usage: "only if the job has this revision `NUMBER`"},
				&cli.StringFlag{Name: flagUpdatedAt, Usage: "only if nobody has changed it after this `TIME`, which jobs show says"},
				jsonFlag()),
			DisableSliceFlagSeparator: true, HideHelpCommand: true, OnUsageError: onUsageError, Action: editJob,
		},
	}
}

// recordFlags say what is kept of a change.
func recordFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: flagReason, Usage: "why: a `TEXT` that is kept in the record of the change"}, byFlag(),
	}
}

func byFlag() cli.Flag {
	return &cli.StringFlag{Name: flagBy, Usage: "who changes it: a `NAME` for the record. Default: the user of this machine"}
}

// bulkFlags are those of commands that change many.
func bulkFlags(what string) []cli.Flag {
	return append(recordFlags(),
		&cli.BoolFlag{Name: flagAll, Usage: "all " + what + ": instead of flags that select some"},
		&cli.BoolFlag{Name: flagDryRun, Usage: "change nothing; say what would be done"},
		&cli.BoolFlag{Name: flagYes, Usage: "do not count and ask first"},
		&cli.BoolFlag{Name: flagAllowNone, Usage: "exit with 0 if nothing matches"},
		&cli.FloatFlag{Name: flagPerSecond, Usage: "change `N` in a second at most"},
		&cli.BoolFlag{Name: flagJSON, Usage: "write a line of JSON for each"},
	)
}

func jobChangeCommand(name, usage string, verb bulkVerb, more ...cli.Flag) *cli.Command {
	flags := append(append(append(changeFlags(), jobFilterFlags()...), bulkFlags("jobs")...), more...)
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "[ID]…", Description: jobsChangeDescription, Flags: flags,
		DisableSliceFlagSeparator: true, HideHelpCommand: true, OnUsageError: onUsageError,
		Action: func(ctx context.Context, cmd *cli.Command) error { return changeJobs(ctx, cmd, verb) },
	}
}

func changeJobs(ctx context.Context, cmd *cli.Command, verb bulkVerb) error {
	ids, err := parseJobIDs(cmd)
	if err != nil {
		return err
	}
	filter, err := jobFilterOf(cmd)
	if err != nil {
		return err
	}
	filter.IDs = given(append(ids, filter.IDs...))
	bulk := admin.Bulk{Action: verb.action, Jobs: &filter, All: cmd.Bool(flagAll)}
	if verb == rescheduleJobs {
		if bulk.Reschedule, err = rescheduleOf(cmd); err != nil {
			return usageError{err}
		}
	}
	return changeMany(ctx, cmd, verb, bulk, filter.String(), filter.IsEmpty())
}

// parseJobIDs reads arguments that are ids. It does not repeat one that is none: it may be a URL with
// a password.
func parseJobIDs(cmd *cli.Command) (ids []int64, err error) {
	for _, argument := range cmd.Args().Slice() {
		id, err := strconv.ParseInt(argument, 10, 64)
		if err != nil || id <= 0 {
			return nil, usageError{errors.New("an argument is not the number of a job; the database is that of --database-url")}
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func rescheduleOf(cmd *cli.Command) (*admin.Reschedule, error) {
	to := &admin.Reschedule{}
	switch at, in := cmd.IsSet(flagRunAt), cmd.IsSet(flagIn); {
	case at && in:
		return nil, errors.New("--run-at and --in: choose one")
	case at:
		runAt, err := time.Parse(time.RFC3339, cmd.String(flagRunAt))
		if err != nil {
			return nil, errors.New("--run-at: want a time as in 2026-11-29T14:00:00Z")
		}
		to.RunAt = &runAt
	case in:
		to.RunAt = new(time.Now().Add(cmd.Duration(flagIn)))
	}
	for name, field := range map[string]**int{flagPriority: &to.Priority, flagMaxTries: &to.MaxAttempts} {
		if cmd.IsSet(name) {
			*field = new(cmd.Int(name))
		}
	}
	if to.RunAt == nil && to.Priority == nil && to.MaxAttempts == nil {
		return nil, errors.New("nothing to change: pass --run-at, --in, --priority or --max-tries")
	}
	return to, nil
}

func editJob(ctx context.Context, cmd *cli.Command) error {
	ids, err := parseJobIDs(cmd)
	switch {
	case err != nil:
		return err
	case len(ids) != 1:
		return usageError{errors.New("edit takes the number of one job")}
	case cmd.IsSet(flagPayload) == cmd.IsSet(flagPayloadFile):
		return usageError{errors.New("--payload or --payload-file: choose one")}
	}
	payload, err := payloadOf(cmd)
	if err != nil {
		return err
	}
	seen, err := versionOf(cmd)
	if err != nil {
		return usageError{err}
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	if err := echo(cmd, "jobs", "id "+strconv.FormatInt(ids[0], 10)); err != nil {
		return err
	}
	outcome, err := operator.EditJob(asOperator(ctx, cmd), ids[0], payload, seen, optionsOf(cmd))
	return tellOutcome(cmd, "job "+strconv.FormatInt(ids[0], 10), "edited", outcome, err)
}

func payloadOf(cmd *cli.Command) (json.RawMessage, error) {
	if cmd.IsSet(flagPayload) {
		return json.RawMessage(cmd.String(flagPayload)), nil
	}
	if cmd.String(flagPayloadFile) == "-" {
		return io.ReadAll(cmd.Root().Reader)
	}
	return os.ReadFile(cmd.String(flagPayloadFile))
}

func versionOf(cmd *cli.Command) (*admin.JobVersion, error) {
	seen := &admin.JobVersion{}
	if cmd.IsSet(flagRevision) {
		seen.Revision = new(cmd.Int(flagRevision))
	}
	if cmd.IsSet(flagUpdatedAt) {
		at, err := time.Parse(time.RFC3339Nano, cmd.String(flagUpdatedAt))
		if err != nil {
			return nil, errors.New("--if-updated-at: want a time as jobs show has it")
		}
		seen.UpdatedAt = at
	}
	return seen, nil
}

// tellOutcome says what became of one thing.
func tellOutcome(cmd *cli.Command, what, done string, outcome *admin.Outcome, err error) error {
	switch {
	case errors.Is(err, admin.ErrNotFound):
		return exitError{exitNothing, err}
	case err != nil:
		return refusedChange(err)
	}
	w := cmd.Root().Writer
	if cmd.Bool(flagJSON) {
		err = writeJSON(w, outcome)
	} else if outcome.Skip == "" {
		_, err = fmt.Fprintf(w, "%s is %s\n", what, done)
	}
	if err == nil && outcome.Skip != "" {
		err = exitError{exitSkipped, fmt.Errorf("%s was not %s: %s", what, done, whyLeft(outcome.Skip, outcome.Worker, outcome.JobID, outcome.Detail))}
	}
	return err
}

// refusedChange makes an error a wrong usage if the request can never be met as it is.
func refusedChange(err error) error {
	if errors.Is(err, admin.ErrInvalid) {
		return usageError{err}
	}
	return err
}

// whyLeft says in words why something was left as it was, and who has it.
func whyLeft(skip admin.Skip, worker string, jobID int64, detail string) string {
	text := string(skip)
	if worker != "" {
		text += ", worker " + cell(worker)
	}
	if jobID != 0 && slices.Contains([]admin.Skip{admin.SkipKeyHeld, admin.SkipRequeued}, skip) {
		text += ", job " + strconv.FormatInt(jobID, 10)
	}
	if detail != "" {
		text += ": " + plainText(detail)
	}
	return text
}
