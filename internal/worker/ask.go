package worker

import (
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"time"
)

// Asked is what an operator asks all workers: where the handler of a job is, or what jobs that have
// ended have left behind. Reply is the channel for the answer: of the worker that has the job, or of
// each.
type Asked struct {
	Job   int64  `json:"job,omitempty"`
	Leaks bool   `json:"leaks,omitempty"`
	Reply string `json:"reply"`
}

// Answer is what the worker says. How long the job has run, its own clock tells.
type Answer struct {
	Worker  string `json:"worker"`
	Waits   bool   `json:"waits,omitempty"` // for a slot: it has not started
	Running int64  `json:"running_us,omitempty"`
	Stack   string `json:"stack,omitempty"` // for people, and perhaps cut
	Leaks   []Leak `json:"leaks,omitempty"` // those of most goroutines first, and perhaps not all
}

// ReplyPrefix begins the channels of answers. Nobody can have a worker notify another one.
const ReplyPrefix = "backfill:answer:"

var replyChannel = regexp.MustCompile(`^` + ReplyPrefix + `[0-9a-f]{16,32}$`)

const (
	// askEvery is the time between two answers: each stops all goroutines for a moment.
	askEvery = time.Second
	// askTimeout is how long an answer may take to be sent.
	askTimeout = 2 * time.Second
	// mostAnswer is less than the 8,000 bytes that a notification may have.
	mostAnswer = 7900
	// mostAsks is how many questions wait at most. Whoever asks does not wait for long.
	mostAsks = 4
)

// ask takes a question, unless there are too many.
func (w *Worker) ask(payload string) {
	var asked Asked
	if json.Unmarshal([]byte(payload), &asked) != nil || !replyChannel.MatchString(asked.Reply) {
		return
	}
	select {
	case w.asks <- asked:
	default:
	}
}

// answerAsks answers questions about jobs of this worker until ctx ends.
func (w *Worker) answerAsks(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case asked := <-w.asks:
			answer, ok := w.answer(ctx, asked)
			if !ok {
				continue
			}
			sending, cancel := context.WithTimeout(ctx, askTimeout)
			_ = w.store.Answer(sending, asked.Reply, answer.Encode()) // else who asks says that there was no answer
			cancel()
			sleep(ctx, askEvery)
		}
	}
}

// answer reports false if this worker has nothing to say.
func (w *Worker) answer(ctx context.Context, asked Asked) (Answer, bool) {
	if asked.Leaks {
		leaks := w.leaks(ctx)
		return Answer{Worker: w.workerID(), Leaks: leaks}, true
	}
	return w.where(asked.Job)
}

// where reports false if this worker does not have the job.
func (w *Worker) where(job int64) (answer Answer, ok bool) {
	w.mu.Lock()
	all := w.core.leases.all(leaseClaimed, leaseRunning, leaseEnding, leaseAbandoned)
	at := slices.IndexFunc(all, func(l *lease) bool { return l.ID == job })
	if at < 0 {
		w.mu.Unlock()
		return answer, false
	}
	l := all[at]
	answer = Answer{Worker: l.workerID, Waits: !l.handling}
	if l.handling {
		answer.Running = time.Since(l.since).Microseconds()
	}
	w.mu.Unlock()
	if !answer.Waits {
		answer.Stack = stacksOf(l).String()
	}
	return answer, true
}

// Encode writes an answer that a notification can carry.
func (a Answer) Encode() string {
	for {
		text, err := json.Marshal(a)
		switch {
		case err != nil: // it consists of texts and numbers
			return ""
		case len(text) <= mostAnswer:
			return string(text)
		case len(a.Leaks) > 0:
			a.Leaks = a.Leaks[:len(a.Leaks)-1]
			continue
		}
		a.Stack = a.Stack[:len(a.Stack)*9/10-len("\n…")] + "\n…"
	}
}
