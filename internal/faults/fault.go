//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A fault is one thing that goes wrong, and comes to its end.
type fault struct {
	name        string
	full, short time.Duration // how long it takes, in a long run and in a short one
	// doubles says why a job may be finished twice; "": it may not.
	doubles string
	// inject makes the fault and returns at its end. All that is left to chance comes from the
	// generator, in the order of the schedule, so that a seed says which process it meets.
	inject func(ctx context.Context, f *fleet, random *rand.Rand, d time.Duration) error
	// can reports whether a fleet can have it; nil: each can.
	can func(f *fleet) bool
}

const (
	killed  = "a handler that had ended was not recorded yet when its process was killed"
	expired = "a worker that was away for longer than its lease had handlers that ended, and could not record them"
)

// faults is the catalogue.
var faults = []fault{
	{"SIGKILL of a worker", 0, 0, killed, killWorker, nil},
	{"SIGSTOP of a worker, then SIGCONT", 60 * time.Second, 36 * time.Second, expired, freezeWorker, nil},
	{"SIGTERM of a worker", 0, 0, "", stopWorker, nil},
	{"SIGKILL of an enqueuer", 0, 0, "", killEnqueuer, nil},
	{"SIGKILL of the requeuer", 0, 0, "", killRequeuer, nil},
	{"SIGKILL of the canceller", 0, 0, "", killCanceller, nil},
	{"SIGKILL of the Node worker", 0, 0, "", killNode, (*fleet).hasNode},
	{"poison job", 0, 0, "", enqueuePoison, (*fleet).hasPoison},
	{"server restart, fast", 4 * time.Second, 2 * time.Second, "", restartServer(false), (*fleet).hasOneServer},
	{"server restart, immediate", 4 * time.Second, 2 * time.Second, "", restartServer(true), (*fleet).hasOneServer},
	{"backend termination", 10 * time.Second, 4 * time.Second, "", terminateSessions, nil},
	{"TCP cut, every process", 10 * time.Second, 4 * time.Second, "", cutLinks, nil},
	{"TCP blackhole, one worker", 45 * time.Second, 12 * time.Second, expired, blackholeWorker, nil},
	{"TCP blackhole, every process", 10 * time.Second, 5 * time.Second, "", blackholeAll, nil},
	{"TCP delay of 30 ms, every process", 10 * time.Second, 4 * time.Second, "", delayLinks, nil},
	{"pooler restart", 3 * time.Second, 2 * time.Second, "", restartPooler, (*fleet).hasPooler},
	{"Patroni leader kill", 0, 0, "", killLeader, (*fleet).hasCluster},
	{"held xmin", 20 * time.Second, 6 * time.Second, "", holdSnapshot, nil},
	{"pool exhaustion", 10 * time.Second, 4 * time.Second, "", exhaustConnections, nil},
}

func (f *fleet) hasNode() bool      { return f.node != nil }
func (f *fleet) hasPooler() bool    { return f.pooler != nil }
func (f *fleet) hasPoison() bool    { return len(f.poisons) > 0 }
func (f *fleet) hasCluster() bool   { return f.server.cluster != nil }
func (f *fleet) hasOneServer() bool { return f.server.cluster == nil }

func pick(random *rand.Rand, processes []*process) *process {
	return processes[random.IntN(len(processes))]
}

func killWorker(ctx context.Context, f *fleet, random *rand.Rand, _ time.Duration) error {
	return f.kill(ctx, pick(random, f.workers), syscall.SIGKILL)
}

// stopWorker is a deployment: the worker has to give everything back.
func stopWorker(ctx context.Context, f *fleet, random *rand.Rand, _ time.Duration) error {
	return f.kill(ctx, pick(random, f.workers), syscall.SIGTERM)
}

func killEnqueuer(ctx context.Context, f *fleet, random *rand.Rand, _ time.Duration) error {
	return f.kill(ctx, pick(random, f.enqueuers), syscall.SIGKILL)
}

func killRequeuer(ctx context.Context, f *fleet, _ *rand.Rand, _ time.Duration) error {
	return f.kill(ctx, f.requeuer, syscall.SIGKILL)
}

func killCanceller(ctx context.Context, f *fleet, _ *rand.Rand, _ time.Duration) error {
	return f.kill(ctx, f.canceller, syscall.SIGKILL)
}

func killNode(ctx context.Context, f *fleet, _ *rand.Rand, _ time.Duration) error {
	return f.kill(ctx, f.node, syscall.SIGKILL)
}

// kill ends a process with a signal, and waits for that. What a worker had locked is written down,
// and watched beside what follows.
func (f *fleet) kill(ctx context.Context, p *process, sig syscall.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	proc, err := p.awaitStart(ctx)
	if err != nil {
		return err
	}
	f.say("  %s is %v", p.spec.Name, sig)
	if err := p.signal(f, proc, sig); err != nil {
		return err
	}
	code, err := p.awaitEnd(ctx, proc)
	if err != nil {
		return err
	}
	if p.spec.Duty != dutyWorker {
		return nil
	}
	pools, err := p.pools(proc)
	if err != nil {
		return err
	}
	ids, tokens, err := f.held(ctx, pools)
	if err != nil {
		return err
	}
	f.log.write(record{Op: opHeld, Name: p.spec.Name, Count: len(ids), Ns: ids})
	f.say("  %s had %d jobs locked", p.spec.Name, len(ids))
	if sig == syscall.SIGTERM && (!stopped(code) || code == success && len(ids) > 0) {
		f.broken("%s was told to stop, ended with %s, and left %d jobs locked", p.spec.Name, code, len(ids))
	}
	watched := make(chan error, 1)
	go func() { watched <- f.watchHeld(context.WithoutCancel(ctx), p.spec.Name, ids, tokens) }()
	f.after = func(context.Context) error { return <-watched }
	return nil
}

