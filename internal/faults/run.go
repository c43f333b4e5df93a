//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"

	"github.com/jackc/pgx/v5"
)

// A run has a part on one server, and if that was asked for one on a cluster. Each has a folder of
// this name in the run's.
const (
	onServer  = "server"
	onCluster = "patroni"
)

// try runs the schedules, audits them and reports.
func try(ctx context.Context, o options, out io.Writer) error {
	if o.patroni > 0 {
		if err := clusterPossible(); err != nil {
			return err
		}
	}
	folder, err := newFolder(o.folder)
	if err != nil {
		return err
	}
	o.say("seed %d, in %s", o.seed, folder)
	err = perform(ctx, o, filepath.Join(folder, onServer))
	if err == nil && o.patroni > 0 {
		o.duration, o.cluster, o.only = o.patroni, true, regexp.MustCompile("^Patroni") // nothing else is new there
		err = perform(ctx, o, filepath.Join(folder, onCluster))
	}
	if err == nil {
		err = report(folder, out, o.out)
	}
	if err != nil {
		return fmt.Errorf("%w (seed %d; logs and journals are in %s)", err, o.seed, folder)
	}
	if o.folder != "" {
		return nil
	}
	return os.RemoveAll(folder)
}

func judge(folder string) (*verdict, error) {
	t, err := load(folder)
	if err != nil {
		return nil, err
	}
	return audit(t), nil
}

// newFolder makes the folder of a run. PostgreSQL's account and the pooler's have to get there.
func newFolder(folder string) (string, error) {
	var err error
	if folder != "" {
		err = os.Mkdir(folder, 0o755)
	} else {
		base := "/var/tmp" // on a disk: the folder for temporary files is often in memory
		if info, statErr := os.Stat(base); statErr != nil || !info.IsDir() {
			base = os.TempDir()
		}
		folder, err = os.MkdirTemp(base, folderPrefix)
	}
	if err == nil {
		folder, err = filepath.Abs(folder)
	}
	if err == nil {
		err = os.Chmod(folder, 0o755) //nolint:gosec // see above
	}
	if err != nil {
		return "", fmt.Errorf("make a folder: %w", err)
	}
	return folder, nil
}

// perform runs the fleet with its faults, until everything that was enqueued has run.
func perform(ctx context.Context, o options, folder string) (err error) {
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	log, err := openJournal(filepath.Join(folder, ownJournal), 0)
	if err != nil {
		return err
	}
	f, err := startFleet(ctx, o, folder, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	facts, err := f.facts(ctx)
	if err != nil {
		return err
	}
	run := record{Op: opRun, N: int64(o.seed), Count: int(o.rate), Due: o.duration.Microseconds(), Text: facts} //nolint:gosec // a seed may look negative
	if o.poison {
		run.Kind = kindPoison
	}
	log.write(run)
	if err := f.schedule(ctx, o); err != nil {
		return err
	}
	o.say("no more is enqueued; the workers run what is there")
	log.write(record{Op: opDrain})
	for _, p := range append(f.enqueuers, f.requeuer, f.canceller) {
		f.wantCleanStop(p)
	}
	if err := errors.Join(f.drain(ctx), f.pendingCancels(ctx)); err != nil {
		return err
	}
	for _, p := range f.workers {
		f.wantCleanStop(p)
	}
	if f.node != nil {
		f.node.stop()
		f.nodeGone(ctx, f.node)
	}
	if err := f.leftovers(ctx); err != nil {
		return err
	}
	return f.effects(ctx)
}

func (f *fleet) wantCleanStop(p *process) {
	if code := p.stop(); !stopped(code) {
		f.broken("%s was told to stop at the end, and: %s", p.spec.Name, code)
	}
}

// facts say what it was that ran.
func (f *fleet) facts(ctx context.Context) (facts string, err error) {
	err = f.server.with(ctx, "postgres", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "select 'PostgreSQL ' || split_part(current_setting('server_version'), ' ', 1)").Scan(&facts)
	})
	if err != nil {
		return "", fmt.Errorf("ask for the server's version: %w", err)
	}
	if f.server.cluster != nil {
		facts += " with Patroni, of three servers with synchronous replication"
	}
	if f.pooler == nil {
		facts += ", without a pooler"
	}
	if f.node == nil {
		facts += ", without Node"
	}
	return fmt.Sprintf("%s, %s, %d cores", facts, runtime.Version(), runtime.NumCPU()), nil
}
