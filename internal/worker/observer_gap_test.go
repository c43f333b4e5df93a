package worker

import (
	"testing"
	"time"
)

// What a worker did while the observer was stopped, nobody has seen: a number of heartbeats that is
// read before and after a gap has been the same for no time.
func TestGapStartsOver(t *testing.T) {
	t.Parallel()
	times := newLeaseTimes(1)
	o, start := newObserver(times), time.Now()
	peers := []Peer{{ID: "other", Beats: 3}}
	look := func(after time.Duration) Verdict {
		o.read(1, peers, Moment{At: start.Add(after), Wall: start.Add(after).Round(0)})
		return o.judge(o.seen["other"], false)
	}
	look(0)
	if got := look(times.death + time.Minute); got != VerdictAlive {
		t.Errorf("after a gap the verdict is %d, want %d", got, VerdictAlive)
	}
	var got Verdict
	for after := time.Duration(0); after <= times.death; after += times.queuedBeat {
		got = look(times.death + time.Minute + after)
	}
	if got != VerdictDead {
		t.Errorf("after %v of looks the verdict is %d, want %d", times.death, got, VerdictDead)
	}
}
