package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill/admin"
)

const (
	flagState           = "state"
	flagNoQueue         = "no-queue"
	flagLocked          = "locked"
	flagLockedBy        = "locked-by"
	flagMinPriority     = "min-priority"
	flagMaxPriority     = "max-priority"
	flagMinAttempts     = "min-attempts"
	flagMaxAttempts     = "max-attempts"
	flagRunAtFrom       = "run-at-from"
	flagRunAtBefore     = "run-at-before"
	flagCreatedFrom     = "created-from"
	flagCreatedBefore   = "created-before"
	flagPayloadContains = "payload-contains"
	flagOldest          = "oldest"
	flagCursor          = "cursor"
	flagAllPages        = "all-pages"
)

const jobsDescription = `It works on each database that has Graphile Worker's tables, also if only Node workers use it.

Each flag that selects jobs can be given several times and then matches any of its values; different flags must all
match. Times are as in 2026-11-29T14:00:00Z, or a duration: 24h means 24 hours ago, and -24h in 24 hours.

A list searches 200,000 jobs at most, and says if there are more to search: pass --cursor as it says, or --all-pages.
Values behind names of secrets are hidden, and so is what the context's redact names.

With --json it writes one object.

Exit codes: 0, all is well; 1, it failed, or the role may not read it; 2, the usage is wrong; 3, nothing matched.`

func jobsCommand() *cli.Command {
	return &cli.Command{
		Name: "jobs", Usage: "list, show and change jobs", Description: jobsDescription,
		Commands: append([]*cli.Command{
			{
				Name: "list", Usage: "list jobs, the newest first", ArgsUsage: " ", Description: jobsDescription,
				Flags: append(append(append(databaseFlags(), jobFilterFlags()...), pageFlags()...),
					&cli.BoolFlag{Name: flagOldest, Usage: "list the oldest first"}),
				DisableSliceFlagSeparator: true, HideHelpCommand: true, OnUsageError: onUsageError, Action: listJobs,
			},
			{
				Name: "show", Usage: "show a job with its args", ArgsUsage: "ID", Description: jobsDescription,
				Flags:           append(databaseFlags(), objectFlag()),
				HideHelpCommand: true, OnUsageError: onUsageError, Action: showJob,
			},
		}, jobChangeCommands()...),
		HideHelpCommand: true, OnUsageError: onUsageError, Action: onlyCommands("jobs", "list, show, retry, cancel, delete, reschedule or edit"),
	}
}

// onlyCommands is the action of a command that has commands below it.
func onlyCommands(name, want string) cli.ActionFunc {
	return func(_ context.Context, cmd *cli.Command) error {
		if cmd.Args().Present() {
			return usageError{fmt.Errorf("unknown command of %s: want %s", name, want)}
		}
		return cli.ShowSubcommandHelp(cmd)
	}
}

func objectFlag() cli.Flag {
	return &cli.BoolFlag{Name: flagJSON, Usage: "write an object of JSON"}
}

// pageFlags say which part of a list is wanted, and how.
func pageFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: flagLimit, Usage: "list `N` at most, 1 to 1000", Value: 50},
		&cli.StringFlag{Name: flagCursor, Usage: "go on at the `CURSOR` that the list before ends with"},
		&cli.BoolFlag{Name: flagAllPages, Usage: "list all that match, page by page"},
		objectFlag(),
	}
}

// jobFilterFlags select jobs.
func jobFilterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.Int64SliceFlag{Name: flagID, Usage: "the job `ID`"},
		&cli.StringSliceFlag{Name: flagState, Usage: "waiting, due, running, suspect or failed: the `STATE`"},
		&cli.StringSliceFlag{Name: flagTask, Usage: "of the task `NAME`"},
		&cli.StringSliceFlag{Name: flagQueue, Usage: "of the queue `NAME`"},
		&cli.BoolFlag{Name: flagNoQueue, Usage: "of no queue"},
		&cli.StringSliceFlag{Name: flagKey, Usage: "with the job key `KEY`"},
		&cli.BoolFlag{Name: flagLocked, Usage: "that are locked, also if the lock is stale"},
		&cli.StringSliceFlag{Name: flagLockedBy, Usage: "that `WORKER` has locked: a value of locked_by, or a worker's id"},
		&cli.IntFlag{Name: flagMinPriority, Usage: "with this priority `NUMBER` or a greater one"},
		&cli.IntFlag{Name: flagMaxPriority, Usage: "with this priority `NUMBER` or a smaller one"},
		&cli.IntFlag{Name: flagMinAttempts, Usage: "with `N` attempts or more"},
		&cli.IntFlag{Name: flagMaxAttempts, Usage: "with `N` attempts or fewer"},
		&cli.StringFlag{Name: flagRunAtFrom, Usage: "whose run_at is this `TIME` or later"},
		&cli.StringFlag{Name: flagRunAtBefore, Usage: "whose run_at is before this `TIME`"},
		&cli.StringFlag{Name: flagCreatedFrom, Usage: "enqueued at this `TIME` or later"},
		&cli.StringFlag{Name: flagCreatedBefore, Usage: "enqueued before this `TIME`"},
		&cli.StringFlag{Name: flagContains, Usage: "whose last error has this `TEXT` in it"},
		&cli.StringFlag{Name: flagPayloadContains, Usage: "whose args contain this `JSON`, as in {\"customer\": 7}"},
	}
}

