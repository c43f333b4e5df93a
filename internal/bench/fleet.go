package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/backfillhq/go/backfill"
)

const (
	fleetWorkers = 4
	// fleetTimeout is how long nothing may happen before the fleet is called stuck.
	fleetTimeout = time.Minute
)

// fleet is the check that jobs are run once: worker processes write down each job that they run, half of the jobs are there
// before they start and half come while they run, and what they wrote down has to be every job, once.
func (l *lab) fleet(ctx context.Context, out io.Writer) (err error) {
	jobs := l.opts.jobs
	if err := l.tables().reset(ctx, 0); err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "backfill-fleet-")
	if err != nil {
		return fmt.Errorf("make a folder for the lists of jobs: %w", err)
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(folder)
		} else {
			fmt.Fprintln(out, "FAIL")
			err = fmt.Errorf("%w (the workers' lists of jobs are in %s)", err, folder)
		}
	}()
	client, err := backfill.Open(ctx, l.url)
	if err != nil {
		return err
	}
	defer client.Close()

	started := time.Now()
	if err := enqueueRange(ctx, client, 0, jobs/2, bulkBatch); err != nil {
		return err
	}
	workers, err := l.startFleet(ctx, folder)
	if err != nil {
		return err
	}
	err = errors.Join(enqueueMixed(ctx, client, jobs/2, jobs), l.drained(ctx))
	lists, stopErr := stopFleet(workers, folder)
	if err := errors.Join(err, stopErr); err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	if err := compareLists(out, lists, jobs); err != nil {
		return err
	}
	fmt.Fprintf(out, "PASS: %d worker processes ran %s jobs in %.1f s, none lost, none twice.\n",
		fleetWorkers, thousands(float64(jobs)), time.Since(started).Seconds())
	return nil
}

func (l *lab) startFleet(ctx context.Context, folder string) ([]*child, error) {
	workers := make([]*child, fleetWorkers)
	for i := range workers {
		var err error
		if workers[i], err = l.spawn(ctx, childSpec{Role: roleServe, Jobs: l.opts.jobs, Log: listOf(folder, i)}); err != nil {
			return nil, err
		}
	}
	for _, worker := range workers {
		if err := worker.begin(); err != nil {
			return nil, err
		}
	}
	return workers, nil
}

func listOf(folder string, worker int) string {
	return filepath.Join(folder, fmt.Sprintf("worker-%d", worker+1))
}

// enqueueMixed enqueues jobs in the ways that there are: some callers in bulk, others one by one.
func enqueueMixed(ctx context.Context, client *backfill.Client, first, end int) error {
	const callers = 8
	share := (end - first + callers - 1) / callers
	return calls(callers, func(caller int) error {
		from := min(first+caller*share, end)
		to := min(from+share, end)
		single := from + (to-from)/10
		return errors.Join(enqueueRange(ctx, client, from, single, 1), enqueueRange(ctx, client, single, to, 100))
	})
}

func enqueueRange(ctx context.Context, client *backfill.Client, from, to, batch int) error {
	for from < to {
		args := make([]Args, min(batch, to-from))
		for i := range args {
			args[i].N = from + i
		}
		if _, err := backfill.EnqueueMany(ctx, client, task, args); err != nil {
			return err
		}
		from += len(args)
	}
	return nil
}

// drained waits until no job is left, as long as there are fewer and fewer.
func (l *lab) drained(ctx context.Context) error {
	least, since := -1, time.Now()
	for {
		jobs, err := l.tables().waiting(ctx)
		if err != nil || jobs == 0 {
			return err
		}
		if least < 0 || jobs < least {
			least, since = jobs, time.Now()
		}
		if time.Since(since) > fleetTimeout {
			return fmt.Errorf("WRONG: %d jobs are left, and nothing has happened for %v", jobs, fleetTimeout)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// stopFleet stops all workers and reads what they wrote down.
func stopFleet(workers []*child, folder string) (lists [][]int, err error) {
	for _, worker := range workers {
		err = errors.Join(err, worker.stop())
	}
	for i, worker := range workers {
		r, reportErr := worker.report()
		list, readErr := readList(listOf(folder, i))
		err = errors.Join(err, reportErr, readErr)
		if err == nil && r.Ran != len(list) {
			err = fmt.Errorf("WRONG: worker %d ran %d jobs and wrote down %d", i+1, r.Ran, len(list))
		}
		lists = append(lists, list)
	}
	return lists, err
}

func readList(path string) (list []int, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read a list of jobs: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("read a list of jobs: %w", err)
		}
		list = append(list, n)
	}
	return list, lines.Err()
}

// compareLists prints what each worker ran, and what is wrong with it.
func compareLists(out io.Writer, lists [][]int, jobs int) error {
	times := make([]int, jobs)
	for worker, list := range lists {
		fmt.Fprintf(out, "worker %d ran %s jobs\n", worker+1, thousands(float64(len(list))))
		for _, n := range list {
			times[n]++ // a worker refuses numbers that are out of range
		}
	}
	lost, twice := 0, 0
	for _, n := range times {
		switch {
		case n == 0:
			lost++
		case n > 1:
			twice++
		}
	}
	if lost+twice > 0 {
		return fmt.Errorf("WRONG: of %d jobs %d were lost, and %d ran more than once", jobs, lost, twice)
	}
	return nil
}
