package pg

import (
	"context"
	"fmt"
	"sync"
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
	end context.CancelCauseFunc // nil: there is a deadline
	at  time.Time               // of the last step, under the lock of limits
}

// limits are those that run. They share a timer: one for each would cost a twentieth of an enqueue.
var limits = struct {
	sync.Mutex
	running map[*limit]bool
	armed   bool
}{running: map[*limit]bool{}}

// newLimit begins one for ctx, which end ends.
func newLimit(ctx context.Context, end context.CancelCauseFunc) *limit {
	l := &limit{}
	if _, ok := ctx.Deadline(); ok {
		return l
	}
	l.end = end
	l.step()
	return l
}

func (l *limit) step() {
	if l.end == nil {
		return
	}
	now := time.Now()
	limits.Lock()
	defer limits.Unlock()
	l.at = now
	limits.running[l] = true
	if !limits.armed {
		limits.armed = true
		time.AfterFunc(enqueueTimeout, endLate)
	}
}

func (l *limit) stop() {
	if l.end == nil {
		return
	}
	limits.Lock()
	defer limits.Unlock()
	delete(limits.running, l)
}

// endLate ends the contexts whose time is over, and looks again when the next one's is.
func endLate() {
	limits.Lock()
	defer limits.Unlock()
	now := time.Now()
	next := now.Add(enqueueTimeout)
	for l := range limits.running {
		over := l.at.Add(enqueueTimeout)
		switch {
		case !over.After(now):
			delete(limits.running, l)
			l.end(errNoAnswer)
		case over.Before(next):
			next = over
		}
	}
	if limits.armed = len(limits.running) > 0; limits.armed {
		time.AfterFunc(next.Sub(now), endLate)
	}
}
