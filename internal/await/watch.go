// Package await tells callers how jobs stand for whose ends they wait. One statement looks at all
// of them, so it costs the database the same whether one caller waits or a thousand do. Nobody is
// notified of ends: that would be a message for each job, for the sake of the few that are awaited,
// and would be lost in a pooler, a fail-over, and between a look and its LISTEN.
package await

import (
	"context"
	"sync"
	"time"
)

const (
	// The first look is at once. Then a caller's job is looked at after a tenth of the time that it
	// has waited for so far, within these.
	minPause = 50 * time.Millisecond
	maxPause = time.Second
	// lookTimeout bounds a look. Others that are due wait for it.
	lookTimeout = 5 * time.Second
	// maxLook is how many jobs one statement looks at: each can have an output of 1 MiB.
	maxLook = 100
)

// Look is what one look has found out about a job, or an error.
type Look[S any] struct {
	Standing S
	Err      error
}

// Watch looks at jobs while somebody waits for them. It has a goroutine only then.
type Watch[S any] struct {
	look func(ctx context.Context, ids []int64) (map[int64]S, error)

	mu      sync.Mutex
	callers map[*Caller[S]]struct{}
	wake    chan struct{}      // a caller has come; nil: the goroutine does not run
	stop    context.CancelFunc // of the goroutine
	closed  bool
}

// Caller is somebody who waits for a job.
type Caller[S any] struct {
	// Looks has the latest look, once.
	Looks chan Look[S]

	id         int64
	began, due time.Time
	asked      bool // the look that is under way is for it
}

// New returns a Watch that looks with a function. The function returns how each of the jobs stands.
func New[S any](look func(ctx context.Context, ids []int64) (map[int64]S, error)) *Watch[S] {
	return &Watch[S]{look: look, callers: map[*Caller[S]]struct{}{}}
}

// Add begins to look at a job. It returns nil once the Watch is closed. Call Remove when you are
// done.
func (w *Watch[S]) Add(id int64) *Caller[S] {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	now := time.Now()
	c := &Caller[S]{Looks: make(chan Look[S], 1), id: id, began: now, due: now}
	w.callers[c] = struct{}{}
	if w.wake == nil {
		ctx, stop := context.WithCancel(context.Background())
		w.wake, w.stop = make(chan struct{}, 1), stop
		go w.run(ctx, w.wake)
		return c
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return c
}

// Remove ends looking for a caller. With the last one, the goroutine ends.
func (w *Watch[S]) Remove(c *Caller[S]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, there := w.callers[c]; !there {
		return
	}
	delete(w.callers, c)
	if len(w.callers) == 0 {
		w.end()
	}
}

// Close ends all looking, and closes the channels of callers.
func (w *Watch[S]) Close() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for c := range w.callers {
		delete(w.callers, c)
		close(c.Looks)
	}
	w.end()
}

func (w *Watch[S]) end() {
	if w.stop != nil {
		w.stop()
	}
	w.wake, w.stop = nil, nil
}

func (w *Watch[S]) run(ctx context.Context, wake chan struct{}) {
	for {
		ids, pause := w.due()
		if len(ids) == 0 {
			timer := time.NewTimer(pause)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-wake:
				timer.Stop()
			case <-timer.C:
			}
			continue
		}
		looking, cancel := context.WithTimeout(ctx, lookTimeout)
		found, err := w.look(looking, ids)
		cancel()
		if ctx.Err() != nil {
			return
		}
		w.tell(found, err)
	}
}

// due returns the jobs to look at now, or how long there are none.
func (w *Watch[S]) due() (ids []int64, pause time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, seen := time.Now(), map[int64]bool{}
	pause = maxPause
	for c := range w.callers {
		switch wait := c.due.Sub(now); {
		case wait > 0:
			pause = min(pause, wait)
		case seen[c.id]:
			c.asked = true
		case len(ids) < maxLook:
			c.asked, seen[c.id] = true, true
			ids = append(ids, c.id)
		}
	}
	return ids, pause
}

// tell gives each caller what was found out about its job. One who has come during the look is not
// told: its job may have been enqueued after the look was sent.
func (w *Watch[S]) tell(found map[int64]S, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for c := range w.callers {
		if !c.asked {
			continue
		}
		c.asked = false
		c.due = now.Add(min(max(now.Sub(c.began)/10, minPause), maxPause))
		select {
		case <-c.Looks: // which it has not taken
		default:
		}
		c.Looks <- Look[S]{found[c.id], err}
	}
}
