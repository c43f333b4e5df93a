package worker

import "time"

// leaseTimes are the times of heartbeats, the fence and the observation of others. Change none
// alone: a worker must stop what only its lease protects well before anybody can take its jobs.
// docs/design.md says where each comes from.
type leaseTimes struct {
	beat       time.Duration // between two heartbeats
	queuedBeat time.Duration // the same while it runs a job of a queue; all beats are read as often
	look       time.Duration // between two looks while somebody is late
	start      time.Duration // between two looks of a worker that starts, for startFor
	startFor   time.Duration
	retry      time.Duration // after a heartbeat that failed

	late          time.Duration // beats that are older make their worker late
	death         time.Duration // the same number of beats for this long is a death
	unlockedDeath time.Duration // the same where the session lock is free (R28)
	settle        time.Duration // a heartbeat that is so late says that others died with a worker on trial
	gap           time.Duration // own heartbeats that are further apart start all observations over

	fence       time.Duration // without an acknowledged heartbeat, jobs of queues are cancelled
	lockedFence time.Duration // the same where others can see that the session lock is free
	fenceTick   time.Duration
}

// newLeaseTimes returns the times, or, for tests, a fraction of each.
func newLeaseTimes(hurry int) leaseTimes {
	in := func(d time.Duration) time.Duration { return d / time.Duration(max(hurry, 1)) }
	return leaseTimes{
		beat: in(5 * time.Second), queuedBeat: in(2500 * time.Millisecond), look: in(time.Second),
		start: 100 * time.Millisecond, startFor: 2 * time.Second, retry: in(500 * time.Millisecond),
		late: in(6 * time.Second), death: in(30 * time.Second), unlockedDeath: in(15 * time.Second),
		settle: in(10 * time.Second),
		gap:    in(7500 * time.Millisecond), fence: in(20 * time.Second), lockedFence: in(10 * time.Second),
		fenceTick: in(time.Second),
	}
}
