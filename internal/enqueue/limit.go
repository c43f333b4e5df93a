package enqueue

import (
	"context"
	"sync"
	"time"
)

// Limits ends contexts of which a step takes too long. They share a timer: one for each would cost
// a twentieth of an enqueue. The zero value is ready to use.
type Limits struct {
	mu      sync.Mutex
	running map[*Context]bool
	armed   bool
}

// NewContext returns a context for an insert of caller. Call Leave in the end.
func (l *Limits) NewContext(caller context.Context) *Context {
	c := &Context{done: make(chan struct{})}
	c.enter(caller, l)
	return c
}

func (l *Limits) add(c *Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running == nil {
		l.running = map[*Context]bool{}
	}
	l.running[c] = true
	if !l.armed {
		l.armed = true
		time.AfterFunc(Timeout, l.endLate)
	}
}

func (l *Limits) remove(c *Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.running, c)
}

// endLate ends the contexts whose time is over, and looks again when the next one's is.
func (l *Limits) endLate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, next := sinceBegin(), Timeout
	for c := range l.running {
		left := time.Duration(c.step.Load()-now) + Timeout
		if left > 0 {
			next = min(next, left)
			continue
		}
		delete(l.running, c)
		go c.End(ErrNoAnswer) // its handler may be the application's
	}
	if l.armed = len(l.running) > 0; l.armed {
		time.AfterFunc(next, l.endLate)
	}
}

var processBegan = time.Now()

func sinceBegin() int64 { return int64(time.Since(processBegan)) }
