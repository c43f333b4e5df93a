package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill/admin"
)

const listDescription = `It works on each database that has Graphile Worker's tables, also if only Node workers use it. Times are the database's.

With --json it writes one object.

Exit codes: 0, all is well; 1, it failed, or the role may not read it; 2, the usage is wrong; 3, there is nothing.`

// listCommand is a command that lists something and takes flags only.
func listCommand(name, usage string, action cli.ActionFunc, flags ...cli.Flag) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: " ", Description: listDescription, Flags: append(databaseFlags(), flags...),
		DisableSliceFlagSeparator: true, HideHelpCommand: true, OnUsageError: onUsageError,
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if cmd.Args().Present() {
				return usageError{fmt.Errorf("%s takes flags only", name)}
			}
			return action(ctx, cmd)
		},
	}
}

func queuesCommand() *cli.Command {
	return listCommand("queues", "list queues by name, with who has locked them and how many jobs wait", listQueues, append(pageFlags(),
		&cli.StringSliceFlag{Name: flagQueue, Usage: "the queue `NAME`"},
		&cli.BoolFlag{Name: flagLocked, Usage: "those that are locked, also if the lock is stale"})...)
}

func workersCommand() *cli.Command {
	return listCommand("workers", "list Go workers, with what they do, and count Node's", listWorkers, objectFlag())
}

func locksCommand() *cli.Command {
	return listCommand("locks", "list who has locked jobs and queues, and since when", listLocks, objectFlag())
}

func cronCommand() *cli.Command {
	list := listCommand("list", "list the entries of schedules by name, with the last tick of each", listCrontabs, pageFlags()...)
	return &cli.Command{
		Name: "cron", Usage: "list what schedules have enqueued, or enqueue it out of its turn", Description: listDescription,
		Commands: []*cli.Command{list, triggerCommand()}, HideHelpCommand: true, OnUsageError: onUsageError, Action: onlyCommands("cron", "list or trigger"),
	}
}

