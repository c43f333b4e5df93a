//go:build unix

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	warmUp = 5 * time.Second
	// recoverWithin is how long a process may take to work again after a fault.
	recoverWithin = 60 * time.Second
	// nodeWithin is how long Node may take before its process is killed and started again.
	nodeWithin = 30 * time.Second
	// poolerWithin is how long all may take until the pooler is asked whether it lives, and how long
	// that may take.
	poolerWithin = 5 * time.Second
	// releaseWithin is how long the others may take to release what a killed worker held.
	releaseWithin = 45 * time.Second
)

// schedule injects one fault after the other until the time is over: all of them in an order that
// the seed says, then again in another. Between two of them everything works for some seconds.
func (f *fleet) schedule(ctx context.Context, o options) error {
	random := newRandom(o.seed)
	end := time.Now().Add(o.duration)
	if err := pause(ctx, warmUp); err != nil {
		return err
	}
	if err := f.recovery(ctx, "start", now(), nil); err != nil {
		return err
	}
	var deck []fault
	for {
		fits := func(it fault) bool { return time.Until(end) > o.length(it.short, it.full)+warmUp }
		i := slices.IndexFunc(deck, fits)
		if i < 0 {
			deck = dealt(f.chosen(o), random)
			if i = slices.IndexFunc(deck, fits); i < 0 {
				break
			}
		}
		it := deck[i]
		deck = slices.Delete(deck, i, i+1)
		if err := f.meet(ctx, it, random, o.length(it.short, it.full)); err != nil {
			return err
		}
		if err := pause(ctx, 500*time.Millisecond+time.Duration(random.IntN(1000))*time.Millisecond); err != nil {
			return err
		}
	}
	return pause(ctx, time.Until(end))
}

func newRandom(seed uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a schedule that can be repeated is wanted
}

// dealt are faults in an order left to chance.
func dealt(faults []fault, random *rand.Rand) []fault {
	deck := slices.Clone(faults)
	random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	return deck
}

// chosen are the faults of this run.
func (f *fleet) chosen(o options) []fault {
	var chosen []fault
	for _, it := range faults {
		if (it.can == nil || it.can(f)) && (o.only == nil || o.only.MatchString(it.name)) {
			chosen = append(chosen, it)
		}
	}
	return chosen
}

// meet injects a fault and waits until all processes work again.
func (f *fleet) meet(ctx context.Context, it fault, random *rand.Rand, d time.Duration) error {
	f.say("%s, %v", it.name, d)
	f.log.write(record{Op: opBegin, Name: it.name})
	offsets, err := f.offsets()
	if err != nil {
		return err
	}
	if err := it.inject(ctx, f, random, d); err != nil {
		return fmt.Errorf("%s: %w", it.name, err)
	}
	ended := now()
	f.log.write(record{Op: opEnd, At: ended, Name: it.name})
	if err := f.recovery(ctx, it.name, ended, offsets); err != nil || f.after == nil {
		return err
	}
	after := f.after
	f.after = nil
	return after(ctx)
}

// offsets are the lengths of the journals.
func (f *fleet) offsets() (map[*process]int64, error) {
	offsets := map[*process]int64{}
	for _, p := range f.all() {
		end, err := p.journalEnd()
		if err != nil {
			return nil, err
		}
		offsets[p] = end
	}
	return offsets, nil
}

