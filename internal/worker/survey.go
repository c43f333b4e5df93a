package worker

import (
	"context"
	"log/slog"
	"time"
)

// waitsLong is after what time a job that is due, or a lock, is worth a line in the log.
const waitsLong = time.Minute

// surveyTimeout bounds a survey: on a table where it takes longer, the log does without.
const surveyTimeout = 2 * time.Second

// quietFor is after what time without any enqueue or claim, by anybody, a worker is worth a line in
// the log: perhaps its database was left for another one, and it polls the old one.
const quietFor = 24 * time.Hour

// surveyor says what waits that this worker does not serve, and which locks others hold: when the
// worker starts, and later when there are other tasks and owners than it has said. And it says when
// nothing goes on at all.
type surveyor struct {
	tasks, owners map[string]bool // that were said

	changes int64     // of jobs, at the last survey
	active  time.Time // when they were last seen to become more; zero: no survey yet
}

func (s *surveyor) survey(ctx context.Context, w *Worker) {
	statement, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	found, err := w.store.Survey(statement)
	if err != nil {
		if ctx.Err() == nil {
			w.config.Logger.DebugContext(ctx, "looking for what waits failed", slog.Any("error", err))
		}
		return
	}
	s.activity(ctx, w, found.Changes)
	tasks := map[string]bool{}
	for _, task := range found.Unserved {
		if task.Oldest < waitsLong {
			continue
		}
		tasks[task.Task] = true
		if !s.tasks[task.Task] {
			w.config.Logger.WarnContext(ctx, "jobs wait whose task this worker does not serve",
				slog.String("task", task.Task), slog.Int("jobs", task.Jobs), slog.Duration("oldest", task.Oldest.Round(time.Second)))
		}
	}
	s.tasks = tasks
}

// activity says once that nobody has enqueued or claimed for long.
func (s *surveyor) activity(ctx context.Context, w *Worker, changes int64) {
	now := time.Now()
	if s.active.IsZero() || changes != s.changes || changes < 0 {
		s.changes, s.active = changes, now
	}
	quiet := now.Sub(s.active) >= quietFor
	w.mu.Lock()
	said := !w.quiet.IsZero()
	w.quiet = time.Time{}
	if quiet {
		w.quiet = s.active
	}
	w.mu.Unlock()
	if quiet && !said {
		w.config.Logger.LogAttrs(ctx, slog.LevelWarn, "nobody has enqueued or claimed a job here for a day: is this the right database?",
			append(w.place(), slog.Time("since", s.active))...)
	}
}

func (s *surveyor) locks(ctx context.Context, w *Worker, found []HeldLocks) {
	owners := map[string]bool{}
	for _, locks := range found {
		if !locks.Dead && locks.Oldest < waitsLong || w.observer.watches(locks.Owner) {
			continue
		}
		owners[locks.Owner] = true
		if !s.owners[locks.Owner] {
			w.config.Logger.WarnContext(ctx, "another worker holds locks; if it is gone, UnlockWorker releases them",
				slog.String("owner", locks.Owner), slog.String("host", locks.Host), slog.Int("pid", locks.Pid),
				slog.Bool("stopped", locks.Dead), slog.Int("jobs", locks.Jobs), slog.Int("queues", locks.Queues),
				slog.Duration("oldest", locks.Oldest.Round(time.Second)))
		}
	}
	s.owners = owners
}
