package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// empty works off what is left, so that the next case starts anew.
func (r *rig) empty() {
	r.t.Helper()
	for jobs := r.claim(5); len(jobs) > 0; jobs = r.claim(5) {
		r.complete(jobs...)
	}
}

// What the ends of leases leave.
var endCases = map[string]func(*rig){
	"a completed job is gone": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		r.kinds("complete", r.complete(r.only()), worker.FateRecorded)
		r.row(id, nil)
		r.free("q")
	},
	"a failure is recorded": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		fates := r.fail(worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Delay: time.Hour}, r.only())
		r.kinds("fail", fates, worker.FateRecorded)
		if due := fates[0].Due; due < 59*time.Minute || due > time.Hour {
			r.t.Errorf("due in %v, want an hour", due)
		}
		r.row(id, &Row{Attempts: 1, LastError: "no", Wait: time.Hour})
		r.free("q")
	},
	"a failure can replace the payload": func(r *rig) {
		id := r.add(wire.Job{Payload: []byte("[1,2]")})
		r.fail(worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Payload: []byte("[2]"), Delay: time.Hour}, r.only())
		r.row(id, &Row{Attempts: 1, LastError: "no", Payload: "[2]", Wait: time.Hour})
	},
	"the delay of a failure is added to a run_at that a peer has moved": func(r *rig) {
		id := r.add(wire.Job{})
		job := r.only()
		r.Change(id, 1, time.Now().Add(2*time.Hour))
		r.fail(worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Delay: time.Hour}, job)
		r.row(id, &Row{Attempts: 1, LastError: "no", Wait: 3 * time.Hour})
	},
	"a job that a peer has put off for thousands of years is not due soon": func(r *rig) {
		r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
			id := r.add(wire.Job{})
			job := r.only()
			r.Change(id, 1, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))
			fates := end(job)
			r.kinds(name, fates, worker.FateRecorded)
			if due := fates[0].Due; (name == "fail" || name == "return") && due < 50*365*24*time.Hour {
				r.t.Errorf("%s: due in %v", name, due)
			}
			r.Delete(id)
		})
	},
	"attempts that a peer has changed decide about no lease, and are not refunded": func(r *rig) {
		r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
			id := r.add(wire.Job{Attempt: 2})
			job := r.only()
			r.Change(id, 7, job.RunAt)
			r.kinds(name, end(job), worker.FateRecorded)
			if row, ok := r.Job(id); ok && row.Attempts != 7 {
				r.t.Errorf("%s: %d attempts, want 7", name, row.Attempts)
			}
			r.Delete(id)
			id = r.add(wire.Job{})
			job = r.only()
			r.Change(id, 0, job.RunAt)
			r.kinds(name, end(job), worker.FateRecorded)
			if row, ok := r.Job(id); ok && row.Attempts != 0 {
				r.t.Errorf("%s: %d attempts, want 0", name, row.Attempts)
			}
			r.Delete(id)
		})
	},
	"a peer that raises attempts to the limit exhausts": func(r *rig) {
		r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
			want := worker.FateExhausted
			if name == "complete" {
				want = worker.FateRecorded
			}
			id := r.add(wire.Job{})
			job := r.only()
			r.Change(id, 25, job.RunAt)
			fates := end(job)
			r.kinds(name, fates, want)
			if fates[0].Due != 0 && name != "complete" {
				r.t.Errorf("%s: due in %v, want never", name, fates[0].Due)
			}
			r.Delete(id)
		})
	},
	"a permanent failure lowers no attempts": func(r *rig) {
		id := r.add(wire.Job{MaxAttempts: 3})
		job := r.only()
		r.Change(id, 5, job.RunAt)
		r.leave(worker.Outcome{Kind: worker.OutcomeExhausted, Text: "never"}, job)
		r.row(id, &Row{Attempts: 5, MaxAttempts: 3, LastError: "never"})
	},
	"the last failure exhausts": func(r *rig) {
		id := r.add(wire.Job{MaxAttempts: 1})
		fates := r.leave(worker.Outcome{Kind: worker.OutcomeFailed, Text: "no"}, r.only())
		r.kinds("fail", fates, worker.FateExhausted)
		if fates[0].Due != 0 {
			r.t.Errorf("due in %v, want never", fates[0].Due)
		}
		r.row(id, &Row{Attempts: 1, MaxAttempts: 1, LastError: "no"})
	},
	"a permanent failure exhausts": func(r *rig) {
		id := r.add(wire.Job{})
		r.kinds("fail", r.leave(worker.Outcome{Kind: worker.OutcomeExhausted, Text: "never"}, r.only()), worker.FateExhausted)
		r.row(id, &Row{Attempts: 25, LastError: "never"})
	},
	"a job that is given back keeps its place and its attempts": func(r *rig) {
		id := r.add(wire.Job{Queue: "q", Attempt: 2})
		fates := r.release(worker.Outcome{Kind: worker.OutcomeReturned}, r.only())
		r.kinds("return", fates, worker.FateRecorded)
		if fates[0].Due <= 0 || fates[0].Due > time.Second {
			r.t.Errorf("due in %v, want at once", fates[0].Due)
		}
		r.row(id, &Row{Attempts: 2})
		r.free("q")
	},
	"a job that is given back is first in line again": func(r *rig) {
		first := r.add(wire.Job{RunAt: time.Now().Add(-time.Hour)})
		r.release(worker.Outcome{Kind: worker.OutcomeReturned}, r.only())
		second := r.add(wire.Job{RunAt: time.Now().Add(-time.Minute)})
		r.ids("claimed", r.claim(2), first, second)
	},
	"a keyed job that nobody has touched ends like any other": func(r *rig) {
		r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
			id := r.add(wire.Job{Key: name})
			r.kinds(name, end(r.only()), worker.FateRecorded)
			if _, ok := r.Job(id); ok != (name != "complete") {
				r.t.Errorf("%s: the job is there: %v", name, ok)
			}
			r.Delete(id)
		})
	},
	"a job that ends frees its queue only if its own claim has it": func(r *rig) {
		number := r.claims
		r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
			first, second := r.add(wire.Job{Queue: name}), r.add(wire.Job{Queue: name})
			number++
			r.claims = 16*number - 1 // the number of the other claim is a prefix of this one's
			job := r.only()
			r.ids("claimed", []*wire.Job{job}, first)
			r.Age(first, 5*time.Hour)
			unlock := r.LockJob(first)
			if swept := r.sweep(); swept.Jobs != 0 || swept.Queues != 1 {
				r.t.Errorf("a sweep released %d jobs and %d queues, want the queue alone", swept.Jobs, swept.Queues)
			}
			unlock()
			r.claims = number - 1
			next := r.only()
			r.ids("claimed", []*wire.Job{next}, second)
			r.kinds(name, end(job), worker.FateRecorded)
			if by := r.QueueLock(name); by != claimOf(next) {
				r.t.Errorf("%s: the queue is locked by %q, want %q", name, by, claimOf(next))
			}
			r.complete(next)
			r.Delete(first)
		})
	},
	"a snoozed job waits, and its attempt is not charged": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		fates := r.release(worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: time.Hour}, r.only())
		r.kinds("snooze", fates, worker.FateRecorded)
		r.row(id, &Row{Attempts: 0, Wait: time.Hour})
		r.free("q")
	},
	"a job on its last attempt is given back to be tried": func(r *rig) {
		id := r.add(wire.Job{MaxAttempts: 1})
		r.kinds("return", r.release(worker.Outcome{Kind: worker.OutcomeReturned}, r.only()), worker.FateRecorded)
		r.row(id, &Row{Attempts: 0, MaxAttempts: 1})
	},
	"a job that was superseded or removed while it ran is gone": func(r *rig) {
		for what, change := range map[string]func(int64){"superseded": r.Supersede, "removed": r.Remove} {
			r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
				for _, most := range []int{1, 25} {
					id := r.add(wire.Job{Key: fmt.Sprint(what, name, most), MaxAttempts: most, Priority: -1, Queue: "q"})
					job := r.only()
					change(id)
					want := worker.FateSuperseded
					if name == "complete" {
						want = worker.FateRecorded
					}
					r.kinds(what+", "+name, end(job), want)
					r.row(id, nil)
					r.free("q")
				}
			})
		}
	},
	"a fate says what is first in line in the queue": func(r *rig) {
		for task, want := range map[string]worker.NextInQueue{"b": worker.NextOwn, "foreign": worker.NextForeign, "": worker.NextNone} {
			r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
				queue := "of " + task + name
				r.add(wire.Job{Queue: queue})
				job := r.only()
				if task != "" {
					next := r.Add(wire.Job{Task: task, Queue: queue, RunAt: time.Now().Add(-time.Second)})
					defer r.Delete(next)
				} else {
					r.Add(wire.Job{Task: "b", Queue: queue, RunAt: time.Now().Add(time.Hour)})
				}
				// A job that is given back is first in line itself, after the statement.
				if fates := end(job); fates[0].Next != want {
					r.t.Errorf("%s, next of task %q: %v, want %v", name, task, fates[0].Next, want)
				}
				r.empty()
			})
		}
	},
	"first in line in a queue is what has the least (priority, run_at)": func(r *rig) {
		at := time.Now().Add(-time.Minute)
		for what, pair := range map[string][2]wire.Job{
			"priority": {{Priority: 1, RunAt: at.Add(-time.Hour)}, {Priority: 0, RunAt: at}},
			"run_at":   {{RunAt: at.Add(time.Second)}, {RunAt: at}},
		} {
			for want, tasks := range map[worker.NextInQueue][2]string{
				worker.NextOwn: {"foreign", "b"}, worker.NextForeign: {"b", "foreign"},
			} {
				r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
					queue := fmt.Sprint(what, want, name)
					ends := r.add(wire.Job{Queue: queue, Priority: -9})
					job := r.only()
					var others []int64
					for i, like := range pair {
						like.Queue, like.Task = queue, tasks[i]
						others = append(others, r.add(like))
					}
					if fates := end(job); fates[0].Next != want {
						r.t.Errorf("%s by %s: next is %v, want %v", name, what, fates[0].Next, want)
					}
					for _, id := range append(others, ends) {
						r.Delete(id)
					}
				})
			}
		}
	},
	"fates are parallel to the leases": func(r *rig) {
		r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
			gone, fine, held := r.add(wire.Job{}), r.add(wire.Job{Priority: 1}), r.add(wire.Job{Priority: 2})
			jobs := r.claim(3)
			r.ids("claimed", jobs, gone, fine, held)
			r.Delete(gone)
			unlock := r.LockJob(held)
			r.kinds(name, end(jobs...), worker.FateLost, worker.FateRecorded, worker.FateBusy)
			unlock()
			r.kinds(name, r.complete(jobs[2]), worker.FateRecorded)
			r.Delete(fine)
		})
	},
	"a row that somebody has locked is busy, and stays ours": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		job := r.only()
		unlock := r.LockJob(id)
		r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
			r.kinds(name, end(job), worker.FateBusy)
		})
		unlock()
		r.row(id, &Row{Attempts: 1, LockedBy: job.Token})
		r.kinds("complete", r.complete(job), worker.FateRecorded)
	},
	"a queue whose row somebody has locked keeps its own job busy, and no other": func(r *rig) {
		r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
			id, fine := r.add(wire.Job{Queue: name}), r.add(wire.Job{Queue: name + " free"})
			jobs := r.claim(2)
			r.ids("claimed", jobs, id, fine)
			unlock := r.LockQueue(name)
			r.kinds(name, end(jobs...), worker.FateBusy, worker.FateRecorded)
			unlock()
			r.row(id, &Row{Attempts: 1, LockedBy: jobs[0].Token})
			r.kinds(name, end(jobs[0]), worker.FateRecorded)
			r.free(name)
			r.Delete(id)
			r.Delete(fine)
		})
	},
	"a refused outcome is a row's fault, and records nothing": func(r *rig) {
		bad, fine := r.add(wire.Job{}), r.add(wire.Job{Priority: 1})
		jobs := r.claim(2)
		r.ids("claimed", jobs, bad, fine)
		r.Refuse(bad)
		_, err := r.store.Fail(r.ctx(), ended(worker.Outcome{Kind: worker.OutcomeFailed, Text: "no"}, jobs))
		if rejected, ok := errors.AsType[*wire.RejectedError](err); !ok || !rejected.Row {
			r.t.Errorf("error is %v, want a RejectedError that blames a row", err)
		}
		for _, job := range jobs {
			r.row(job.ID, &Row{Attempts: 1, LockedBy: job.Token})
		}
	},
}
