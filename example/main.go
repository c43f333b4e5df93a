// Command example is a small sign-up service: a page with a form, jobs behind it, and mail that is
// really sent.
//
//	go run ./example                      the site and a worker
//	go run ./example -role web            the site alone; -role worker: a worker alone
//	go run ./example import people.csv    10,000 subscribers from a file, and their welcome mail
//
// Nothing has to be running: without DATABASE_URL it starts a PostgreSQL, without SMTP_ADDR a mail
// server. Start reading in package tasks, which has the tasks; then subscribe in web.go, which
// enqueues them, and newWorkshop, which works them.
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
	"syscall"

	"github.com/backfillhq/go/example/tasks"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit code: 2 for a wrong call, 1 for everything else that goes wrong.
func run(args []string, out, errOut io.Writer) int {
	cfg, err := parseArgs(args, errOut)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	level := slog.LevelInfo
	if cfg.file != "" {
		level = slog.LevelWarn // the rest would be in the way of the progress bars
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: level})))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, func() {
		fmt.Fprintln(errOut, "\nStopping: running jobs may finish; waiting ones are left to the next worker.\nCtrl-C again kills.")
		stop()
	})()
	if err := start(ctx, cfg, out, errOut); err != nil {
		fmt.Fprintln(errOut, "example:", err)
		return 1
	}
	return 0
}

// config is what the command line and the environment say.
type config struct {
	role        string
	listen      string // "": see listen
	file        string // to import; "": none
	smtpAddr    string // "": a mail server of our own
	databaseURL string // "": see openDatabase
}

const usage = `usage: go run ./example [flags]              run the service
       go run ./example import people.csv   import subscribers: name,email

DATABASE_URL names a PostgreSQL of yours. Without it the first process starts a
private one, which keeps its data and stops with that process; other processes
connect to it. SMTP_ADDR (host:port) names a mail server of yours; else there is
one in the process, and the page shows what arrives there.

`

// parseArgs reads the command line, and tells the user what is wrong with it.
func parseArgs(args []string, errOut io.Writer) (config, error) {
	cfg := config{databaseURL: os.Getenv("DATABASE_URL"), smtpAddr: os.Getenv("SMTP_ADDR")}
	flags := flag.NewFlagSet("example", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.StringVar(&cfg.role, "role", "all", "run the site (web), a worker (worker) or both (all)")
	flags.StringVar(&cfg.listen, "listen", "", "the site's `address` (default 127.0.0.1:8080,\nor a free port if that is taken)")
	flags.Usage = func() {
		fmt.Fprint(errOut, usage)
		flags.PrintDefaults()
	}
	err := flags.Parse(args)
	if err != nil {
		return cfg, err
	}
	switch rest := flags.Args(); {
	case !slices.Contains([]string{"all", "web", "worker"}, cfg.role):
		err = fmt.Errorf("unknown role %q: want all, web or worker", cfg.role)
	case len(rest) > 0 && rest[0] != "import":
		err = fmt.Errorf("unknown command %q: there is only import", rest[0])
	case len(rest) > 0 && (len(rest) != 2 || flags.NFlag() > 0):
		err = errors.New("import takes one file and no flags")
	case len(rest) > 0:
		cfg.file = rest[1]
	}
	if err != nil {
		fmt.Fprintln(errOut, err)
		flags.Usage()
	}
	return cfg, err
}

// start runs a role or an import until it is done or ctx ends. The deferred calls here and below
// stop things in the order that they need: the site and the worker, the servers that the tasks talk
// to, and the database last.
func start(ctx context.Context, cfg config, out, errOut io.Writer) (err error) {
	var people []subscriber
	if cfg.file != "" {
		if people, err = readPeople(cfg.file); err != nil {
			return fmt.Errorf("import %w", err)
		}
	}
	db, err := openDatabase(ctx, cfg.databaseURL, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.close()) }()
	if cfg.file != "" {
		return runImport(ctx, db, cfg, people, out, errOut)
	}
	return runRole(ctx, db, cfg, out)
}

// runRole runs the site, a worker or both, until ctx ends or one of them does.
func runRole(ctx context.Context, db *database, cfg config, out io.Writer) (err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	jobs := tasks.NewClient(db.client)
	var parts []func(context.Context) error
	if cfg.role != "worker" {
		listener, err := listen(cfg.listen)
		if err != nil {
			return err
		}
		site := newSite(db.pool, jobs, cfg.smtpAddr)
		site.metrics = db.metrics
		parts = append(parts, func(ctx context.Context) error { return site.serve(ctx, listener) })
		fmt.Fprintf(out, "page          http://%[1]s\nmetrics       http://%[1]s/metrics\n", listener.Addr())
	}
	if cfg.role != "web" {
		workshop, err := newWorkshop(db, cfg.smtpAddr, out)
		if err != nil {
			return err
		}
		defer workshop.close(out)
		if _, err := jobs.EnqueuePurgeOutbox(ctx); err != nil {
			return err
		}
		parts = append(parts, workshop.Run)
	}
	fmt.Fprint(out, hints[cfg.role])
	ended := make(chan error)
	for _, part := range parts {
		go func() { ended <- part(ctx) }()
	}
	for range parts {
		err = errors.Join(err, <-ended)
		stop()
	}
	return err
}

var hints = map[string]string{
	"all": `
Open the page, sign up, and watch: the welcome mail comes at once, three tips
follow in their order after 2 seconds. The partner's API fails twice, and the
page shows how that job is retried. Try in other terminals:
  go run ./example import people.csv   10,000 subscribers; who signs up on the
                                       page meanwhile does not wait behind them
  go run ./example -role worker        one more worker
Ctrl-C stops, and shows what was done.

`,
	"web": `
Jobs wait until there is a worker: go run ./example -role worker
Ctrl-C stops.

`,
	"worker": `
Jobs come from go run ./example -role web, and from import people.csv
Ctrl-C stops, and shows what was done.

`,
}
