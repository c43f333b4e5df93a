//go:build unix

// Command faults runs a fleet of real processes on a real server, with traffic of every kind,
// also transactional jobs, jobs that fail for good, whose dead letters a process of its own
// requeues, and jobs that another one cancels, injects one fault after the other, and checks
// every promise that docs/design.md makes:
//
//	go run ./internal/faults -for 15m [-seed N] [-out FILE]
//
// It prints a table in Markdown, and ends with an error if a promise was broken. The seed says
// which faults come in which order, which processes they meet, and what is enqueued, so that a
// failing seed can be run again; how the processes interleave is up to the machine. The folder with
// the journals and logs of all processes is kept then.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	seed     uint64
	duration time.Duration
	rate     float64
	only     *regexp.Regexp
	needNode bool
	poison   bool
	patroni  time.Duration
	cluster  bool
	folder   string
	audit    string
	out      string
	say      func(format string, a ...any)
}

// longRun is from when on a run has faults in their full length.
const longRun = 10 * time.Minute

// length is how long something takes in this run.
func (o options) length(short, full time.Duration) time.Duration {
	if o.duration < longRun {
		return short
	}
	return full
}

const (
	folderPrefix = "backfill-faults-"
	ownJournal   = "harness.journal"
)

// errBroken says that the audit found something.
var errBroken = errors.New("a promise was broken")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := start(ctx)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		stop()
		os.Exit(1) //nolint:gocritic // nothing is left to be done by stop
	}
}

func start(ctx context.Context) error {
	if spec := os.Getenv(childVariable); spec != "" {
		return runChild(ctx, spec)
	}
	o, err := parseFlags(os.Args[1:])
	if err != nil {
		return err
	}
	if o.audit != "" {
		return report(o.audit, os.Stdout, o.out)
	}
	return try(ctx, o, os.Stdout)
}

func parseFlags(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("faults", flag.ContinueOnError)
	flags.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()%1_000_000), "which schedule")
	flags.DurationVar(&o.duration, "for", 15*time.Minute, "how long jobs are enqueued; from "+longRun.String()+" on faults have their full length")
	flags.Float64Var(&o.rate, "rate", 400, "jobs a second, of all enqueuers together")
	only := flags.String("only", "", "inject only the faults whose name matches this `regexp`")
	flags.BoolVar(&o.needNode, "node", true, "install Graphile Worker with npm unless it is there; false: it takes part if it is there")
	flags.BoolVar(&o.poison, "poison", true, "also enqueue jobs that kill their workers")
	flags.DurationVar(&o.patroni, "patroni", 0, "then also run a fleet for so long on three servers with Patroni, and kill leaders")
	flags.StringVar(&o.folder, "dir", "", "keep everything in this new `folder` (default: one in /var/tmp, which is removed if all is well)")
	flags.StringVar(&o.audit, "audit", "", "run nothing, and audit the journals that an earlier run left in this `folder`")
	flags.StringVar(&o.out, "out", "", "also write the report to this `file`, as docs/reliability.md has it")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 || o.rate < 1 || o.duration < warmUp {
		return o, errors.New("there are no arguments, and numbers have to be positive: see -help")
	}
	if *only != "" {
		var err error
		if o.only, err = regexp.Compile(*only); err != nil {
			return o, fmt.Errorf("-only: %w", err)
		}
	}
	begun := time.Now()
	o.say = func(format string, a ...any) {
		fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(begun).Seconds(), fmt.Sprintf(format, a...))
	}
	return o, nil
}
