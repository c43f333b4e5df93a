package admin

import (
	"context"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// Explanation says how a job stands. All times are the database's.
type Explanation struct {
	At     time.Time `json:"at"`
	Schema string    `json:"schema"`
	JobID  int64     `json:"job_id"`
	// Job is nil if there is no row that could be seen.
	Job *JobFacts `json:"job,omitempty"`
	// Blocker is what keeps the job from running, in the order in which a claim asks, or what it is
	// doing.
	Blocker Blocker `json:"blocker"`
	// Then are the blockers that remain when that one is gone.
	Then []Blocker `json:"then,omitempty"`
	// Notes are what else an operator has to know.
	Notes []string `json:"notes,omitempty"`
	// Past is nil if the job's task has no history, or the job has not ended once.
	Past *Past `json:"past,omitempty"`
	// Missing is what could not be read, so that other blockers may be there.
	Missing []Missing `json:"missing,omitempty"`
}

// JobFacts is the row of a job, without its payload.
type JobFacts struct {
	Task        string    `json:"task"`
	Queue       string    `json:"queue,omitempty"`
	Key         string    `json:"key,omitempty"`
	Priority    int       `json:"priority"`
	RunAt       Time      `json:"run_at"`
	Attempts    int       `json:"attempts"`
	MaxAttempts int       `json:"max_attempts"`
	LastError   string    `json:"last_error,omitempty"`
	Flags       []string  `json:"flags,omitempty"`
	Revision    int       `json:"revision"`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
	LockedAt    Time      `json:"locked_at,omitzero"`
	LockedBy    string    `json:"locked_by,omitempty"`
}

// Blocker is one answer.
type Blocker struct {
	Code Code   `json:"code"`
	Text string `json:"text"` // sentences
	// Remedies do no harm as they stand: one that could has its condition in its text.
	Remedies []Remedy `json:"remedies,omitempty"`

	Until      Time      `json:"until,omitzero"`       // when it ends by itself
	Since      Time      `json:"since,omitzero"`       // since when it is so
	Worker     *Worker   `json:"worker,omitempty"`     // that has locked the job, or its queue
	LockedBy   string    `json:"locked_by,omitempty"`  // what locked_by says
	HolderJob  int64     `json:"holder_job,omitempty"` // the job that holds the queue
	Before     *int64    `json:"before,omitempty"`     // jobs of the queue that are before it
	Ahead      *int64    `json:"ahead,omitempty"`      // due jobs that are before it, up to 10,001
	Rate       float64   `json:"rate,omitempty"`       // jobs in a second
	Sessions   []Session `json:"sessions,omitempty"`   // that have locked something
	Workers    []Worker  `json:"workers,omitempty"`    // that live, or that did last
	Stack      string    `json:"stack,omitempty"`      // where the handler is, as its worker says, for people
	DeadLetter int64     `json:"dead_letter,omitempty"`
	Schemas    []string  `json:"schemas,omitempty"` // that have a job with this id
}

// Code names a kind of blocker. New ones may be added.
type Code string

// The codes of jobs that have a row.
const (
	Running          Code = "running"           // in a Go worker, which lives or is not dead yet
	RunningElsewhere Code = "running_elsewhere" // in a worker that cannot be asked, such as Node's
	Superseded       Code = "superseded"        // it runs, and is not tried again: its key was taken, or removed
	RescuePending    Code = "rescue_pending"    // its worker is dead, and it was not released yet
	Suspect          Code = "suspect"           // it waits for a trial, because workers died that ran it
	LockStale        Code = "lock_stale"        // its lock is older than 4 hours
	TaskRowMissing   Code = "task_row_missing"  // the row of its task is gone
	AttemptsUsed     Code = "attempts_used"     // it has failed for good
	NotDue           Code = "not_due"           //
	QueueRowMissing  Code = "queue_row_missing" // the row of its queue is gone
	QueueHeld        Code = "queue_held"        // by a job that runs
	QueueLocked      Code = "queue_locked"      // and no job of it is
	FlagForbidden    Code = "flag_forbidden"    // by all workers that serve it
	Paused           Code = "paused"            // its task, or its queue
	RowLocked        Code = "row_locked"        // its row, or its queue's, by a session
	TableLocked      Code = "table_locked"      // by a session
	NoWorker         Code = "no_worker"         // none is connected
	NotServed        Code = "not_served"        // no worker that lives knows its task
	SlotsBusy        Code = "slots_busy"        // of all workers that serve it
	Behind           Code = "behind"            // others are due before it
	Next             Code = "next"              // nothing is in its way
	PeersUnknown     Code = "peers_unknown"     // Node workers are connected, which do not say what they serve
)

// The codes of ids without a row.
const (
	Ended        Code = "ended"         // as its history says: completed, cancelled, removed, or failed for good
	Gone         Code = "gone"          // done, removed, or rolled back
	NotGivenOut  Code = "not_given_out" // no job has had this id yet
	NotCommitted Code = "not_committed" // perhaps: a transaction is open that may have made it
	DeadLetter   Code = "dead_letter"   // it has failed for good
	OtherSchema  Code = "other_schema"  // a job of another schema has this id
	Unseen       Code = "unseen"        // the role may not see it
)

// Remedy is what an operator can do.
type Remedy struct {
	Text    string `json:"text"`
	Command string `json:"command,omitempty"` // for a shell; or SQL, if it ends with a semicolon
}

// Worker is a Go worker, as its row says.
type Worker struct {
	ID        string    `json:"id"`
	Host      string    `json:"host"`
	PID       int       `json:"pid"`
	Version   string    `json:"version,omitempty"`
	Heartbeat time.Time `json:"heartbeat"`
	Died      Time      `json:"died,omitzero"`
	Slots     int       `json:"slots"`
	Running   int       `json:"running"`
	Tasks     []string  `json:"tasks,omitempty"`
}

// Session is a session of the server's that has a transaction open.
type Session struct {
	PID         int       `json:"pid"`
	Role        string    `json:"role"`
	Application string    `json:"application_name"`
	State       string    `json:"state"`
	Since       time.Time `json:"since"`          // of its transaction
	What        string    `json:"what,omitempty"` // it has locked
}

// Missing is something that could not be read, and why.
type Missing struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Why says why a job does not run, or what it is doing. An id without a job has an answer, too:
// Job is nil then. A job that the principal may not read is ErrNotFound. It waits for no lock, and
// takes 5 seconds at most once it has a connection.
func (a *Admin) Why(ctx context.Context, jobID int64) (*Explanation, error) {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout+answerTimeout)
	defer cancel()
	var explanation *Explanation
	var shown *redaction
	var began time.Time
	err := pg.Read(ctx, a.pool, a.schema, func(r *pg.Reader) error {
		began = time.Now()
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		e := &explaining{reading: reading{ctx: ctx, reader: r}, admin: a, id: jobID}
		if err := e.explain(); err != nil {
			return err
		}
		explanation, shown = e.explanation(), e.shown
		return nil
	})
	if err == nil {
		ctx, cancel := context.WithDeadline(ctx, began.Add(answerTimeout))
		defer cancel()
		a.askWhere(ctx, explanation, shown)
	}
	return explanation, err
}
