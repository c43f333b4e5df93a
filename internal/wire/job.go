package wire

import (
	"cmp"
	"time"
)

// Job is one claimed job.
type Job struct {
	Lease

	Task                 string
	Payload              []byte
	Queue, Key           string
	Priority             int16
	Attempt, MaxAttempts int
	Revision             int
	RunAt, CreatedAt     time.Time
	Flags                []string
	Trace                *Trace // of a claimed job, if the worker reads them; nil: it has none
}

// Lease is one claim of one job: the pair (job id, token) that every later statement is guarded by
// (R1, R2).
type Lease struct {
	ID      int64
	QueueID int32 // 0: the job has no queue
	Token   string
}

// CompareJobs orders jobs by (priority, run_at, id), the order in which they are handed out (R14).
func CompareJobs(a, b *Job) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), a.RunAt.Compare(b.RunAt), cmp.Compare(a.ID, b.ID))
}
