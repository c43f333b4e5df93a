// Command bench measures backfill beside bare SQL, in one run on one server:
//
//	go run . [-shapes work,enqueue,bulk,latency,memory,serial,flood] [-runs 5] [-json FILE]
//	go run . -shapes fleet    # no measurement: counts that four worker processes lose nothing and run nothing twice
//	go run . -shapes operators [-stored 10000000]    # how long what operators ask takes on a large table
//
// The serial shapes are measured beside Graphile Worker, if npm can install it: it need not finish them (-patience), and has one run
// where it is slow. -serial 10000 makes them smaller.
//
// It measures another revision and this tree in turns on one server, and prints the ratios:
//
//	go run . -against main [-shapes work,latency] [-pairs 7] [-json FILE]
//
// It prints Markdown. What it compares with, and what that leaves out, is said beside each floor, in floor_*.go. The server is
// a private one with normal durability on a real disk, gone afterwards; or the one that DATABASE_URL or PG* name, in a database
// of its own that is dropped afterwards. Only ratios of one run mean something: machines differ, and a busy one lies.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	shapes     []string
	runs       int
	jobs       int           // to work off, to insert in bulk, and for the fleet
	seconds    time.Duration // of each run that enqueues one by one
	latency    int           // jobs of each run that measures latency
	waiting    int           // jobs that wait while memory is measured
	working    time.Duration // how long the worker works meanwhile
	serial     int           // jobs of the serial shapes; what stands in their way is in proportion
	patience   time.Duration // with a peer
	stored     int           // jobs that operators look into
	flood      int           // free jobs of the flood shapes; what is before them is in proportion
	against    string        // another revision
	pairs      int           // of runs, then
	amounts    []string      // the flags that were given which say how much to measure
	json       string
	dir        string
	cpu, mem   string // profiles of our worker
	statements bool
}

// The shapes in the order in which they run. The fleet, which is a check, and the operators run when they are asked for, alone.
const (
	shapeWork    = "work"
	shapeEnqueue = "enqueue"
	shapeBulk    = "bulk"
	shapeLatency = "latency"
	shapeMemory  = "memory"
	shapeSerial  = "serial"
	shapeFlood   = "flood"
	shapeFleet   = "fleet"
	shapeAsk     = "operators"
)

var measured = []string{shapeWork, shapeEnqueue, shapeBulk, shapeLatency, shapeMemory, shapeSerial, shapeFlood}

func main() {
	// Defaults are measured, and the default logger with them; but not what it prints.
	slog.SetLogLoggerLevel(slog.LevelWarn)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // nothing is left to be done by stop
	}
}

func run(ctx context.Context) error {
	if spec := os.Getenv(childVariable); spec != "" {
		return runChild(ctx, spec)
	}
	opts, err := parseFlags(os.Args[1:])
	if err != nil {
		return err
	}
	if opts.against != "" {
		return compareWith(ctx, opts, os.Stdout)
	}
	return measure(ctx, opts, os.Stdout)
}

