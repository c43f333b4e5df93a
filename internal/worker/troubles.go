package worker

import (
	"log/slog"

	"github.com/backfillhq/go/internal/trouble"
)

// troubles are those that a worker can be in.
type troubles struct {
	claims, flushes, busy, listener, renewals, beats, rescues, sweeps, cancels, looks, refusals, cron, counts, progress, server trouble.Log

	lost, ahead, givenUp trouble.Digest
}

// newTroubles returns them. explain adds to an error what to do about it; nil: nothing is added.
func newTroubles(explain func(error) error) *troubles {
	about := func(failing, over string) trouble.Log {
		return trouble.Log{Failing: failing, Over: over, Level: slog.LevelError, Explain: explain}
	}
	t := &troubles{
		claims:   about("claim failed", "claims succeed again"),
		flushes:  about("recording outcomes failed", "outcomes are recorded again"),
		busy:     about("outcomes wait for rows", "outcomes wait for no row any more"),
		listener: about("listener disconnected; polling goes on", "listener is connected again"),
		renewals: about("renewing leases failed", "leases are renewed again"),
		beats:    about("heartbeat failed", "heartbeats succeed again"),
		rescues:  about("releasing jobs of dead workers failed", "jobs of dead workers are released again"),
		sweeps:   about("releasing stale locks failed", "stale locks are released again"),
		cancels:  about("looking for cancelled jobs failed", "cancelled jobs are looked for again"),
		looks: about("looking for jobs of claims whose answers were lost failed",
			"jobs of claims whose answers were lost are looked for again"),
		refusals: about("the server refuses an outcome in every form; its job stays locked, and it is tried again", ""),
		server:   about("the database server was restarted, or another one has taken its place", ""),
		cron:     about("scheduling cron jobs failed", "cron jobs are scheduled again"),
		counts:   about("counting what has ended failed", "what has ended is counted again"),
		progress: about("writing the progress of jobs failed", "the progress of jobs is written again"),
	}
	for _, warning := range []*trouble.Log{&t.busy, &t.listener, &t.beats, &t.counts, &t.progress, &t.server} {
		warning.Level = slog.LevelWarn
	}
	t.lost = trouble.Digest{
		Message: "leases lost: the outcomes of these jobs were not recorded", What: "jobs", Level: slog.LevelWarn,
	}
	t.ahead = trouble.Digest{
		Message: "cron entries have last been executed in the future, and are not executed before that time: compare the clocks",
		What:    "entries", Level: slog.LevelWarn,
	}
	t.givenUp = trouble.Digest{
		Message: "cron jobs were refused and are given up, because the next are due", What: "ticks", Level: slog.LevelError,
	}
	return t
}

// say logs what waits for its line.
func (t *troubles) say(log *slog.Logger) {
	for _, digest := range []*trouble.Digest{&t.lost, &t.ahead, &t.givenUp} {
		digest.Say(log)
	}
}