// recovery waits until each process has done, after a time, what it is there for: enqueued a job,
// begun to run one, looked for dead letters to requeue, or cancelled a job.
func (f *fleet) recovery(ctx context.Context, name string, since int64, offsets map[*process]int64) error {
	if offsets == nil {
		offsets = map[*process]int64{}
	}
	waiting := f.all()
	begun := time.Now()
	restarted, asked := false, f.pooler == nil
	for len(waiting) > 0 {
		var still []*process
		for _, p := range waiting {
			at, offset, err := firstAct(p, offsets[p], since)
			if err != nil {
				return err
			}
			offsets[p] = offset
			if at == 0 {
				still = append(still, p)
				continue
			}
			f.log.write(record{Op: opRecovered, At: at, Name: p.spec.Name, Text: name, Due: since})
		}
		waiting = still
		if !restarted && time.Since(begun) > nodeWithin && slices.Contains(waiting, f.node) {
			restarted = true
			if err := f.restartNode("does nothing after " + name); err != nil {
				return err
			}
		}
		if !asked && time.Since(begun) > poolerWithin {
			asked = true
			if hangs(f.pooler.address, poolerWithin) {
				f.poolerEnded("it did not answer, and was killed")
				f.pooler.kill(restartAfter)
			}
		}
		if time.Since(begun) > recoverWithin {
			for _, p := range waiting {
				f.log.write(record{Op: opStuck, Name: p.spec.Name, Text: name})
				f.say("BROKEN: %s does not work again within %v after %s", p.spec.Name, recoverWithin, name)
			}
			return nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// firstAct is when a process acted for the first time after a time; 0 if it has not yet.
func firstAct(p *process, offset, since int64) (at, end int64, err error) {
	wanted := opStarted
	switch p.spec.Duty { //nolint:exhaustive // the others work
	case dutyEnqueue:
		wanted = opAcked
	case dutyRequeue:
		wanted = opReturned
	case dutyCancel:
		wanted = opOutcome
	}
	end, err = readJournal(p.spec.Journal, offset, func(r record) {
		if at == 0 && r.Op == wanted && r.At > since {
			at = r.At
		}
	})
	return at, end, err
}

// held are the jobs that a worker which has ended has locked, and the tokens of their locks.
func (f *fleet) held(ctx context.Context, pools []string) (ids []int64, tokens []string, err error) {
	err = f.server.with(ctx, database, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `select coalesce(array_agg(j.id), '{}'), coalesce(array_agg(j.locked_by), '{}')
			from graphile_worker._private_jobs j join unnest($1::text[]) pool on starts_with(j.locked_by, pool || '.')`, pools).Scan(&ids, &tokens)
	})
	if err != nil {
		err = fmt.Errorf("look what a worker that has ended had locked: %w", err)
	}
	return ids, tokens, err
}

// watchHeld waits until jobs are locked no more as they were, and writes down when that was.
func (f *fleet) watchHeld(ctx context.Context, name string, ids []int64, tokens []string) error {
	begun := time.Now()
	for left := len(ids); left > 0; {
		err := f.server.with(ctx, database, func(ctx context.Context, conn *pgx.Conn) error {
			return conn.QueryRow(ctx, "select count(*) from graphile_worker._private_jobs where id = any($1) and locked_by = any($2)", ids, tokens).Scan(&left)
		})
		if err != nil {
			return fmt.Errorf("look what %s holds still: %w", name, err)
		}
		if left > 0 && time.Since(begun) > releaseWithin {
			f.log.write(record{Op: opLocked, Name: name, Count: left})
			f.say("  %d jobs of %s are locked still after %v", left, name, releaseWithin)
			return nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	f.log.write(record{Op: opReleased, Name: name, Count: len(ids)})
	return nil
}

// How long nothing may change until the harness gives up: no job has been done, and no process has
// started. What a worker held when a poison killed it is run again by few workers, after a while.
const (
	patience           = time.Minute
	patienceWithPoison = 3 * time.Minute
	// drainWithin is the limit for all, in case a poison kills for ever.
	drainWithin = 10 * time.Minute
)

// drain waits until the table has nothing left that a worker could run, or until nothing changes
// any more.
func (f *fleet) drain(ctx context.Context) error {
	patience := patience
	if f.withPoison {
		patience = patienceWithPoison
	}
	begun, changed := time.Now(), time.Now()
	least, started, restarted := -1, f.procs.Load(), false
	for {
		var left, nodes int // a token of ours has dots
		err := f.server.with(ctx, database, func(ctx context.Context, conn *pgx.Conn) error {
			return conn.QueryRow(ctx, `select count(*), count(*) filter (where locked_by not like '%.%')
				from graphile_worker._private_jobs where attempts < max_attempts or locked_by is not null`).Scan(&left, &nodes)
		})
		if err != nil {
			return fmt.Errorf("drain: %w", err)
		}
		if n := f.procs.Load(); least < 0 || left < least || n > started {
			least, started, changed = left, n, time.Now()
		}
		if left == 0 || time.Since(changed) > patience || time.Since(begun) > drainWithin {
			return nil
		}
		if nodes > 0 && !restarted && time.Since(changed) > nodeWithin {
			restarted = true
			if err := f.restartNode("holds jobs and does not run them"); err != nil {
				return err
			}
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}
