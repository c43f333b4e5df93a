package backfill

import (
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// Statement is one statement that a worker has sent to the database. Fields may be added: write it
// with field names, and do not compare two with ==.
type Statement struct {
	_ [0]func() // as the comment says

	// Name says what it is for, like ClaimFree or CompleteJobs; "other" for the few without a name.
	// New versions may add, rename and remove names.
	Name     string
	Duration time.Duration // until its answer was read
	Err      error         // nil: it was done
}

// WithStatementObserver calls observe for every statement of the worker: its claims, outcomes,
// heartbeats and upkeep, but not for what handlers and enqueues send. It is called as an [Observer]
// is. The option can be given several times. Default: none, and nothing is measured.
func WithStatementObserver(observe func(Statement)) WorkerOption {
	return workerOption(func(c *workerConfig) {
		c.require(observe != nil, "WithStatementObserver: the function is nil: leave the option out")
		c.statements = append(c.statements, observe)
	})
}

// observeStatements converts statements for their observers, each behind a guard of its own.
func (w *Worker) observeStatements() func(pg.SentStatement) {
	guards := make([]*guard, len(w.config.statements))
	for i := range guards {
		guards[i] = &guard{what: "WithStatementObserver", limit: userLimit, logger: w.config.logger}
	}
	return func(sent pg.SentStatement) {
		statement := Statement{Name: sent.Name, Duration: sent.Duration, Err: tidy(sent.Err)}
		for i, observe := range w.config.statements {
			guards[i].call(func() { observe(statement) })
		}
	}
}