func listQueues(ctx context.Context, cmd *cli.Command) error {
	operator, err := openPages(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	filter := admin.QueueFilter{Names: given(cmd.StringSlice(flagQueue)), Locked: cmd.Bool(flagLocked)}
	page := admin.NamePage{After: cmd.String(flagCursor), Size: cmd.Int(flagLimit)}
	all := &admin.QueueList{Queues: []admin.Queue{}}
	for {
		list, err := operator.Queues(ctx, filter, page)
		if err != nil {
			return refusedByAdmin(err)
		}
		list.Queues = append(all.Queues, list.Queues...)
		all = list
		if page.After = list.Next; page.After == "" || !cmd.Bool(flagAllPages) {
			break
		}
	}
	t := &table{header: []string{"QUEUE", "WAITING", "LOCKED SINCE", "LOCKED BY", "JOB", "PAUSED"}, whole: []string{"WAITING", "LOCKED SINCE", "JOB"}}
	for _, q := range all.Queues {
		waiting, job, paused := "", "", ""
		if q.Jobs != nil {
			waiting = q.Jobs.String()
		}
		if q.HolderJob != 0 {
			job = strconv.FormatInt(q.HolderJob, 10)
		}
		if q.Pause != nil {
			paused = "since " + moment(q.Pause.At)
		}
		since := moment(q.LockedAt)
		if q.Stale {
			since += " (stale)"
		}
		t.rows = append(t.rows, []string{q.Name, waiting, since, q.LockedBy, job, paused})
	}
	return writeList(cmd, all, t, all.Next, "no queue matches", all.Missing)
}

// writeList writes a list as JSON or as a table, and what has to be said of it.
func writeList(cmd *cli.Command, list any, t *table, next, none string, missing []admin.Missing) error {
	var err error
	if cmd.Bool(flagJSON) {
		err = writeJSON(cmd.Root().Writer, list)
	} else if len(t.rows) > 0 {
		err = t.write(cmd.Root().Writer)
	}
	if err != nil {
		return err
	}
	if next != "" {
		fmt.Fprintf(cmd.Root().ErrWriter, "there are more: --cursor=%s\n", next)
	}
	return listed(cmd, len(t.rows), next, none, missing)
}

func listWorkers(ctx context.Context, cmd *cli.Command) error {
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	list, err := operator.Workers(ctx)
	if err != nil {
		return err
	}
	t := &table{
		header: []string{"WORKER", "STATE", "HOST", "PID", "VERSION", "HEARTBEAT", "SLOTS", "RUNNING", "TASKS"},
		whole:  []string{"WORKER", "STATE", "PID", "HEARTBEAT", "SLOTS", "RUNNING"},
		colour: func(header, cell string) string {
			if header == "STATE" && (cell == string(admin.WorkerSilent) || cell == string(admin.WorkerDead)) {
				return "red"
			}
			return ""
		},
	}
	for _, w := range list.Workers {
		t.rows = append(t.rows, []string{
			w.ID, string(w.State), w.Host, strconv.Itoa(w.PID), w.Version, w.Heartbeat.UTC().Format("15:04:05Z"),
			strconv.Itoa(w.Slots), strconv.Itoa(w.Running), strings.Join(w.Tasks, ", "),
		})
	}
	if n := list.NodeSessions; n != nil && *n > 0 && !cmd.Bool(flagJSON) {
		fmt.Fprintf(cmd.Root().ErrWriter, "%d sessions listen as Node workers do, which have no rows\n", *n)
	}
	return writeList(cmd, list, t, "", "there is no Go worker, and none has died within a day", list.Missing)
}

func listLocks(ctx context.Context, cmd *cli.Command) error {
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	list, err := operator.Locks(ctx)
	if err != nil {
		return err
	}
	t := &table{header: []string{"LOCKED BY", "HOLDER", "SINCE", "STALE", "JOBS", "QUEUES", "WHICH"}, whole: []string{"HOLDER", "SINCE"}}
	for _, l := range list.Locks {
		var which []string
		for _, j := range l.Jobs {
			which = append(which, strconv.FormatInt(j.ID, 10))
		}
		t.rows = append(t.rows, []string{
			l.LockedBy, string(l.Holder), moment(l.Since), strconv.Itoa(l.Stale), strconv.Itoa(len(l.Jobs)), strconv.Itoa(len(l.Queues)),
			strings.Join(append(which, l.Queues...), " "),
		})
	}
	err = writeList(cmd, list, t, "", "nothing is locked", list.Missing)
	if !list.Partial {
		return err
	}
	fmt.Fprintln(cmd.Root().ErrWriter, "not all jobs were searched: jobs list --locked --all-pages finds the others")
	if exit, ok := errors.AsType[exitError](err); ok && exit.code == exitNothing { // that is not known
		return nil
	}
	return err
}

func listCrontabs(ctx context.Context, cmd *cli.Command) error {
	operator, err := openPages(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	page := admin.NamePage{After: cmd.String(flagCursor), Size: cmd.Int(flagLimit)}
	all := &admin.CrontabList{Crontabs: []admin.Crontab{}}
	for {
		list, err := operator.Crontabs(ctx, page)
		if err != nil {
			return refusedByAdmin(err)
		}
		list.Crontabs = append(all.Crontabs, list.Crontabs...)
		all = list
		if page.After = list.Next; page.After == "" || !cmd.Bool(flagAllPages) {
			break
		}
	}
	t := &table{header: []string{"ENTRY", "LAST TICK", "KNOWN SINCE"}, whole: []string{"LAST TICK", "KNOWN SINCE"}}
	for _, c := range all.Crontabs {
		t.rows = append(t.rows, []string{c.Identifier, moment(c.LastTick), moment(c.KnownSince)})
	}
	return writeList(cmd, all, t, all.Next, "no worker has had a schedule", all.Missing)
}