func freezeWorker(ctx context.Context, f *fleet, random *rand.Rand, d time.Duration) error {
	p := pick(random, f.workers)
	proc, err := p.awaitStart(ctx)
	if err != nil {
		return err
	}
	f.say("  SIGSTOP to %s", p.spec.Name)
	if err := p.signal(f, proc, syscall.SIGSTOP); err != nil {
		return err
	}
	err = pause(ctx, d)
	return errors.Join(err, p.signal(f, proc, syscall.SIGCONT))
}

func restartServer(immediate bool) func(context.Context, *fleet, *rand.Rand, time.Duration) error {
	return func(ctx context.Context, f *fleet, _ *rand.Rand, d time.Duration) error {
		return f.server.restart(ctx, immediate, d)
	}
}

// repeat does something every half second.
func repeat(ctx context.Context, d time.Duration, do func() error) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		if err := do(); err != nil {
			return err
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func terminateSessions(ctx context.Context, f *fleet, _ *rand.Rand, d time.Duration) error {
	return repeat(ctx, d, func() error { return f.server.terminate(ctx) })
}

func cutLinks(ctx context.Context, f *fleet, _ *rand.Rand, d time.Duration) error {
	return repeat(ctx, d, func() error {
		for _, l := range f.links() {
			l.cut()
		}
		return nil
	})
}

func blackholeWorker(ctx context.Context, f *fleet, random *rand.Rand, d time.Duration) error {
	return f.blackhole(ctx, d, pick(random, f.workers))
}

func blackholeAll(ctx context.Context, f *fleet, _ *rand.Rand, d time.Duration) error {
	return f.blackhole(ctx, d, f.all()...)
}

func (f *fleet) blackhole(ctx context.Context, d time.Duration, processes ...*process) error {
	for _, p := range processes {
		f.say("  nothing passes from or to %s", p.spec.Name)
		for _, l := range p.links {
			defer l.swallow()()
		}
	}
	return pause(ctx, d)
}

func delayLinks(ctx context.Context, f *fleet, _ *rand.Rand, d time.Duration) error {
	for _, l := range f.links() {
		l.slow(30 * time.Millisecond)
		defer l.slow(0)
	}
	return pause(ctx, d)
}

func restartPooler(ctx context.Context, f *fleet, _ *rand.Rand, d time.Duration) error {
	f.pooler.kill(d)
	if err := pause(ctx, d); err != nil {
		return err
	}
	return f.pooler.answers(ctx)
}

// killLeader kills the leader as a machine dies, and starts it again once another one leads and all
// processes work.
func killLeader(ctx context.Context, f *fleet, _ *rand.Rand, _ time.Duration) error {
	leader, err := f.server.cluster.killLeader()
	if err != nil {
		return err
	}
	f.say("  SIGKILL to all processes of %s", leader.name)
	f.after = func(ctx context.Context) error { return f.server.cluster.rejoin(ctx, leader) }
	return nil
}

// holdSnapshot keeps vacuum from removing what is deleted meanwhile.
func holdSnapshot(ctx context.Context, f *fleet, _ *rand.Rand, d time.Duration) error {
	config, err := pgx.ParseConfig(f.server.superuser())
	if err != nil {
		return err
	}
	config.Database = database
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("hold a snapshot: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return fmt.Errorf("hold a snapshot: %w", err)
	}
	if _, err := tx.Exec(ctx, "select count(*) from graphile_worker._private_jobs"); err != nil {
		return fmt.Errorf("hold a snapshot: %w", err)
	}
	if err := pause(ctx, d); err != nil {
		return err
	}
	return tx.Rollback(ctx)
}

// exhaustConnections takes all connections that the fleet's role can have: first those that are
// free, then, as the fleet's are ended, those too.
func exhaustConnections(ctx context.Context, f *fleet, _ *rand.Rand, d time.Duration) error {
	var taken []*pgx.Conn
	defer func() {
		for _, conn := range taken {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	fill := func() error {
		for {
			conn, err := pgx.Connect(ctx, urlAt(f.server.address(), database)+"&application_name=exhaustion")
			if refused := (*pgconn.PgError)(nil); errors.As(err, &refused) && refused.Code == "53300" {
				return nil
			}
			if err != nil {
				return fmt.Errorf("take all connections: %w", err)
			}
			taken = append(taken, conn)
		}
	}
	err := repeat(ctx, d, func() error {
		if err := fill(); err != nil {
			return err
		}
		return f.server.execute(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where usename = '"+role+"' and application_name <> 'exhaustion'")
	})
	f.say("  %d connections were taken", len(taken))
	return err
}
