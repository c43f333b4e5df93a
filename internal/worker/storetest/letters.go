package storetest

import (
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

var never = worker.Outcome{Kind: worker.OutcomeExhausted, Text: "never"}

// Dead letters.
var letterCases = map[string]func(*rig){
	"a job that fails for good becomes a dead letter, as it was": func(r *rig) {
		for reason, outcome := range map[worker.Reason]worker.Outcome{
			worker.ReasonExhausted:   {Kind: worker.OutcomeFailed, Text: "no", Delay: time.Hour},
			worker.ReasonPermanent:   {Kind: worker.OutcomeExhausted, Text: "no"},
			worker.ReasonInterrupted: {Kind: worker.OutcomeExhausted, Text: "no", Reason: worker.ReasonInterrupted},
		} {
			payload := `{"b": 1,  "a": "\u0000", "b": 2}`
			id := r.add(wire.Job{Queue: "q", Key: string(reason), Priority: 3, MaxAttempts: 2, Attempt: 1, Payload: []byte(payload)})
			fates := r.fail(outcome, r.only())
			r.kinds(string(reason), fates, worker.FateExhausted)
			if fates[0].Due != 0 {
				r.t.Errorf("%s: due in %v, want never", reason, fates[0].Due)
			}
			r.free("q")
			r.letter(id, Letter{
				Queue: "q", Key: string(reason), Priority: 3, Attempts: 2, MaxAttempts: 2, Payload: payload, Reason: reason, LastError: "no",
			})
		}
	},
	"a job with attempts left becomes none": func(r *rig) {
		id := r.add(wire.Job{MaxAttempts: 2})
		r.kinds("fail", r.fail(worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Delay: time.Hour}, r.only()), worker.FateRecorded)
		r.row(id, &Row{Attempts: 1, MaxAttempts: 2, LastError: "no", Wait: time.Hour})
		r.noLetter(id)
	},
	"a peer that changes the attempts decides whether a job becomes one": func(r *rig) {
		raised, lowered := r.add(wire.Job{}), r.add(wire.Job{Priority: 1, MaxAttempts: 1})
		jobs := r.claim(2)
		r.Change(raised, 25, jobs[0].RunAt)
		r.Change(lowered, 0, jobs[1].RunAt)
		fates := r.fail(worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Delay: time.Hour}, jobs...)
		r.kinds("fail", fates, worker.FateExhausted, worker.FateRecorded)
		r.letter(raised, Letter{Attempts: 25, Reason: worker.ReasonExhausted, LastError: "no"})
		r.noLetter(lowered)
	},
	"a failure that replaces the payload replaces it in the dead letter": func(r *rig) {
		id := r.add(wire.Job{Payload: []byte("[1,2]"), MaxAttempts: 1})
		r.fail(worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Payload: []byte("[2]")}, r.only())
		r.letter(id, Letter{Attempts: 1, MaxAttempts: 1, Payload: "[2]", Reason: worker.ReasonExhausted, LastError: "no"})
	},
	"names and keys of any length fit, and so does one key twice": func(r *rig) {
		queue, key := strings.Repeat("q", 128), strings.Repeat("k", 512)
		first := r.add(wire.Job{Queue: queue, Key: key, RunAt: time.Now().Add(-time.Hour)})
		r.fail(never, r.only())
		second := r.add(wire.Job{Key: key, Task: "b"})
		third := r.add(wire.Job{Priority: 1})
		r.kinds("fail", r.fail(never, r.claim(2)...), worker.FateExhausted, worker.FateExhausted)
		r.letter(first, Letter{Queue: queue, Key: key, Attempts: 1, Reason: worker.ReasonPermanent, LastError: "never"})
		r.letter(second, Letter{Task: "b", Key: key, Attempts: 1, Reason: worker.ReasonPermanent, LastError: "never"})
		r.letter(third, Letter{Priority: 1, Attempts: 1, Reason: worker.ReasonPermanent, LastError: "never"})
	},
	"a job that dies again is the same dead letter": func(r *rig) {
		first := r.add(wire.Job{Key: "k", Payload: []byte("[1]")})
		r.fail(worker.Outcome{Kind: worker.OutcomeExhausted, Text: "first"}, r.only())
		second := r.Requeue(first)
		r.noLetter(first)
		r.fail(worker.Outcome{Kind: worker.OutcomeExhausted, Text: "second", Payload: []byte("[2]")}, r.only())
		r.noLetter(first)
		want := Letter{
			Key: "k", Attempts: 1, Payload: "[2]", Reason: worker.ReasonPermanent, Count: 2, LastError: "second", FirstError: "first",
		}
		r.letter(second, want)
		r.Requeue(second)
		victim := r.other()
		third := victim.only()
		r.Delete(third.ID) // not failed
		r.sweep()
		r.noLetter(second)
		r.noLetter(third.ID)
	},
	"a job waits while somebody has the dead letter locked that it was requeued from": func(r *rig) {
		first := r.add(wire.Job{})
		r.fail(never, r.only())
		again := r.Requeue(first)
		other := r.add(wire.Job{Priority: 1})
		jobs := r.claim(2)
		unlock := r.LockLetter(again)
		r.kinds("fail", r.fail(never, jobs...), worker.FateBusy, worker.FateExhausted)
		r.row(again, &Row{Attempts: 1, LockedBy: jobs[0].Token})
		r.letter(other, Letter{Priority: 1, Attempts: 1, Reason: worker.ReasonPermanent, LastError: "never"})
		unlock()
		r.kinds("fail", r.fail(never, jobs[0]), worker.FateExhausted)
		r.letter(again, Letter{Attempts: 1, Reason: worker.ReasonPermanent, Count: 2, LastError: "never"})
	},
	"a repeated outcome finds the dead letter that it has made, and no other": func(r *rig) {
		r.add(wire.Job{})
		job := r.only()
		r.fail(never, job)
		r.kinds("again", r.fail(never, job), worker.FateLost)
		again := func(text string) []worker.Fate {
			outcome := worker.Outcome{Kind: worker.OutcomeExhausted, Text: text, Reason: worker.ReasonPermanent}
			return r.fates(r.store.Fail(r.ctx(), []worker.Ended{{Lease: job.Lease, Outcome: outcome, Again: true}}))
		}
		r.kinds("again, and it may have been recorded", again("never"), worker.FateExhausted)
		r.kinds("another outcome", again("something else"), worker.FateLost)
	},
	"what a dead worker had becomes a dead letter if that worker made those": func(r *rig) {
		without := r.without()
		left := r.add(wire.Job{MaxAttempts: 1})
		without.claim(1)
		made := r.add(wire.Job{MaxAttempts: 1})
		with := r.other()
		with.claim(1)
		forgotten := r.add(wire.Job{MaxAttempts: 1})
		gone := r.without()
		gone.claim(1)
		r.declare(without)
		r.declare(with)
		r.Forget(gone.id)
		reasons := make(map[int64]worker.Reason)
		for _, dead := range []*rig{without, with, gone} {
			for _, job := range r.rescue(dead).Dead {
				reasons[job.ID] = job.Reason
			}
		}
		want := map[int64]worker.Reason{left: "", made: worker.ReasonCrashed, forgotten: worker.ReasonCrashed}
		if diff := cmp.Diff(want, reasons); diff != "" {
			r.t.Errorf("reasons (-want +got):\n%s", diff)
		}
		r.row(left, &Row{Attempts: 1, MaxAttempts: 1, LastError: worker.ErrCrashed.Error()})
		for _, id := range []int64{made, forgotten} {
			r.letter(id, Letter{Attempts: 1, MaxAttempts: 1, Reason: worker.ReasonCrashed, LastError: worker.ErrCrashed.Error()})
		}
	},
	"a rescue waits for a dead letter that somebody has locked": func(r *rig) {
		first := r.add(wire.Job{MaxAttempts: 1})
		r.fail(never, r.only())
		again := r.Requeue(first)
		victim := r.claimed()
		r.declare(victim)
		unlock := r.LockLetter(again)
		if rescued := r.rescue(victim); len(rescued.Dead)+len(rescued.Settled) > 0 {
			r.t.Errorf("rescued %+v, want nothing", rescued)
		}
		unlock()
		if rescued := r.rescue(victim); len(rescued.Dead) != 1 || len(rescued.Settled) != 1 {
			r.t.Errorf("rescued %+v, want a dead job", rescued)
		}
		r.letter(again, Letter{
			Attempts: 1, MaxAttempts: 1, Reason: worker.ReasonCrashed, Count: 2, LastError: worker.ErrCrashed.Error(), FirstError: "never",
		})
	},
	"a success deletes the dead letters of its task and key": func(r *rig) {
		dead := func(job wire.Job) int64 {
			id := r.add(job)
			r.fail(never, r.only())
			return id
		}
		mine, mineAgain := dead(wire.Job{Key: "k"}), dead(wire.Job{Key: "k"})
		otherTask, otherKey, none := dead(wire.Job{Task: "b", Key: "k"}), dead(wire.Job{Key: "l"}), dead(wire.Job{})
		r.add(wire.Job{})
		r.complete(r.only())
		held := dead(wire.Job{Key: "k"})
		r.add(wire.Job{Key: "k"})
		r.add(wire.Job{Priority: 1})
		jobs := r.claim(2)
		unlock := r.LockLetter(held)
		r.kinds("complete", r.complete(jobs...), worker.FateRecorded, worker.FateRecorded)
		unlock()
		r.noLetter(mine)
		r.noLetter(mineAgain)
		for _, id := range []int64{otherTask, otherKey, none, held} {
			if _, ok := r.Letter(id); !ok {
				r.t.Errorf("the dead letter of job %d is gone", id)
			}
		}
	},
	"a sweep makes dead letters of what others have left, an hour after it failed": func(r *rig) {
		add := func(task string) int64 {
			return r.Add(wire.Job{Task: task, Queue: "q", Key: task, RunAt: time.Now().Add(-24 * time.Hour)})
		}
		old, young, foreign, removed, running := add("a"), r.add(wire.Job{}), add("foreign"), r.add(wire.Job{}), r.add(wire.Job{})
		r.Exhaust(old, "no", 61*time.Minute)
		r.Exhaust(young, "no", 59*time.Minute)
		r.Exhaust(foreign, "no", 2*time.Hour)
		r.Exhaust(removed, "", 2*time.Hour)
		r.Exhaust(running, "no", 2*time.Hour)
		r.Relock(running, "worker.of.node")
		held := r.add(wire.Job{})
		r.Exhaust(held, "no", 2*time.Hour)
		unlock := r.LockJob(held)
		swept := r.sweep()
		if !swept.Done || len(swept.Dead) != 1 || swept.Dead[0].ID != old || swept.Dead[0].Reason != worker.ReasonSwept || swept.Dead[0].Task != "a" {
			r.t.Errorf("swept %+v, want job %d", swept, old)
		}
		unlock()
		r.letter(old, Letter{Queue: "q", Key: "a", Attempts: 25, Reason: worker.ReasonSwept, LastError: "no"})
		for _, id := range []int64{young, foreign, removed, running} {
			r.noLetter(id)
		}
		if swept := r.sweep(); len(swept.Dead) != 1 || swept.Dead[0].ID != held {
			r.t.Errorf("then swept %+v, want job %d", swept, held)
		}
	},
	"a sweep leaves the tasks of workers without dead letters alone": func(r *rig) {
		without := r.without("c")
		id := r.Add(wire.Job{Task: "c", RunAt: time.Now().Add(-24 * time.Hour)})
		r.Exhaust(id, "no", 2*time.Hour)
		if swept := r.sweep(); len(swept.Dead) > 0 {
			r.t.Errorf("swept %+v", swept)
		}
		serving := r.serving("c")
		if err := serving.store.Retire(r.ctx(), serving.id, true); err != nil {
			r.t.Fatal(err)
		}
		if err := r.store.Retire(r.ctx(), r.id, true); err != nil {
			r.t.Fatal(err)
		}
		if swept := without.sweep(); len(swept.Dead) != 1 { // it sweeps for others
			r.t.Errorf("swept %+v, want job %d", swept, id)
		}
	},
	"a sweep gives a job back to the dead letter that it was requeued from": func(r *rig) {
		first := r.add(wire.Job{RunAt: time.Now().Add(-24 * time.Hour)})
		r.fail(worker.Outcome{Kind: worker.OutcomeExhausted, Text: "first"}, r.only())
		again := r.Requeue(first)
		r.Exhaust(again, "by Node", 2*time.Hour)
		unlock := r.LockLetter(again)
		if swept := r.sweep(); len(swept.Dead) > 0 {
			r.t.Errorf("swept %+v while the dead letter is locked", swept)
		}
		unlock()
		r.sweep()
		r.letter(again, Letter{Attempts: 25, Reason: worker.ReasonSwept, Count: 2, LastError: "by Node", FirstError: "first"})
	},
	"a sweep deletes the dead letters whose requeued jobs are gone": func(r *rig) {
		succeeds, waits, stays := r.add(wire.Job{}), r.add(wire.Job{Priority: 1}), r.add(wire.Job{Priority: 2})
		r.fail(never, r.claim(3)...)
		again := r.Requeue(succeeds)
		r.complete(r.only())
		open := r.Requeue(waits)
		r.sweep()
		unlock := r.LockLetter(open)
		unlock()
		r.fail(never, r.only())
		r.letter(open, Letter{Priority: 1, Attempts: 1, Reason: worker.ReasonPermanent, Count: 2, LastError: "never"})
		r.letter(stays, Letter{Priority: 2, Attempts: 1, Reason: worker.ReasonPermanent, LastError: "never"})
		r.noLetter(again)
		r.noLetter(succeeds)
	},
	"old dead letters are deleted": func(r *rig) {
		old, young, held := r.add(wire.Job{}), r.add(wire.Job{Priority: 1}), r.add(wire.Job{Priority: 2})
		r.fail(never, r.claim(3)...)
		r.AgeLetter(old, 25*time.Hour)
		r.AgeLetter(young, 23*time.Hour)
		r.AgeLetter(held, 25*time.Hour)
		unlock := r.LockLetter(held)
		expire := func(want int) {
			r.t.Helper()
			expired, err := r.store.Expire(r.ctx(), 24*time.Hour)
			if err != nil || !expired.Done || expired.Letters != want {
				r.t.Errorf("expired %+v, %v, want %d", expired, err, want)
			}
		}
		expire(1)
		r.noLetter(old)
		unlock()
		expire(1)
		expire(0)
		if _, ok := r.Letter(young); !ok {
			r.t.Error("a young dead letter is gone")
		}
	},
	"age leaves a dead letter alone whose job was requeued and waits": func(r *rig) {
		old := r.add(wire.Job{})
		r.fail(never, r.claim(1)...)
		r.AgeLetter(old, 25*time.Hour)
		again := r.Requeue(old)
		expired, err := r.store.Expire(r.ctx(), 24*time.Hour)
		if err != nil || !expired.Done || expired.Letters != 0 {
			r.t.Errorf("expired %+v, %v, want none", expired, err)
		}
		r.fail(never, r.claim(1)...)
		if letter, ok := r.Letter(again); !ok || letter.Count != 2 {
			r.t.Errorf("when it fails again it is %+v, want the same dead letter", letter)
		}
	},
}
