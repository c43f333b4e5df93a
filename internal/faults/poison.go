//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/backfillhq/go/backfill"
)

// A poison is a job that ends the process of the worker that runs it, each time. No handler can be
// guarded against that, so the fleet has to find out which job it is and run it no more, although
// the dead workers held innocent ones, too.

// way is how a poison ends its process.
type way string

const (
	wayExit   way = "exit"       // os.Exit
	waySignal way = "signal"     // SIGKILL
	wayMap    way = "map writes" // Go's runtime finds two goroutines that write to a map
	wayMemory way = "memory"     // Go's runtime gets no more
)

var ways = []way{wayExit, waySignal, wayMap, wayMemory}

// A task for each way: a task that has three jobs convicted in an hour is paused, so a run has at
// most poisonsEach of each.
var taskPoisons = map[way]*backfill.Task[args]{
	wayExit:   {Name: "poison-exit"},
	waySignal: {Name: "poison-signal"},
	wayMap:    {Name: "poison-map"},
	wayMemory: {Name: "poison-memory"},
}

const poisonsEach = 2

// newPoisons are those that a run may enqueue.
func newPoisons(o options) []way {
	if !o.poison {
		return nil
	}
	return slices.Repeat(ways, poisonsEach)
}

// enqueuePoison enqueues one of the poisons that are left. It kills at once, or after some seconds.
func enqueuePoison(ctx context.Context, f *fleet, random *rand.Rand, _ time.Duration) error {
	i := random.IntN(len(f.poisons))
	w := f.poisons[i]
	f.poisons = slices.Delete(f.poisons, i, i+1)
	delay := 0
	if random.IntN(2) == 0 {
		delay = random.IntN(3000)
	}
	f.say("  by %s, %d ms after its start", w, delay)
	if f.offers == nil {
		log, err := openJournal(filepath.Join(f.folder, "poison.journal"), 0)
		if err != nil {
			return err
		}
		f.offers = newOffers(childSpec{}, log)
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	client, err := backfill.Open(ctx, urlAt(f.server.address(), database))
	if err != nil {
		return err
	}
	defer client.Close()
	return f.offers.make(ctx, record{Kind: kindPoison, Text: string(w)}, 1, func(ctx context.Context, n int64) error {
		_, err := backfill.Enqueue(ctx, client, taskPoisons[w], args{N: n, Kind: kindPoison, Way: w, Work: delay})
		return err
	})
}

// poison writes down that it ends the process, and does it.
func (h *handlers) poison(ctx context.Context, a args) error {
	return h.run(ctx, record{N: a.N, Kind: a.Kind}, func(ctx context.Context) error {
		if err := work(ctx, a.Work); err != nil {
			return err
		}
		h.log.write(record{Op: opDying, N: a.N, Text: string(a.Way)})
		a.Way.end()
		return errors.New("a poison did not end its process")
	})
}

// end ends this process.
func (w way) end() {
	switch w {
	case wayExit:
		os.Exit(1)
	case waySignal:
		killSelf()
	case wayMap:
		writeSideBySide()
	case wayMemory:
		exhaustMemory()
	}
}

// dieWithin is how long a process may live that kills itself.
const dieWithin = 10 * time.Second

// killSelf has the kernel send SIGKILL: a limit of CPU time that is used up does it also where the
// process is the first of its PID namespace, which ignores its own SIGKILL.
func killSelf() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	_ = syscall.Setrlimit(syscall.RLIMIT_CPU, &syscall.Rlimit{Cur: 1, Max: 1})
	for end := time.Now().Add(dieWithin); time.Now().Before(end); {
		continue // uses CPU time
	}
}

func writeSideBySide() {
	shared := map[int]int{}
	for range 4 {
		go func() {
			for i := 0; ; i++ {
				shared[i%100] = i
			}
		}()
	}
	time.Sleep(dieWithin)
}

// exhaustMemory asks for more than the process may have. Nothing of it is used, so that others of
// the machine keep theirs.
func exhaustMemory() {
	_ = syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: 1 << 20, Max: 1 << 20})
	var all [][]byte
	for range 64 {
		all = append(all, make([]byte, 1<<30))
	}
	fmt.Fprintln(os.Stderr, "faults: got", len(all), "GB")
}

// lastWord is how a process has ended, by what it wrote in its life; if that does not say it, by
// its exit code.
func (p *process) lastWord(code string, proc int, begun int64) (string, error) {
	dying := false
	end, err := readJournal(p.spec.Journal, begun, func(r record) {
		dying = dying || r.Op == opDying && r.Proc == proc
	})
	switch {
	case dying:
		return poisoned, err
	case end == begun:
		return notStarted, err
	}
	return code, err
}

// poisoned writes down how many jobs a worker held that a poison has killed. While the server is
// away, nobody can release them.
func (f *fleet) poisoned(ctx context.Context, p *process, proc int) {
	pools, err := p.pools(proc)
	if err != nil {
		f.broken("%v", err)
		return
	}
	for ctx.Err() == nil {
		ids, _, err := f.held(ctx, pools)
		if err == nil {
			f.say("  a poison has killed %s, which held %d jobs", p.spec.Name, len(ids))
			f.log.write(record{Op: opPoisoned, N: int64(proc), Name: p.spec.Name, Count: len(ids)})
			return
		}
		_ = pause(ctx, 500*time.Millisecond) // the server may be away: that is a fault
	}
}
