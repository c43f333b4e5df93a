package worker

import "time"

// connected counts the transactional jobs that are claimed or run. Each holds a connection, or will
// when it starts, so claims take no more of them than there are connections (R22).
type connected struct {
	tasks       map[string]bool // transactional ones; nil: there are none
	connections int
	jobs        int
	kept        bool // the last claim may have left some for want of connections
}

func newConnected(config Config) connected {
	c := connected{connections: config.TxConnections}
	for _, task := range config.Transactional {
		if c.tasks == nil {
			c.tasks = make(map[string]bool, len(config.Transactional))
		}
		c.tasks[task] = true
	}
	return c
}

// add counts n more jobs of a task, if it is transactional.
func (c *connected) add(task string, n int) {
	if c.tasks[task] {
		c.jobs += n
	}
}

// has reports whether the handler of a transactional job runs.
func (c *connected) has(l *lease) bool { return l.handling && c.tasks[l.Task] }

// room returns how many transactional jobs there are connections for.
func (c *connected) room() int {
	if c.tasks == nil {
		return 0
	}
	return max(0, c.connections-c.jobs)
}

// wanted reports whether a claim would find transactional jobs, and there is room.
func (c *connected) wanted() bool { return c.kept && c.room() > 0 }

// committed takes that a transactional job has completed itself. That counts, also when the job was
// given back meanwhile: what was to be recorded will find that it is gone.
func (c *core) committed(l *lease, outcome Outcome, now time.Time, do *actions) {
	switch l.state {
	case leaseRunning:
		l.outcome, l.took = outcome, now.Sub(l.began)
		_, settled := c.settle([]*lease{l}, []Fate{*outcome.Committed}, now)
		do.dispatch, do.nudge = do.dispatch || settled.dispatch, settled.nudge
	case leaseEnding, leaseAbandoned:
		l.outcome.Kind, l.retry.unsure = OutcomeCompleted, true
	case leaseClaimed, leaseRecorded, leaseLost:
	}
}

// OldestTx is the job whose transaction has been open for longest: it keeps vacuum from its work.
// The zero value: no transactional job runs.
type OldestTx struct {
	ID    int64
	Task  string
	Since time.Time // when its handler was called
}

func (c *core) oldestTx() (oldest OldestTx) {
	for _, l := range c.leases.in[leaseRunning] {
		if c.connected.has(l) && (oldest.ID == 0 || l.since.Before(oldest.Since)) {
			oldest = OldestTx{l.ID, l.Task, l.since}
		}
	}
	return oldest
}