// jobFilterOf reads the flags that select jobs. A value that is empty is an error: it could be a
// variable of a script that is not set.
func jobFilterOf(cmd *cli.Command) (filter admin.JobFilter, err error) {
	filter = admin.JobFilter{
		IDs: given(cmd.Int64Slice(flagID)), Tasks: given(cmd.StringSlice(flagTask)), Queues: given(cmd.StringSlice(flagQueue)),
		NoQueue: cmd.Bool(flagNoQueue), Keys: given(cmd.StringSlice(flagKey)), Locked: cmd.Bool(flagLocked),
		LockedBy: given(cmd.StringSlice(flagLockedBy)), ErrorContains: cmd.String(flagContains),
	}
	for _, state := range cmd.StringSlice(flagState) {
		filter.States = append(filter.States, admin.JobState(state))
	}
	for name, to := range map[string]**int{
		flagMinPriority: &filter.MinPriority, flagMaxPriority: &filter.MaxPriority, flagMinAttempts: &filter.MinAttempts, flagMaxAttempts: &filter.MaxAttempts,
	} {
		if cmd.IsSet(name) {
			n := cmd.Int(name)
			*to = &n
		}
	}
	var problems []error
	for name, to := range map[string]*time.Time{
		flagRunAtFrom: &filter.RunAtFrom, flagRunAtBefore: &filter.RunAtBefore, flagCreatedFrom: &filter.CreatedFrom, flagCreatedBefore: &filter.CreatedBefore,
	} {
		if cmd.IsSet(name) {
			var problem error
			if *to, problem = parseTime(cmd.String(name)); problem != nil {
				problems = append(problems, fmt.Errorf("--%s: %w", name, problem))
			}
		}
	}
	for _, name := range []string{flagContains, flagPayloadContains} {
		if cmd.IsSet(name) && cmd.String(name) == "" {
			problems = append(problems, fmt.Errorf("--%s is empty", name))
		}
	}
	if text := cmd.String(flagPayloadContains); text != "" {
		filter.PayloadContains = []byte(text)
	}
	if err := errors.Join(append(problems, filter.Check())...); err != nil {
		return filter, usageError{err}
	}
	return filter, nil
}

// given is nil for a flag that was not given.
func given[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}

