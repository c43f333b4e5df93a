package worker

import "time"

// Moment is a point in time by the clocks of this machine, because none of them counts everything.
type Moment struct {
	At   time.Time     // by Go's clock, which stops while the machine is suspended
	Wall time.Time     // by the wall clock alone, which can be set
	Boot time.Duration // since the machine started, suspended or not, whoever sets the wall clock; 0: there is no such clock
}

// readClocks reads the clocks of this machine.
func readClocks() Moment {
	t := time.Now()
	return Moment{At: t, Wall: t.Round(0), Boot: sinceBoot()}
}

// ago returns how long before now a moment was, suspended or not: what only a lease protects must
// not go on for longer than the lease. Without a clock that counts just this, the clock that says
// more decides: then a wall clock that is set forward looks like a sleep.
func (m Moment) ago(now Moment) time.Duration {
	if m.Boot > 0 && now.Boot > 0 {
		return now.Boot - m.Boot
	}
	return max(now.At.Sub(m.At), now.Wall.Sub(m.Wall))
}
