package backfill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/backfillhq/go/internal/pg"
)

// Run runs the jobs of a registry until ctx ends. It opens a client for DATABASE_URL, or for the
// PG* variables if PGHOST, PGSERVICE or PGDATABASE is set, makes a worker, and runs it. It handles
// no signals, so pass a ctx of signal.NotifyContext. See [Worker.Run].
func Run(ctx context.Context, r *Registry, opts ...RunOption) error {
	return withWorker(ctx, r, opts, func(w *Worker) error { return w.Run(ctx) })
}

// RunOnce is like [Run], but returns when no job is due. See [Worker.RunOnce].
func RunOnce(ctx context.Context, r *Registry, opts ...RunOption) (*Report, error) {
	report := &Report{}
	err := withWorker(ctx, r, opts, func(w *Worker) (err error) {
		report, err = w.RunOnce(ctx)
		return err
	})
	return report, err
}

func withWorker(ctx context.Context, r *Registry, opts []RunOption, run func(*Worker) error) error {
	if ctx == nil {
		return fmt.Errorf("run: %w", errNoContext)
	}
	config := newRunConfig(opts)
	if err := joinProblems("run", config.check(r)); err != nil {
		return err
	}
	client := config.client
	if client == nil {
		opened, err := Open(ctx, os.Getenv("DATABASE_URL"), config.forOpen...)
		if err != nil {
			return err
		}
		defer opened.Close()
		client = opened
	}
	worker, err := client.NewWorker(r, config.forWork...)
	if err != nil {
		return err
	}
	return run(worker)
}

// check reports everything that can be wrong before there is a connection.
func (c runConfig) check(r *Registry) []error {
	found := newWorkerConfig(c.forWork).config
	if c.existing {
		forOpen := func(option ClientOption) bool { _, both := option.(loggerOption); return !both }
		found.require(c.client != nil, "WithClient: the client is nil: pass what Open or NewClient returns")
		found.require(!slices.ContainsFunc(c.forOpen, forOpen),
			"WithClient: options for a new client do not apply to one that exists: give them to Open or NewClient")
		return append(found.problems, r.problems())
	}
	for _, problem := range newClientConfig(c.forOpen).problems {
		if !slices.Contains(found.problems, problem) { // that of an Option, which is the worker's too
			found.problems = append(found.problems, problem)
		}
	}
	found.require(os.Getenv("DATABASE_URL") != "" || pg.EnvironmentConfigured(),
		"no database is configured: "+howToConfigure+", or pass WithClient")
	return append(found.problems, r.problems())
}

const howToConfigure = "set DATABASE_URL=postgres://user:password@host:5432/database, or PGHOST and its like"

// joinProblems makes one error of those that are not nil: in one line if it is one, each on its own
// behind the operation if not.
func joinProblems(operation string, problems []error) error {
	err := errors.Join(problems...)
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "\n"):
		return fmt.Errorf("%s:\n%w", operation, err)
	default:
		return fmt.Errorf("%s: %w", operation, err)
	}
}
