package worker_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

const reply = worker.ReplyPrefix + "0123456789abcdef"

// Whoever asks where a job is has an answer from the worker that has it, and from no other; at most
// one in a second, because each stops all goroutines for a moment.
func TestAnswersWhereAJobIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		done := make(chan struct{})
		handle := func(context.Context, *wire.Job) worker.Outcome {
			waitsInTask(done)
			return completed
		}
		ids := db.add(2, wire.Job{Task: "task"})
		r := newRig(t, db, handle, concurrency(1))
		r.pass(time.Minute)
		ask := func(question string) {
			db.notify(worker.Notification{Kind: worker.NotifyAsk, Payload: question})
			r.pass(100 * time.Millisecond)
		}
		said := func() (answers []worker.Answer) {
			db.mu.Lock()
			defer db.mu.Unlock()
			for _, text := range db.answers {
				channel, body, _ := strings.Cut(text, " ")
				var answer worker.Answer
				if err := json.Unmarshal([]byte(body), &answer); err != nil || channel != reply {
					t.Errorf("on %s: %q, %v", channel, body, err)
				}
				answers = append(answers, answer)
			}
			db.answers = nil
			return answers
		}
		question := func(id int64, reply string) string {
			text, _ := json.Marshal(worker.Asked{Job: id, Reply: reply})
			return string(text)
		}
		ask(question(ids[0], reply))
		answers := said()
		if len(answers) != 1 || answers[0].Waits || answers[0].Running < time.Minute.Microseconds()/2 || !strings.Contains(answers[0].Stack, "waitsInTask") {
			t.Fatalf("answers %+v", answers)
		}
		for range 5 {
			ask(question(ids[0], reply))
		}
		if n := len(said()); n != 0 {
			t.Errorf("%d answers at once", n)
		}
		r.pass(time.Second)
		if n := len(said()); n != 1 {
			t.Errorf("%d answers in the next second", n)
		}
		r.pass(time.Minute)
		said()
		for _, other := range []string{question(ids[1]+1000, reply), question(ids[0], "jobs:insert"), question(ids[0], reply+"; x"), "{", "", `{"job":"1"}`} {
			ask(other)
			if answers := said(); len(answers) != 0 {
				t.Errorf("%s: answers %+v", other, answers)
			}
		}
		close(done)
	})
}

// A notification carries 8,000 bytes at most, so a longer stack is cut.
func TestAnswersFitIntoANotification(t *testing.T) {
	t.Parallel()
	for _, stack := range []string{"", strings.Repeat("main.f\n\t<x>.go:1\n", 2000), strings.Repeat("\x01", 5000)} {
		text := worker.Answer{Worker: "pool-x", Running: 1, Stack: stack}.Encode()
		var answer worker.Answer
		if err := json.Unmarshal([]byte(text), &answer); err != nil || len(text) > 7999 || stack != "" && answer.Stack == "" {
			t.Errorf("%d bytes, %v", len(text), err)
		}
	}
}
