package pg

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
)

const (
	// pausesEvery is how old the reading of pauses may be that a claim goes by. With the time that the
	// claim takes, and a job may then wait to start, that is less than 2 seconds. While it claims
	// nothing, a worker reads none: nothing of it starts.
	pausesEvery = 1500 * time.Millisecond
	// maxSaidQueues bounds what the log says of queues.
	maxSaidQueues = 20
)

// pauses is what a store knows of them. Those of queues are a condition of the claim's text: here
// they are for the log.
type pauses struct {
	read   time.Time         // when the last reading began
	tasks  map[string]string // that are paused, of those that it serves, and why
	queues map[string]string // the same of all queues, or the first of them
}

// readPauses reads what is paused.
func (s *Store) readPauses(ctx context.Context) error {
	began := time.Now()
	rows, err := s.queries.PausesOf(ctx, query.PausesOfParams{Tasks: s.tasks, MostQueues: maxSaidQueues})
	if err != nil {
		return fmt.Errorf("read what is paused: %w", err)
	}
	now := pauses{began, make(map[string]string), make(map[string]string)}
	for _, row := range rows {
		if row.Queue {
			now.queues[row.Name] = row.Why
		} else {
			now.tasks[row.Name] = row.Why
		}
	}
	s.sayPaused(ctx, "task", s.pauses.tasks, now.tasks)
	s.sayPaused(ctx, "queue", s.pauses.queues, now.queues)
	s.pauses = now
	return nil
}

// sayPaused logs what is paused, and what is not any more.
func (s *Store) sayPaused(ctx context.Context, what string, before, now map[string]string) {
	for name, why := range now {
		if _, said := before[name]; !said {
			s.logger.LogAttrs(ctx, slog.LevelWarn, "paused: its jobs wait", slog.String(what, name), slog.String("pause", why))
		}
	}
	for name := range before {
		if _, still := now[name]; !still {
			s.logger.LogAttrs(ctx, slog.LevelInfo, "not paused any more", slog.String(what, name))
		}
	}
}

// serve has claims look for jobs of the tasks that are served and not paused: of these alone; nil:
// of all.
func (s *Store) serve(only []string) {
	serves := func(task string) bool {
		_, paused := s.pauses.tasks[task]
		return !paused && (only == nil || slices.Contains(only, task))
	}
	tasks := *s.served.Load()
	for _, task := range tasks {
		if !serves(task) {
			tasks = maps.Clone(tasks) // the other one is read elsewhere
			maps.DeleteFunc(tasks, func(_ int32, task string) bool { return !serves(task) })
			break
		}
	}
	s.serveTasks(tasks)
}