func listJobs(ctx context.Context, cmd *cli.Command) error {
	if cmd.Args().Present() {
		return usageError{errors.New("list takes flags only: pass ids as --id")}
	}
	filter, err := jobFilterOf(cmd)
	if err != nil {
		return err
	}
	page := admin.JobPage{After: cmd.String(flagCursor), Size: cmd.Int(flagLimit), Oldest: cmd.Bool(flagOldest)}
	operator, err := openPages(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	var all *admin.JobList
	for {
		list, err := operator.Jobs(ctx, filter, page)
		if err != nil {
			return refusedByAdmin(err)
		}
		if all == nil {
			all = list
		} else {
			all.Jobs, all.Next, all.Partial = append(all.Jobs, list.Jobs...), list.Next, list.Partial
			all.Searched += list.Searched
			all.Missing = list.Missing
		}
		if page.After = list.Next; page.After == "" || !cmd.Bool(flagAllPages) {
			break
		}
	}
	t, err := targetOf(cmd)
	if err != nil {
		return err
	}
	if cmd.Bool(flagJSON) {
		err = writeJSON(cmd.Root().Writer, all)
	} else if len(all.Jobs) > 0 {
		err = jobTable(all.Jobs).write(cmd.Root().Writer)
	}
	if err != nil {
		return err
	}
	notes := cmd.Root().ErrWriter
	switch {
	case all.Partial && all.Searched > 0:
		fmt.Fprintf(notes, "searched %d jobs of the schema %s; go on: --cursor=%s\n", all.Searched, t.Schema, all.Next)
	case all.Next != "":
		fmt.Fprintf(notes, "there are more: --cursor=%s\n", all.Next)
	}
	return listed(cmd, len(all.Jobs), all.Next, "no job matches: "+filter.String(), all.Missing)
}

// openPages is openAdmin for a list, whose flags are right.
func openPages(cmd *cli.Command) (*admin.Admin, error) {
	switch size := cmd.Int(flagLimit); {
	case size < 1 || size > 1000:
		return nil, usageError{errors.New("--limit: want 1 to 1000")}
	case cmd.IsSet(flagCursor) && cmd.String(flagCursor) == "":
		return nil, usageError{errors.New("--cursor is empty")}
	}
	return openAdmin(cmd)
}

// refusedByAdmin makes an error a wrong usage if the request can never be answered.
func refusedByAdmin(err error) error {
	if errors.Is(err, admin.ErrInvalid) {
		return usageError{err}
	}
	return err
}

// listed ends a list: what is missing is said, and so is that nothing matched.
func listed(cmd *cli.Command, found int, next, none string, missing []admin.Missing) error {
	notes := cmd.Root().ErrWriter
	writeMissing(notes, missing)
	switch {
	case found > 0 || next != "":
		return nil
	case len(missing) > 0:
		return exitError{exitProblem, errors.New("not all could be read, so it is not known whether something matches")}
	}
	return exitError{exitNothing, errors.New(strings.Map(printable, none))}
}

// stateColours are how a terminal shows states that stand out.
var stateColours = map[admin.JobState]string{admin.JobFailed: "red", admin.JobSuspect: "magenta", admin.JobRunning: "green"}

func jobTable(jobs []admin.Job) *table {
	t := &table{
		header: []string{"ID", "STATE", "TASK", "QUEUE", "RUN AT", "TRIES", "LOCKED BY", "KEY", "LAST ERROR"},
		whole:  []string{"ID", "STATE", "RUN AT", "TRIES"},
		colour: func(header, cell string) string {
			if header != "STATE" {
				return ""
			}
			return stateColours[admin.JobState(cell)]
		},
	}
	for _, j := range jobs {
		t.rows = append(t.rows, []string{
			strconv.FormatInt(j.ID, 10), string(j.State), orGone(j.Task, j.Task == ""), orGone(j.Queue, j.QueueGone), moment(j.RunAt),
			fmt.Sprintf("%d/%d", j.Attempts, j.MaxAttempts), j.LockedBy, j.Key, j.LastError,
		})
	}
	return t
}

func orGone(name string, gone bool) string {
	if gone {
		return "(its row is gone)"
	}
	return name
}

// moment is a time in a table: to the second, in UTC.
func moment(t admin.Time) string {
	switch {
	case t.IsZero():
		return ""
	case t.Infinite != 0:
		return t.String()
	}
	return t.Time.UTC().Format("2006-01-02T15:04:05Z")
}

func showJob(ctx context.Context, cmd *cli.Command) error {
	id, err := strconv.ParseInt(cmd.Args().First(), 10, 64)
	if err != nil || cmd.Args().Len() != 1 {
		return usageError{errors.New("show takes the id of one job")}
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	j, err := operator.Job(ctx, id)
	if errors.Is(err, admin.ErrNotFound) {
		return exitError{exitNothing, fmt.Errorf("there is no job %d: backfill why %d says what is known of it", id, id)}
	}
	if err != nil {
		return err
	}
	if cmd.Bool(flagJSON) {
		return writeJSON(cmd.Root().Writer, j)
	}
	payload := string(j.Payload)
	if j.Payload == nil {
		payload = fmt.Sprintf("(%d bytes: too large to show)", j.PayloadBytes)
	}
	worker := ""
	if w := j.Worker; w != nil {
		worker = fmt.Sprintf("%s on %s, process %d", w.ID, w.Host, w.PID)
	}
	return writeFields(cmd.Root().Writer, [][2]string{
		{"id", strconv.FormatInt(j.ID, 10)},
		{"state", string(j.State)},
		{"task", orGone(j.Task, j.Task == "")},
		{"queue", orGone(j.Queue, j.QueueGone)},
		{"key", j.Key},
		{"priority", strconv.Itoa(j.Priority)},
		{"flags", strings.Join(j.Flags, ", ")},
		{"run at", moment(j.RunAt)},
		{"attempts", fmt.Sprintf("%d of %d", j.Attempts, j.MaxAttempts)},
		{"revision", strconv.Itoa(j.Revision)},
		{"created at", moment(j.CreatedAt)},
		{"updated at", moment(j.UpdatedAt)},
		{"locked at", moment(j.LockedAt)},
		{"locked by", j.LockedBy},
		{"worker", worker},
		{"last error", j.LastError},
		{"args", payload},
	})
}

// writeFields writes what is known of one thing, a line for each field that is not empty.
func writeFields(w io.Writer, fields [][2]string) error {
	var out strings.Builder
	for _, field := range fields {
		if field[1] != "" {
			fmt.Fprintf(&out, "%-13s %s\n", field[0], indented(field[1]))
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}
