package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/backfillhq/go/internal/crontab"
	"github.com/backfillhq/go/internal/wire"
)

// tickDelay is how long after the beginning of a minute its tick comes, as with Graphile Worker
// (contract section 7.5).
const tickDelay = time.Millisecond

// aloneMax is the longest wait before a tick that failed by itself is tried again.
const aloneMax = time.Minute

// defaultMaxAttempts is the wire's (contract section 1.1).
const defaultMaxAttempts = 25

// CronStore is what the schedule needs from a database. Its statements are the wire's protocol, by
// which any number of processes with the same crontab schedule each tick once, without a leader
// (contract section 7.3).
type CronStore interface {
	// KnownCrontabs makes those of these identifiers that are not known known since start, and returns
	// what the database knows of them.
	KnownCrontabs(ctx context.Context, identifiers []string, start time.Time) (map[string]KnownCrontab, error)
	// Tick enqueues the jobs of those identifiers that have not executed this tick or a later one, all
	// or none. It returns how many that were. A RejectedError is for what a job holds.
	Tick(ctx context.Context, tick time.Time, identifiers []string, jobs []wire.Spec) (scheduled int, err error)
}

// CronEntry is a crontab line, and what its grammar has no words for.
type CronEntry struct {
	*crontab.Entry

	Flags []string
}

// describeCrontab describes the entries for the worker's row.
func (w *Worker) describeCrontab() []crontab.Description {
	descriptions := make([]crontab.Description, len(w.config.Crontab))
	for i, entry := range w.config.Crontab {
		descriptions[i] = entry.Describe(entry.Flags)
	}
	return descriptions
}

// KnownCrontab is what the database knows of an identifier.
type KnownCrontab struct {
	KnownSince    time.Time
	LastExecution time.Time // zero: never
}

// Clock is the time that a crontab goes by.
type Clock interface {
	Now() time.Time
	// Sleep lets d pass on this clock. It reports false when ctx ended first.
	Sleep(ctx context.Context, d time.Duration) bool
}

// cronLine is an entry on its way through its ticks.
type cronLine struct {
	CronEntry

	next  time.Time   // its first tick that is not recorded
	alone atomic.Bool // it has a goroutine of its own, whose next is
}

// schedule is a worker's crontab.
type schedule struct {
	*Worker

	start  time.Time // ticks before it were missed
	lines  []*cronLine
	alone  sync.WaitGroup
	permit chan struct{} // holds one: lines that are alone get one connection at a time
}

// schedule enqueues cron jobs until ctx ends: each minute's in one transaction, in their order, by
// Config.Clock. An entry that is behind, because ticks were missed or failed, catches up in a
// goroutine of its own, so that the others are on time.
func (w *Worker) schedule(ctx context.Context) {
	s := &schedule{Worker: w, start: w.config.Clock.Now(), permit: make(chan struct{}, 1)}
	defer s.alone.Wait()
	s.read(s.known(ctx))
	for ctx.Err() == nil {
		now := w.config.Clock.Now()
		minute := now.Truncate(time.Minute)
		due := s.due(ctx, minute)
		if len(due) == 0 { // look again each minute: the clock may have been set
			w.config.Clock.Sleep(ctx, minute.Add(time.Minute+tickDelay).Sub(now))
			continue
		}
		if err := s.tick(ctx, due...); err != nil { // perhaps because of one of them
			s.failed(ctx, err, 0)
			s.known(ctx) // waits for the database, if that is what failed
			for _, line := range due {
				s.catchUp(ctx, line)
			}
			continue
		}
		w.troubles.cron.Success(w.config.Logger)
	}
}

// read makes lines of the entries that have a tick to come, or to catch up with.
func (s *schedule) read(known map[string]KnownCrontab) {
	for _, entry := range s.config.Crontab {
		since := s.start
		if k, ok := known[entry.Identifier]; ok {
			since = cmp.Or(k.LastExecution, k.KnownSince)
			s.warnOfClock(entry.Identifier, k)
		}
		if first, ok := entry.First(since, s.start); ok {
			s.lines = append(s.lines, &cronLine{CronEntry: entry, next: first})
		}
	}
}

func (s *schedule) identifiers() []string {
	identifiers := make([]string, len(s.config.Crontab))
	for i, entry := range s.config.Crontab {
		identifiers[i] = entry.Identifier
	}
	return identifiers
}

// warnOfClock says that an entry has no tick for a while, because it executed at a time that is yet
// to come: the clock of another process, which may go by its own, is or was ahead.
func (s *schedule) warnOfClock(identifier string, known KnownCrontab) {
	if ahead := known.LastExecution.Sub(s.start); ahead > time.Minute {
		s.troubles.ahead.Add(s.config.Logger, fmt.Sprintf("%s (%v ahead, at %s)",
			identifier, ahead.Round(time.Second), known.LastExecution.Format(time.RFC3339)))
	}
}

