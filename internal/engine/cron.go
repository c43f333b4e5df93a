package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/crontab"
)

// tickDelay is how long after the beginning of a minute its tick comes, as with Graphile Worker (contract section 7.5).
const tickDelay = time.Millisecond

// defaultMaxAttempts is the wire's (contract section 1.1).
const defaultMaxAttempts = 25

// CronStore is what the schedule needs from a database. Its statements are the wire's protocol, by which any number of processes
// with the same crontab schedule each tick once, without a leader (contract section 7.3).
type CronStore interface {
	// KnownCrontabs returns what the database knew of these identifiers, and makes the others known since start.
	KnownCrontabs(ctx context.Context, identifiers []string, start time.Time) (map[string]KnownCrontab, error)
	// Tick enqueues the jobs of those identifiers that have not executed this tick or a later one, all or none. It returns how
	// many that were.
	Tick(ctx context.Context, tick time.Time, identifiers []string, jobs []Spec) (scheduled int, err error)
}

// CronEntry is a crontab line, and what its grammar has no words for.
type CronEntry struct {
	*crontab.Entry

	Flags []string
}

// KnownCrontab is what the database knows of an identifier.
type KnownCrontab struct {
	KnownSince    time.Time
	LastExecution time.Time // zero: never
}

// since is the first tick that may have been missed.
func (k KnownCrontab) since() time.Time {
	if k.LastExecution.IsZero() {
		return k.KnownSince
	}
	return k.LastExecution
}

// Clock is the time that a crontab goes by.
type Clock interface {
	Now() time.Time
	// Sleep lets d pass on this clock. It reports false when ctx ended first.
	Sleep(ctx context.Context, d time.Duration) bool
}

// schedule enqueues cron jobs until ctx ends: those that were missed, as far back as their entries say, and then each minute's. It
// goes by the clock of this process.
func (w *Worker) schedule(ctx context.Context) {
	clock := w.config.Clock
	start := clock.Now()
	var known map[string]KnownCrontab
	ok := w.insist(ctx, func(ctx context.Context) (err error) {
		known, err = w.config.Cron.KnownCrontabs(ctx, w.cronIdentifiers(), start)
		return err
	})
	if !ok || !w.makeUp(ctx, known, start) {
		return
	}
	// Minutes that passed meanwhile are made up for as ordinary ticks, whatever the entries say (contract section 7.5).
	for next := roundUp(start); ; {
		wait := next.Add(tickDelay).Sub(clock.Now())
		if !clock.Sleep(ctx, min(wait, time.Minute)) { // a clock that is wrong now may be set again
			return
		}
		for now := clock.Now(); !next.After(now); next = next.Add(time.Minute) { // none if the clock was set back
			if !w.tick(ctx, next, w.due(next), false) {
				return
			}
		}
	}
}

// makeUp schedules the ticks that were missed while nobody ran, in their order (contract section 7.4).
func (w *Worker) makeUp(ctx context.Context, known map[string]KnownCrontab, start time.Time) bool {
	missed := map[time.Time][]CronEntry{}
	for _, entry := range w.config.Crontab {
		if k, ok := known[entry.Identifier]; ok {
			for tick := range entry.Missed(k.since(), start) {
				missed[tick] = append(missed[tick], entry)
			}
		}
	}
	for _, tick := range slices.SortedFunc(maps.Keys(missed), time.Time.Compare) {
		if !w.tick(ctx, tick, missed[tick], true) {
			return false
		}
	}
	return true
}

// due returns the entries of a minute.
func (w *Worker) due(tick time.Time) []CronEntry {
	var due []CronEntry
	for _, entry := range w.config.Crontab {
		if entry.Matches(tick) {
			due = append(due, entry)
		}
	}
	return due
}

// tick enqueues the jobs of one tick. A tick that fails is tried again until it succeeds: to skip it would lose it, and to repeat
// it does no harm.
func (w *Worker) tick(ctx context.Context, tick time.Time, entries []CronEntry, backfilled bool) bool {
	if len(entries) == 0 {
		return ctx.Err() == nil
	}
	identifiers, jobs := make([]string, len(entries)), make([]Spec, len(entries))
	for i, entry := range entries {
		identifiers[i], jobs[i] = entry.Identifier, cronJob(entry, tick, backfilled)
	}
	return w.insist(ctx, func(ctx context.Context) error {
		scheduled, err := w.config.Cron.Tick(ctx, tick, identifiers, jobs)
		if err == nil && scheduled > 0 {
			w.observe(Event{Kind: EventScheduled, Count: scheduled})
			w.announce(scheduled)
		}
		return err
	})
}

// insist calls try until it succeeds. It reports false when ctx ended first.
func (w *Worker) insist(ctx context.Context, try func(context.Context) error) bool {
	for failures := 1; ctx.Err() == nil; failures++ {
		statement, cancel := context.WithTimeout(ctx, statementTimeout)
		err := try(statement)
		cancel()
		if err == nil {
			return true
		}
		wait := backoff(failures, errorMin, errorMax)
		w.config.Logger.ErrorContext(ctx, "scheduling cron jobs failed", slog.Any("error", err), slog.Duration("retry_in", wait))
		sleep(ctx, wait)
	}
	return false
}

func (w *Worker) cronIdentifiers() []string {
	var identifiers []string
	for _, entry := range w.config.Crontab {
		identifiers = append(identifiers, entry.Identifier)
	}
	return identifiers
}

// cronJob is the job of an entry at a tick (contract section 7.2).
func cronJob(entry CronEntry, tick time.Time, backfilled bool) Spec {
	spec := Spec{
		Task: entry.Task, Payload: cronPayload(entry.Payload, tick, backfilled), Queue: entry.Queue, Key: entry.Key,
		KeyMode: KeyMode(entry.KeyMode), MaxAttempts: entry.MaxAttempts, RunAt: tick, Flags: entry.Flags,
	}
	if entry.Priority != nil {
		spec.Priority = *entry.Priority
	}
	if spec.MaxAttempts == 0 {
		spec.MaxAttempts = defaultMaxAttempts
	}
	return spec
}

// cronPayload adds _cron to the payload of an entry, a JSON object without it, or nil.
func cronPayload(payload []byte, tick time.Time, backfilled bool) json.RawMessage {
	fields := "{"
	if len(payload) > len("{}") {
		fields = string(payload[:len(payload)-1]) + ","
	}
	return fmt.Appendf(nil, `%s"_cron":{"ts":"%s","backfilled":%t}}`, fields, tick.UTC().Format("2006-01-02T15:04:05.000Z"), backfilled)
}

// wallClock is the time of this process, without the monotonic clock, which does not notice that somebody sets the clock.
type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now().Round(0).UTC() }

func (wallClock) Sleep(ctx context.Context, d time.Duration) bool { return sleep(ctx, d) }

func roundUp(t time.Time) time.Time {
	if minute := t.Truncate(time.Minute); minute.Before(t) {
		return minute.Add(time.Minute)
	}
	return t
}
