package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// With -against the benchmark measures itself beside that of another revision. Both are driven from
// outside, by flags that all revisions know, each run in a process and a database of its own, in
// turns on one server. So whatever changes on the machine meets both.

// contestant is a benchmark that is driven.
type contestant struct {
	name    string
	program string
	flags   []string // that say how much to measure
	env     []string
	folder  string // for what it writes
}

// errLacks says that a revision does not know a shape.
var errLacks = errors.New("unknown shape")

// compareWith measures this tree and the revision opts.against in turns, and prints the ratios.
func compareWith(ctx context.Context, opts options, out io.Writer) (err error) {
	folder, err := os.MkdirTemp("", "backfill-against-")
	if err != nil {
		return fmt.Errorf("make a folder for the other revision: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	commit, program, err := buildRevision(ctx, opts.against, folder)
	if err != nil {
		return err
	}
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program, to run it again: %w", err)
	}
	server, err := startServer(ctx, opts, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	l, err := newLab(ctx, opts, server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()

	// Without programs, and with an empty cache, Graphile Worker takes no part and takes no time.
	env := append(os.Environ(), "DATABASE_URL="+server.pg.URL, "PATH=", "XDG_CACHE_HOME="+folder)
	theirs := contestant{opts.against, program, opts.amounts, env, folder}
	ours := contestant{"this tree", executable, opts.amounts, env, folder}
	c := &comparison{Facts: l.facts(ctx), Revision: opts.against, Commit: commit, Pairs: opts.pairs}
	c.Facts.Runs = opts.pairs
	for _, group := range opts.shapes {
		// What was measured before a failure took hours, perhaps.
		if err = c.measure(ctx, group, theirs, ours); err != nil {
			break
		}
	}
	c.Facts.LoadAfter = loadAverage()
	c.print(out)
	if opts.json != "" {
		err = errors.Join(err, writeJSON(opts.json, c))
	}
	return err
}

// measure runs all pairs of a group of shapes.
func (c *comparison) measure(ctx context.Context, group string, theirs, ours contestant) error {
	pairs := newPairs()
	for i := range c.Pairs {
		order := []contestant{theirs, ours}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, side := range order {
			started := time.Now()
			shapes, err := side.run(ctx, group)
			if errors.Is(err, errLacks) {
				c.Skipped = append(c.Skipped, fmt.Sprintf("%s lacks the shape %s", side.name, group))
				return nil
			}
			if err != nil {
				return fmt.Errorf("%s: pair %d of %d: %s: %w", group, i+1, c.Pairs, side.name, err)
			}
			fmt.Fprintf(os.Stderr, "%s: %d/%d %s: %.1f s\n", group, i+1, c.Pairs, side.name, time.Since(started).Seconds())
			pairs.add(side.name == ours.name, shapes)
		}
	}
	c.add(pairs, ours.name)
	return nil
}

// run makes one run of a group of shapes, and returns what backfill's samples were.
func (c contestant) run(ctx context.Context, group string) ([]measurement, error) {
	path := filepath.Join(c.folder, "run.json")
	cmd := exec.CommandContext(ctx, c.program, append([]string{"-shapes", group, "-runs", "1", "-json", path}, c.flags...)...)
	cmd.Env = c.env
	var said bytes.Buffer
	cmd.Stderr = &said
	// It drops its database before it ends.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(said.String())
		if strings.Contains(text, fmt.Sprintf("%v %q", errLacks, group)) {
			return nil, errLacks
		}
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	content, err := os.ReadFile(path)
	var r struct {
		Shapes []struct {
			Title   string
			Samples map[string]runs
		}
	}
	if err == nil {
		err = json.Unmarshal(content, &r)
	}
	if err = errors.Join(err, os.Remove(path)); err != nil {
		return nil, fmt.Errorf("read what was measured: %w", err)
	}
	var measured []measurement
	for _, shape := range r.Shapes {
		for _, s := range shape.Samples[oursName] {
			measured = append(measured, measurement{shape.Title, s})
		}
	}
	return measured, nil
}