func parseFlags(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	shapes := flags.String("shapes", strings.Join(measured, ","), "what to measure, of "+strings.Join(measured, ", ")+", "+shapeFleet+" and "+shapeAsk)
	flags.IntVar(&o.runs, "runs", 5, "runs of each system and shape; medians are reported")
	flags.StringVar(&o.against, "against", "", "measure this git `revision` and this tree in turns, and report the ratios")
	flags.IntVar(&o.pairs, "pairs", 7, "pairs of runs of each shape with -against")
	flags.IntVar(&o.jobs, "n", 200_000, "jobs to work off, to insert in bulk, and for the fleet")
	flags.DurationVar(&o.seconds, "enqueue", 2500*time.Millisecond, "how long each run enqueues one by one")
	flags.IntVar(&o.latency, "latency", 1000, "jobs of each run that measures latency")
	flags.IntVar(&o.waiting, "waiting", 1_000_000, "jobs that wait while memory is measured")
	flags.DurationVar(&o.working, "working", 5*time.Second, "how long the worker works while memory is measured")
	flags.IntVar(&o.serial, "serial", 100_000, "jobs of the serial shapes; what stands in their way is in proportion")
	flags.IntVar(&o.flood, "flood", 20_000, "free jobs of the flood shapes; what is before them is in proportion")
	flags.IntVar(&o.stored, "stored", 10_000_000, "jobs that operators look into")
	flags.DurationVar(&o.patience, "patience", 15*time.Second, "how long a peer may work in a run of a serial shape")
	flags.StringVar(&o.json, "json", "", "also write all numbers to this `file`")
	flags.StringVar(&o.dir, "dir", "", "put the server's data into this `folder`, on a real disk (default /var/tmp, else the folder for temporary files)")
	flags.StringVar(&o.cpu, "cpuprofile", "", "write a CPU profile of our worker, in its last run of the shape work, to this `file`")
	flags.StringVar(&o.mem, "memprofile", "", "write a profile of its allocations to this `file`, which slows it down")
	flags.BoolVar(&o.statements, "statements", false, "after each run, print what the server did, by pg_stat_statements")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	o.shapes = strings.Split(*shapes, ",")
	return o, o.check(flags)
}

// check says what is wrong with the flags, and sorts out what -against passes on.
func (o *options) check(flags *flag.FlagSet) error {
	for _, name := range o.shapes {
		if name != shapeFleet && name != shapeAsk && !slices.Contains(measured, name) {
			return fmt.Errorf("unknown shape %q: want some of %s, %s, %s", name, strings.Join(measured, ", "), shapeFleet, shapeAsk)
		}
	}
	if min(o.runs, o.pairs, o.jobs, o.latency, o.waiting, o.stored, o.serial/10, o.flood/200) < 1 || min(o.seconds, o.working, o.patience) <= 0 || flags.NArg() > 0 {
		return errors.New("numbers have to be positive, and there are no arguments: see -help")
	}
	var alone []string
	flags.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "shapes", "against", "pairs", "json", "dir":
		case "runs", "cpuprofile", "memprofile", "statements":
			alone = append(alone, "-"+f.Name)
		default:
			o.amounts = append(o.amounts, "-"+f.Name+"="+f.Value.String())
		}
	})
	switch {
	case o.against == "":
		return nil
	case len(alone) > 0:
		return fmt.Errorf("%s cannot be used with -against: -pairs says how many runs it makes", strings.Join(alone, ", "))
	case slices.Contains(o.shapes, shapeFleet), slices.Contains(o.shapes, shapeAsk):
		return fmt.Errorf("the shapes %s and %s measure nothing that -against could compare", shapeFleet, shapeAsk)
	}
	return nil
}

// measure starts a server, runs the shapes on it, and prints the results.
func measure(ctx context.Context, opts options, out io.Writer) (err error) {
	onlyFleet := !slices.ContainsFunc(opts.shapes, func(name string) bool { return name != shapeFleet })
	server, err := startServer(ctx, opts, !onlyFleet)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	l, err := newLab(ctx, opts, server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()

	if slices.Contains(opts.shapes, shapeSerial) {
		if l.peers, err = l.graphiles(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "Graphile Worker takes no part:", err)
		}
	}
	if slices.Contains(opts.shapes, shapeFleet) {
		if err := l.fleet(ctx, out); err != nil {
			return err
		}
	}
	if slices.Contains(opts.shapes, shapeAsk) {
		if err := l.operators(ctx, out); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(opts.shapes, func(name string) bool { return slices.Contains(measured, name) }) {
		return nil
	}
	report := &report{Facts: l.facts(ctx)}
	for _, shape := range l.shapes() {
		if !slices.Contains(opts.shapes, shape.group) {
			continue
		}
		result, err := l.run(ctx, shape)
		if err != nil {
			return fmt.Errorf("%s: %w", shape.title, err)
		}
		report.Shapes = append(report.Shapes, result)
	}
	report.Facts.LoadAfter = loadAverage()
	report.print(out)
	if opts.json == "" {
		return nil
	}
	return report.write(opts.json)
}
