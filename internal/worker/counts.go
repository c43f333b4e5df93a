package worker

import (
	"context"
	"log/slog"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

const (
	// countEvery is how often a worker writes down how many jobs have ended, and countTimeout how long
	// that may take.
	countEvery, countTimeout = 5 * time.Second, 2 * time.Second
	// maxCounts is how many rows wait at most for a database that takes none. Then the oldest are lost.
	maxCounts = 2000
)

// Count is how many jobs of a task have ended within a minute, as one worker has counted them. To
// write it again, with the same numbers or greater ones, is no error.
type Count struct {
	Minute time.Time // by the database's clock
	Task   string

	Completed, Failed, Dead, Snoozed, Returned, Canceled int32

	Run  Times // of the handlers that have ended
	Wait Times // from run_at to the start of those that have started
}

// Times sums times up.
type Times struct {
	Sum time.Duration
	In  map[int16]int32 // by wire.Class
}

func (t *Times) note(took time.Duration) {
	if t.In == nil {
		t.In = make(map[int16]int32)
	}
	took = max(took, 0)
	t.Sum += took
	t.In[wire.Class(took)]++
}

func (t *Times) add(more Times) {
	if t.In == nil {
		t.In = make(map[int16]int32, len(more.In))
	}
	t.Sum += more.Sum
	for class, n := range more.In {
		t.In[class] += n
	}
}

func (c *Count) add(more *Count) {
	c.Completed += more.Completed
	c.Failed += more.Failed
	c.Dead += more.Dead
	c.Snoozed += more.Snoozed
	c.Returned += more.Returned
	c.Canceled += more.Canceled
	c.Run.add(more.Run)
	c.Wait.add(more.Wait)
}

// counts is what has been counted since it was last written down, by task.
type counts map[string]*Count

func (c counts) of(task string) *Count {
	count := c[task]
	if count == nil {
		count = &Count{Task: task}
		c[task] = count
	}
	return count
}

// ended counts a job whose outcome is recorded.
func (c counts) ended(l *lease, fate FateKind) {
	count := c.of(l.Task)
	switch {
	case fate == FateCanceled:
		count.Canceled++
	case l.outcome.Kind == OutcomeCompleted:
		count.Completed++
	case l.outcome.Kind == OutcomeSnoozed:
		count.Snoozed++
	case l.outcome.Kind == OutcomeReturned, l.outcome.Kind == OutcomeCanceled:
		if l.began.IsZero() {
			return // it has not started
		}
		count.Returned++
	case fate == FateExhausted:
		count.Dead++
	default:
		count.Failed++
	}
	if !l.began.IsZero() {
		count.Run.note(l.took)
	}
}

// countKey is what a row of counts is known by.
type countKey struct {
	minute time.Time
	task   string
}

// counter writes down how many jobs have ended. Rows have the sums of their minutes, so that one can
// be written again when nobody knows whether it was.
type counter struct {
	id   string // of the worker, as it started
	sums map[countKey]*Count
	due  map[countKey]bool // to be written
	lost int               // rows, since that was last said
}

// take adds what was counted to the sums of this minute.
func (c *counter) take(fresh counts, minute time.Time) {
	for key := range c.sums {
		if key.minute.Before(minute) && !c.due[key] {
			delete(c.sums, key)
		}
	}
	for task, count := range fresh {
		key := countKey{minute, task}
		if c.sums[key] == nil {
			c.sums[key] = &Count{Minute: minute, Task: task}
		}
		c.sums[key].add(count)
		c.due[key] = true
	}
	for len(c.due) > maxCounts {
		oldest := countKey{}
		for key := range c.due {
			if oldest.minute.IsZero() || key.minute.Before(oldest.minute) {
				oldest = key
			}
		}
		delete(c.due, oldest)
		delete(c.sums, oldest)
		c.lost++
	}
}

// count writes down what has ended until ctx ends. It is apart from everything else, so that one that
// is stuck keeps nothing waiting.
func (w *Worker) count(ctx context.Context, c *counter) {
	for sleep(ctx, countEvery) {
		w.writeCounts(ctx, c)
	}
}

func (w *Worker) writeCounts(ctx context.Context, c *counter) {
	minute := w.config.Clock.Now().Truncate(time.Minute)
	w.mu.Lock()
	fresh := w.core.counts
	w.core.counts = make(counts, len(fresh))
	w.mu.Unlock()
	c.take(fresh, minute)
	if len(c.due) == 0 {
		return
	}
	rows := make([]Count, 0, len(c.due))
	for key := range c.due {
		rows = append(rows, *c.sums[key])
	}
	statement, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	if err := w.store.Count(statement, c.id, rows); err != nil {
		if ctx.Err() == nil {
			w.troubles.counts.Failure(w.config.Logger, err, slog.Int("rows", len(rows)), slog.Int("lost", c.lost))
		}
		return
	}
	clear(c.due)
	c.lost = 0
	w.troubles.counts.Success(w.config.Logger)
}
