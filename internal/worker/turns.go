package worker

import (
	"fmt"
	"sync/atomic"
	"time"
)

// stuckAfter is how long a loop may take for one turn. Each statement ends far sooner, whatever the
// database does: a loop that takes longer is blocked by something in this process.
const stuckAfter = 10 * time.Minute

// loop is one of the loops that a worker cannot do without.
type loop int

const (
	loopClaims loop = iota
	loopOutcomes
	loopHeartbeats
	loops
)

func (l loop) String() string { return [...]string{"claims", "outcomes", "heartbeats"}[l] }

// turns notes when each loop last turned, by Go's monotonic clock: a suspended machine is not
// stuck.
type turns struct {
	since time.Time // when the worker began to run
	noted [loops]atomic.Int64
}

func (t *turns) begin() {
	t.since = time.Now()
	for l := range loops {
		t.note(l)
	}
}

// Turns is when each loop last turned: each does so at least once a minute while it goes on.
type Turns struct {
	Claims, Outcomes, Heartbeats time.Time // zero: the worker has not started
}

func (t *turns) last() Turns {
	if t.since.IsZero() {
		return Turns{}
	}
	at := func(l loop) time.Time { return t.since.Add(time.Duration(t.noted[l].Load())) }
	return Turns{Claims: at(loopClaims), Outcomes: at(loopOutcomes), Heartbeats: at(loopHeartbeats)}
}

func (t *turns) note(l loop) { t.noted[l].Store(int64(time.Since(t.since))) }

// stuck says which loop does not turn any more; "" if all do.
func (t *turns) stuck() string {
	if t.since.IsZero() {
		return ""
	}
	for l := range loops {
		if still := time.Since(t.since) - time.Duration(t.noted[l].Load()); still >= stuckAfter {
			return fmt.Sprintf("the loop for %v has stood still for %v", l, still.Round(time.Second))
		}
	}
	return ""
}