// known returns what the database knows of the entries. It asks until there is an answer, or ctx
// ends.
func (s *schedule) known(ctx context.Context) map[string]KnownCrontab {
	identifiers := s.identifiers()
	for failures := 1; ctx.Err() == nil; failures++ {
		statement, cancel := context.WithTimeout(ctx, statementTimeout)
		known, err := s.config.Cron.KnownCrontabs(statement, identifiers, s.start)
		cancel()
		if err == nil {
			return known
		}
		s.failed(ctx, err, backoff(failures, errorMin, errorMax))
	}
	return nil
}

// due returns the lines whose tick is that of the minute. Lines that are behind are sent to catch
// up.
func (s *schedule) due(ctx context.Context, minute time.Time) []*cronLine {
	var due []*cronLine
	for _, line := range s.lines {
		switch {
		case line.alone.Load() || line.next.After(minute):
		case line.next.Before(minute):
			s.catchUp(ctx, line)
		default:
			due = append(due, line)
		}
	}
	return due
}

// tick enqueues the jobs of lines that are at the same tick, all or none. To repeat it does no
// harm.
func (s *schedule) tick(ctx context.Context, lines ...*cronLine) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	tick := lines[0].next
	identifiers, jobs := make([]string, len(lines)), make([]wire.Spec, len(lines))
	for i, line := range lines {
		identifiers[i], jobs[i] = line.Identifier, cronJob(line.CronEntry, tick, tick.Before(s.start))
	}
	scheduled, err := s.config.Cron.Tick(ctx, tick, identifiers, jobs)
	if err != nil {
		return fmt.Errorf("tick %s of %s: %w", tick.Format(time.RFC3339), strings.Join(identifiers, ", "), err)
	}
	if scheduled > 0 {
		s.observe(Event{Kind: EventScheduled, Count: scheduled})
		s.announce(scheduled)
	}
	for _, line := range lines {
		line.next, _ = line.Next(tick)
	}
	return nil
}

// catchUp enqueues the ticks of a line that are due, one after the other, beside the other lines. A
// tick whose job the database refuses is given up when the next is due.
func (s *schedule) catchUp(ctx context.Context, line *cronLine) {
	line.alone.Store(true)
	s.alone.Go(func() {
		defer line.alone.Store(false)
		for failures := 0; ctx.Err() == nil && !line.next.After(s.config.Clock.Now()); {
			s.permit <- struct{}{}
			err := s.tick(ctx, line)
			<-s.permit
			_, refused := errors.AsType[*wire.RejectedError](err)
			switch later, _ := line.Next(line.next); {
			case err == nil:
				failures = 0
			case refused && !later.After(s.config.Clock.Now()):
				s.troubles.givenUp.Add(s.config.Logger, err.Error())
				line.next = later
			default:
				failures++
				s.failed(ctx, err, backoff(failures, errorMin, aloneMax))
			}
		}
	})
}

// failed logs an error and waits.
func (s *schedule) failed(ctx context.Context, err error, wait time.Duration) {
	if ctx.Err() == nil {
		s.troubles.cron.Failure(s.config.Logger, err, slog.Duration("retry_in", wait))
		sleep(ctx, wait)
	}
}

// cronJob is the job of an entry at a tick (contract section 7.2).
func cronJob(entry CronEntry, tick time.Time, backfilled bool) wire.Spec {
	spec := wire.Spec{
		Task: entry.Task, Payload: CronPayload(entry.Payload, tick, backfilled), Queue: entry.Queue, Key: entry.Key,
		KeyMode: wire.KeyMode(entry.KeyMode), MaxAttempts: cmp.Or(entry.MaxAttempts, defaultMaxAttempts), RunAt: tick,
		Flags: entry.Flags,
	}
	if entry.Priority != nil {
		spec.Priority = *entry.Priority
	}
	return spec
}

// CronPayload adds _cron to the payload of an entry, a JSON object without it, or nil.
func CronPayload(payload []byte, tick time.Time, backfilled bool) json.RawMessage {
	fields := "{"
	if len(payload) > len("{}") {
		fields = string(payload[:len(payload)-1]) + ","
	}
	return fmt.Appendf(nil, `%s"_cron":{"ts":"%s","backfilled":%t}}`, fields, tick.UTC().Format("2006-01-02T15:04:05.000Z"), backfilled)
}

// wallClock is the time of this process, without the monotonic clock, which does not notice that
// somebody sets the clock.
type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now().Round(0).UTC() }

func (wallClock) Sleep(ctx context.Context, d time.Duration) bool { return sleep(ctx, d) }
