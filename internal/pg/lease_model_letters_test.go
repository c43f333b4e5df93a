package pg_test

import "github.com/backfillhq/go/internal/worker"

// Dead letters in the model.

// leaseLetter is a dead letter.
type leaseLetter struct {
	Key                   string
	Request               int
	Reason                worker.Reason
	Attempts, MaxAttempts int
	Count                 int
	LastError, FirstError string
	Requeued              int64 // the job that it was requeued as; 0: none
}

// bury makes a dead letter of a job. One that was requeued is the same dead letter.
func (m *leaseModel) bury(id int64, reason worker.Reason, text string) {
	letter := &leaseLetter{FirstError: text}
	for old, l := range m.letters {
		if l.Requeued == id {
			letter = l
			delete(m.letters, old)
		}
	}
	j := m.jobs[id]
	letter.Key, letter.Request, letter.Attempts, letter.LastError = j.Key, j.Request, j.Attempts, text
	letter.MaxAttempts = j.MaxAttempts
	letter.Reason, letter.Requeued = reason, 0
	letter.Count++
	m.letters[id] = letter
	delete(m.jobs, id)
}

// clear deletes the dead letters of a key, because a job with it has succeeded.
func (m *leaseModel) clear(key string) {
	for id, letter := range m.letters {
		if key != "" && letter.Key == key {
			delete(m.letters, id)
		}
	}
}

// makesLetters reports whether a worker makes dead letters, or any other if it has no row.
func (m *leaseModel) makesLetters(id string) bool {
	if !m.gone[id] {
		return m.makes[id]
	}
	return m.anyMakesLetters()
}

func (m *leaseModel) anyMakesLetters() bool {
	for id := range m.makes {
		if m.makes[id] && !m.gone[id] {
			return true
		}
	}
	return false
}

// requeue notes that a dead letter was sent back as a job.
func (m *leaseModel) requeue(id, again int64, job leaseJob) {
	m.letters[id].Requeued = again
	m.jobs[again] = &job
}

// buryFailed is what a sweep does with jobs that were left without attempts, and with dead letters
// whose requeued jobs are gone (R27).
func (m *leaseModel) buryFailed(failed []int64) {
	for _, id := range failed {
		m.bury(id, worker.ReasonSwept, m.jobs[id].LastError)
	}
	for id, letter := range m.letters {
		if letter.Requeued != 0 && m.jobs[letter.Requeued] == nil {
			delete(m.letters, id)
		}
	}
}

// failed are the jobs that a sweep makes dead letters of, if enough time has passed.
func (m *leaseModel) failed() []int64 {
	if !m.anyMakesLetters() {
		return nil
	}
	return m.find(func(j *leaseJob) bool {
		return j.Lock.By == "" && !j.Canceled && j.Attempts >= j.MaxAttempts && j.LastError != ""
	})
}
