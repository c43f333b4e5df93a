package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/cmd/backfill/internal/bench"
	"github.com/backfillhq/go/internal/pg"
)

const (
	flagFor     = "for"
	flagSlots   = "slots"
	flagCallers = "callers"
	flagBatch   = "batch"
)

const benchDescription = `It measures the server of the flags or the environment, as this machine reaches it: how many jobs are enqueued in a second,
how many that do nothing a worker runs, and how long it takes from an enqueue to the start of a job, while the worker is
idle. It does so in a schema of its own, backfill_bench_…, which it drops at the end, also after Ctrl-C; what a run has
left that was killed, a later one drops after an hour. The role needs CREATE on the database.

The server's caches, its write-ahead log and its replicas get the load, and workers in the same database are woken for
nothing. If some are alive, it says so and asks first.

Exit codes: 0, all was measured; 1, it failed, or was stopped; 2, the usage is wrong; 5, it was not confirmed, and
nothing was done.`

func benchCommand() *cli.Command {
	return &cli.Command{
		Name: "bench", Usage: "measure how fast a server takes jobs and gives them out", ArgsUsage: " ", Description: benchDescription,
		Flags: append(slices.DeleteFunc(changeFlags(), func(f cli.Flag) bool { return slices.Contains(f.Names(), flagSchema) }), // it has its own
			&cli.DurationFlag{Name: flagFor, Usage: "measure for this `DURATION`", Value: 10 * time.Second},
			&cli.IntFlag{Name: flagSlots, Usage: "the worker runs `N` jobs at a time", Value: 50},
			&cli.IntFlag{Name: flagCallers, Usage: "`N` goroutines enqueue at a time, one job each", Value: 10},
			&cli.IntFlag{Name: flagBatch, Usage: "an enqueue of many has `N` jobs", Value: 100},
			&cli.BoolFlag{Name: flagYes, Usage: "do not ask, also if workers are alive"},
			&cli.BoolFlag{Name: flagJSON, Usage: "write an object of JSON"},
		),
		HideHelpCommand: true, OnUsageError: onUsageError, Action: runBench,
	}
}

func runBench(ctx context.Context, cmd *cli.Command) error {
	options := bench.Options{For: cmd.Duration(flagFor), Slots: cmd.Int(flagSlots), Callers: cmd.Int(flagCallers), Batch: cmd.Int(flagBatch)}
	switch {
	case cmd.Args().Present():
		return usageError{errors.New("bench takes flags only")}
	case options.For < time.Second || options.For > bench.MaxFor:
		return usageError{fmt.Errorf("--for: want 1s to %v", bench.MaxFor)}
	case options.Slots < 1 || options.Slots > 10_000:
		return usageError{errors.New("--slots: want 1 to 10000")}
	case options.Callers < 1 || options.Callers > 1000:
		return usageError{errors.New("--callers: want 1 to 1000")}
	case options.Batch < 1 || options.Batch > 10_000:
		return usageError{errors.New("--batch: want 1 to 10000")}
	}
	t, err := targetOf(cmd)
	if err != nil {
		return err
	}
	options.DatabaseURL = t.url
	conn, err := pg.Connect(ctx, options.DatabaseURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	notes := cmd.Root().ErrWriter
	fmt.Fprintf(notes, "database  %s on %s, as role %s\n", conn.Config().Database, servers(conn.Config()), conn.Config().User)
	here, elsewhere, err := bench.Used(ctx, conn)
	if err != nil {
		return err
	}
	for _, who := range slices.Concat(here, elsewhere) {
		fmt.Fprintln(notes, "in use    "+plainText(who))
	}
	asked, err := confirmProduction(cmd)
	if err != nil {
		return err
	}
	if len(here) > 0 && !asked && !cmd.Bool(flagYes) {
		if err := confirmed(cmd, "This database is in use. To measure it all the same"); err != nil {
			return err
		}
	}
	if err := bench.RemoveLeftovers(ctx, conn, notes); err != nil {
		return err
	}
	report, err := bench.Run(ctx, conn, options, notes)
	switch {
	case ctx.Err() != nil:
		return errors.Join(errors.New("it was stopped before all was measured"), withoutCancel(err))
	case err != nil:
		return err
	case cmd.Bool(flagJSON):
		return writeJSON(cmd.Root().Writer, report)
	}
	return writeMeasured(cmd.Root().Writer, report)
}

// withoutCancel is an error, unless it is that somebody has stopped it.
func withoutCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// writeMeasured writes tables.
func writeMeasured(w io.Writer, r bench.Report) error {
	var settings []string
	for _, name := range slices.Sorted(maps.Keys(r.Server.Settings)) {
		if value := r.Server.Settings[name]; value != "" {
			settings = append(settings, name+" "+plainText(value))
		}
	}
	fmt.Fprintf(w, "server    PostgreSQL %s, round trip %s\n", plainText(r.Server.Version), milliseconds(r.Server.RoundTrip))
	fmt.Fprintf(w, "settings  %s\n", strings.Join(settings, ", "))
	fmt.Fprintf(w, "client    %s, %d processors\n\n", r.Client.Go, r.Client.Processors)
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "MEASURED\tJOBS\tRESULT")
	for _, rate := range r.Enqueue {
		what := "enqueue one by one"
		switch {
		case rate.Batch > 1:
			what = fmt.Sprintf("enqueue %d at a time", rate.Batch)
		case rate.Callers > 1:
			what = fmt.Sprintf("enqueue one by one, %d callers", rate.Callers)
		}
		fmt.Fprintf(table, "%s\t%d\t%s\n", what, rate.Jobs, perSecond(rate.PerSecond))
	}
	fmt.Fprintf(table, "run jobs that do nothing, %d slots\t%d\t%s\n", r.Client.Slots, r.Work.Jobs, perSecond(r.Work.PerSecond))
	fmt.Fprintf(table, "from enqueue to start, idle worker\t%d\tp50 %s, p95 %s, p99 %s\n",
		r.Latency.Jobs, milliseconds(r.Latency.P50), milliseconds(r.Latency.P95), milliseconds(r.Latency.P99))
	return table.Flush()
}

func perSecond(rate float64) string { return strconv.FormatFloat(rate, 'f', 0, 64) + " /s" }

func milliseconds(ms float64) string { return strconv.FormatFloat(ms, 'f', 2, 64) + " ms" }
