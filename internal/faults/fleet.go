//go:build unix

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/interop/npm"
)

//go:embed node.mjs
var nodeScript string

// How the processes of the fleet get to the server: each is the name of a database of the pooler's,
// or leads past it.
var (
	workerRoutes   = []string{straight, straight, sessionDatabase, transactionDatabase}
	enqueuerRoutes = []string{straight, transactionDatabase}
)

const straight = ""

// fleet is all that runs: a server, perhaps a pooler before it, and processes that work and
// enqueue.
type fleet struct {
	folder string
	log    *journal
	say    func(format string, a ...any)
	server *server
	pooler *pooler // nil: none

	workers    []*process
	enqueuers  []*process
	requeuer   *process
	canceller  *process
	node       *process // nil: none
	procs      atomic.Int64
	withPoison bool
	poisons    []way   // that are still to be enqueued
	offers     *offers // of the harness's own, which are poisons; nil: none yet
	// after waits for what follows from a fault beside the recovery of the processes; nil: nothing
	// does.
	after func(context.Context) error
}

// startFleet starts everything, and waits for nothing but the server.
func startFleet(ctx context.Context, o options, folder string, log *journal) (*fleet, error) {
	f := &fleet{folder: folder, log: log, say: o.say, withPoison: o.poison, poisons: newPoisons(o)}
	var err error
	if f.server, err = startServer(ctx, o, folder); err != nil {
		return nil, err
	}
	if err := f.startAll(ctx, o); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *fleet) startAll(ctx context.Context, o options) (err error) {
	f.pooler, err = startPooler(ctx, f.folder, f.server, f.poolerEnded)
	switch {
	case errors.Is(err, errNoPooler):
		f.say("PgBouncer is not installed: no process is behind a pooler")
	case err != nil:
		return err
	default:
		f.server.serve(f.pooler.upstream)
	}
	client, err := backfill.Open(ctx, urlAt(f.server.address(), database)) // one process installs the tables before the fleet needs them
	if err != nil {
		return err
	}
	client.Close()
	if err := f.createEffects(ctx); err != nil {
		return err
	}
	for i, route := range workerRoutes {
		p, err := f.newProcess(ctx, o, dutyWorker, i+1, route)
		if err != nil {
			return err
		}
		p.apart = i > 0 // whoever looks from the first one's machine sees that it has ended
		f.workers = append(f.workers, p)
	}
	for i, route := range enqueuerRoutes {
		p, err := f.newProcess(ctx, o, dutyEnqueue, i+1, route)
		if err != nil {
			return err
		}
		f.enqueuers = append(f.enqueuers, p)
	}
	if f.requeuer, err = f.newProcess(ctx, o, dutyRequeue, 1, transactionDatabase); err != nil {
		return err
	}
	if f.canceller, err = f.newProcess(ctx, o, dutyCancel, 1, transactionDatabase); err != nil {
		return err
	}
	if err := f.addNode(ctx, o); err != nil {
		return err
	}
	for _, p := range f.all() {
		go f.supervise(ctx, p)
	}
	return nil
}

// addNode adds the Node worker where npm can install it.
func (f *fleet) addNode(ctx context.Context, o options) error {
	install, err := npm.Installed(ctx)
	if o.needNode {
		install, err = npm.Install(ctx)
	}
	if err != nil {
		if o.needNode {
			return err
		}
		f.say("no Node worker takes part: %v", err)
		return nil
	}
	f.node, err = f.newProcess(ctx, o, dutyNode, 1, straight)
	if err != nil {
		return err
	}
	f.node.command = func(context.Context) *exec.Cmd { return install.Command(context.WithoutCancel(ctx), nodeScript) }
	f.node.gone = f.nodeGone
	return nil
}

// newProcess makes a process that gets to the server by a route.
func (f *fleet) newProcess(ctx context.Context, o options, d duty, i int, route string) (*process, error) {
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	name := fmt.Sprintf("%s-%d", d, i)
	p := &process{
		spec: childSpec{
			Duty: d, Name: name, Journal: filepath.Join(f.folder, name+".journal"), Seed: o.seed,
			Rate: o.rate / float64(len(enqueuerRoutes)), LongFor: o.length(8*time.Second, 25*time.Second), LongEvery: o.length(12*time.Second, 30*time.Second), Crontab: crontab,
		},
		changed: make(chan struct{}), stopped: make(chan struct{}),
		command: func(context.Context) *exec.Cmd { return exec.Command(executable) },
	}
	if f.pooler == nil {
		route = straight
	}
	return p, f.connect(ctx, p, route)
}

