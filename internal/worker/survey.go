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

// surveyor says what waits that this worker does not serve, and which locks others hold: when the
// worker starts, and later when there are other tasks and owners than it has said.
type surveyor struct {
	tasks, owners map[string]bool // that were said
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
	tasks := map[string]bool{}
	for _, task := range found {
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
