package pg

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// noAnswerError is the end of a limit. It is a context.DeadlineExceeded.
type noAnswerError struct{}

func (noAnswerError) Error() string {
	return fmt.Sprintf("the database did not answer within %v", enqueueTimeout)
}

func (noAnswerError) Is(target error) bool { return target == context.DeadlineExceeded }

var errNoAnswer error = noAnswerError{}

// limit ends a context that has no deadline when enqueueTimeout has passed since its last step.
type limit struct {
	end     context.CancelCauseFunc // nil: there is a deadline
	at      atomic.Int64            // of the last step, in nanoseconds after limitsBegan
	element *list.Element
}

// limits are those that run. They share a timer: one for each would cost a twentieth of an enqueue.
var limits struct {
	sync.Mutex
	running list.List
	armed   bool
}

var limitsBegan = time.Now()

// newLimit begins one for ctx, which end ends.
func newLimit(ctx context.Context, end context.CancelCauseFunc) *limit {
	l := &limit{}
	if _, ok := ctx.Deadline(); ok {
		return l
	}
	l.end = end
	l.step()
	limits.Lock()
	defer limits.Unlock()
	l.element = limits.running.PushBack(l)
	if !limits.armed {
		limits.armed = true
		time.AfterFunc(enqueueTimeout, endLate)
	}
	return l
}

func (l *limit) step() {
	if l.end != nil {
		l.at.Store(int64(time.Since(limitsBegan)))
	}
}

func (l *limit) stop() {
	if l.end == nil {
		return
	}
	limits.Lock()
	defer limits.Unlock()
	limits.running.Remove(l.element)
}

// endLate ends the contexts whose time is over, and looks again when the next one's is.
func endLate() {
	limits.Lock()
	defer limits.Unlock()
	now := time.Since(limitsBegan)
	next := enqueueTimeout
	for element := limits.running.Front(); element != nil; {
		l := element.Value.(*limit)
		element = element.Next() // also after the removal
		left := time.Duration(l.at.Load()) + enqueueTimeout - now
		if left <= 0 {
			limits.running.Remove(l.element)
			l.end(errNoAnswer)
			continue
		}
		next = min(next, left)
	}
	if limits.armed = limits.running.Len() > 0; limits.armed {
		time.AfterFunc(next, endLate)
	}
}