// connect gives a process links of its own. A worker that shares sessions has a second one, which
// leads past the pooler, to listen.
func (f *fleet) connect(ctx context.Context, p *process, route string) error {
	if route != straight {
		l, err := newLink(ctx, f.pooler.address)
		if err != nil {
			return err
		}
		p.links = append(p.links, l)
		p.spec.URL = urlAt(l.address, route)
	}
	if route == transactionDatabase {
		p.spec.URL += "&default_query_exec_mode=exec"
	}
	if route == sessionDatabase || route == transactionDatabase && p.spec.Duty != dutyWorker {
		return nil
	}
	l, err := newLink(ctx, f.server.address())
	if err != nil {
		return err
	}
	f.server.serve(l)
	p.links = append(p.links, l)
	if route == straight {
		p.spec.URL = urlAt(l.address, database)
	} else {
		p.spec.ListenURL = urlAt(l.address, database)
	}
	return nil
}

// all are the processes in the order of their names.
func (f *fleet) all() []*process {
	all := append(append([]*process{}, f.enqueuers...), f.workers...)
	if f.requeuer != nil {
		all = append(all, f.requeuer)
	}
	if f.canceller != nil {
		all = append(all, f.canceller)
	}
	if f.node != nil {
		all = append(all, f.node)
	}
	return all
}

func (f *fleet) links() (links []*link) {
	for _, p := range f.all() {
		links = append(links, p.links...)
	}
	return links
}

// broken writes down that a promise of the fleet itself was broken.
func (f *fleet) broken(format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	f.say("BROKEN: %s", text)
	f.log.write(record{Op: opBroken, Text: text})
}

// nodeGone does for a dead Node worker what its operators have to do: nobody else releases what it
// had locked. A statement of its last breath may still lock something, so it is done for all pools
// that have gone, each time.
func (f *fleet) nodeGone(ctx context.Context, p *process) {
	pools, err := p.pools(0)
	if err != nil {
		f.broken("%v", err)
		return
	}
	for ctx.Err() == nil {
		held, err := f.unlockPools(ctx, pools)
		if err == nil {
			f.log.write(record{Op: opHeld, Name: p.spec.Name, Count: len(held), Ns: held})
			return
		}
		_ = pause(ctx, 500*time.Millisecond) // the server may be away: that is a fault
	}
}

func (f *fleet) unlockPools(ctx context.Context, pools []string) (held []int64, err error) {
	err = f.server.with(ctx, database, func(ctx context.Context, conn *pgx.Conn) error {
		if err := conn.QueryRow(ctx, "select coalesce(array_agg(id), '{}') from graphile_worker._private_jobs where locked_by = any($1)", pools).Scan(&held); err != nil {
			return fmt.Errorf("look what Node held: %w", err)
		}
		if _, err := conn.Exec(ctx, "select graphile_worker.force_unlock_workers($1)", pools); err != nil {
			return fmt.Errorf("unlock what Node held: %w", err)
		}
		return nil
	})
	return held, err
}

// restartNode ends a Node worker that lives and does nothing, or holds jobs that it does not know
// of, as a liveness probe would.
func (f *fleet) restartNode(why string) error {
	f.say("  node-1 %s, and is killed", why)
	f.log.write(record{Op: opHung, Name: f.node.spec.Name, Text: why})
	return f.node.signal(f, f.node.running(), syscall.SIGKILL)
}

// poolerEnded writes down that PgBouncer ended by itself, as 1.18 did after a blackhole, with "bad
// client state" in its log, or hung, as it did after another one: one more fault, and no promise of
// ours.
func (f *fleet) poolerEnded(state string) {
	f.say("  PgBouncer ended by itself: %s", state)
	f.log.write(record{Op: opDied, N: noProcess, Name: "pgbouncer", Text: state})
}

// close ends all processes, whatever they do, and the server.
func (f *fleet) close() error {
	for _, p := range f.all() {
		p.mu.Lock()
		p.stopping = true
		if p.cmd != nil {
			p.cmd.Process.Kill()
		}
		p.mu.Unlock()
	}
	for _, l := range f.links() {
		l.close()
	}
	if f.pooler != nil {
		f.pooler.stop()
	}
	return f.server.stop()
}
