package pg_test

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// leaseWorker is a Go worker. It does not know that it was declared dead before a heartbeat tells
// it, and its handlers may go on after that.
type leaseWorker struct {
	store  *pg.Store
	id     string
	claims uint64
	beats  int64
	leases []*heldLease // that it has been given, with some of those that are over
}

// heldLease is a lease as its worker remembers it.
type heldLease struct {
	wire.Lease

	queue    string
	request  int // in the payload that the handler gets
	most     int // max_attempts
	started  bool
	canceled bool // the claim has said that it is not to run
	over     bool // the database has said so
}

// believed are the leases that the worker has, as far as it knows.
func (w *leaseWorker) believed() []*heldLease {
	return slices.DeleteFunc(slices.Clone(w.leases), func(l *heldLease) bool { return l.over })
}

// remembered are those, and some that are over: a handler goes on, or an answer was lost.
func (w *leaseWorker) remembered() []*heldLease {
	return slices.Clone(w.leases[max(0, len(w.leases)-5):])
}

// claimSome has any worker claim, also one that is dead and does not know.
func (m *leaseMachine) claimSome() {
	w, batch := m.worker(), 1+m.below("batch", 3)
	w.leases = append(w.leases, m.dropCanceled(w, m.claim(w, batch))...)
}

// claimWithoutAnswer has a worker claim, and the network drop the answer.
func (m *leaseMachine) claimWithoutAnswer() { m.claim(m.worker(), 2) }

func (m *leaseMachine) claim(w *leaseWorker, batch int) (leases []*heldLease) {
	w.claims++
	w.store.ForgetClaims() // so that what a run does depends on nothing but what was drawn
	claimed, err := w.store.Claim(m.ctx(), worker.ClaimRequest{WorkerID: w.id, Number: w.claims, Batch: batch, Serial: batch})
	must(m, err)
	if claimed.Alive != m.model.alive[w.id] || !claimed.Alive && len(claimed.Jobs) > 0 {
		m.broken("a worker that is dead claims, or one that lives is told that it is dead", fmt.Sprintf("%d jobs, alive: %v", len(claimed.Jobs), claimed.Alive))
	}
	for _, job := range claimed.Jobs {
		if !m.model.claimable(job.ID) {
			m.broken("a job is claimed that nobody may claim", fmt.Sprintf("job %d: %+v", job.ID, m.model.jobs[job.ID]))
		}
		j := m.model.jobs[job.ID]
		if r := m.requests[j.Request]; r.ended != "" && !r.revived {
			m.broken("a request runs again that has ended", fmt.Sprintf("%d was %s", j.Request, r.ended))
		}
		token := m.model.claim(job.ID, wire.ClaimToken(w.id, w.claims))
		got := []any{job.Token, job.Attempt, job.MaxAttempts, job.Key, job.Queue, string(job.Payload)}
		want := []any{token, j.Attempts, j.MaxAttempts, j.Key, j.Queue, payloadOf(j.Request)}
		if diff := cmp.Diff(want, got); diff != "" {
			m.broken("a claimed job is another than that of the model", diff)
		}
		canceled := slices.Contains(claimed.Canceled, job.ID)
		if canceled != j.Canceled {
			m.broken("a claim says otherwise whether a job is to run", fmt.Sprintf("job %d: %+v", job.ID, j))
		}
		if canceled {
			m.seen["claim: cancelled"]++
		}
		leases = append(leases, &heldLease{Lease: job.Lease, queue: j.Queue, request: j.Request, most: j.MaxAttempts, canceled: canceled})
	}
	if left := m.claimable(); claimed.Alive && len(claimed.Jobs) < batch && len(left) > 0 {
		m.broken("a claim leaves jobs", fmt.Sprintf("%v, of %d that it may have", left, batch))
	}
	return leases
}

func (m *leaseMachine) claimable() []int64 {
	return slices.DeleteFunc(m.model.find((*leaseJob).available), func(id int64) bool { return !m.model.claimable(id) })
}

// startSome has a handler begin. Nothing is asked of the database.
func (m *leaseMachine) startSome() {
	_, leases := m.leases(1)
	m.start(leases)
}

func (m *leaseMachine) start(leases []*heldLease) {
	for _, l := range leases {
		if r := m.requests[l.request]; !l.started && !l.over {
			l.started = true
			if r.starts++; l.most == 1 && r.starts > r.mayStart {
				m.broken("a request that has one attempt starts again", fmt.Sprint(l.request))
			}
		}
	}
}

// completeSome reports successes, also of leases that were lost or ended long ago: so it is with
// the other ways to end a lease.
func (m *leaseMachine) completeSome() {
	w, leases := m.leases(3)
	m.complete(w, leases)
}

func (m *leaseMachine) complete(w *leaseWorker, leases []*heldLease) {
	m.start(leases)
	for _, l := range leases { // a success ends what is in dead letters of its key, too
		if j := m.model.lease(l.Lease); j != nil && j.Key != "" {
			for _, id := range m.lettersWith(func(letter *leaseLetter) bool { return letter.Key == j.Key && letter.Requeued == 0 }) {
				m.requests[m.model.letters[id].Request].end("done by another job with its key")
				m.seen["complete: cleared"]++
			}
		}
	}
	got, err := w.store.CompleteRecorded(m.ctx(), withOutcome(leases, worker.Outcome{Kind: worker.OutcomeCompleted}))
	fates := m.fates("complete", leases, got, err, m.model.complete)
	for i, l := range leases {
		if fates[i] == worker.FateRecorded {
			m.requests[l.request].end("completed")
		}
	}
}

// failSome reports failures, for good or not.
func (m *leaseMachine) failSome() {
	w, leases := m.leases(3)
	m.start(leases)
	kind := pick(m, "kind", []worker.OutcomeKind{worker.OutcomeFailed, worker.OutcomeExhausted})
	outcome := worker.Outcome{Kind: kind, Text: "broken", Delay: pick(m, "delay", []time.Duration{0, 0, 0, time.Hour})}
	outcome.Reason = m.reason(w, outcome)
	got, err := w.store.Fail(m.ctx(), withOutcome(leases, outcome))
	m.fates("fail", leases, got, err, func(l heldLease) worker.FateKind { return m.model.fail(l, outcome) })
}

// snooze puts jobs off because their handlers have asked for it.
func (m *leaseMachine) snooze() {
	w, leases := m.leases(3)
	m.start(leases)
	outcome := worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: pick(m, "delay", []time.Duration{0, 0, 0, time.Hour})}
	for i, fate := range m.release(w, leases, outcome) {
		if fate == worker.FateRecorded {
			m.requests[leases[i].request].mayStart++
		}
	}
}

// giveBack returns jobs that have not begun, or were interrupted. A worker does not return one that
// has begun its only attempt.
func (m *leaseMachine) giveBack() {
	w, leases := m.leases(3)
	leases = slices.DeleteFunc(leases, func(l *heldLease) bool { return l.started && l.most == 1 })
	if len(leases) == 0 {
		panic(impossible{})
	}
	m.release(w, leases, worker.Outcome{Kind: worker.OutcomeReturned})
}

func (m *leaseMachine) release(w *leaseWorker, leases []*heldLease, outcome worker.Outcome) []worker.FateKind {
	got, err := w.store.Release(m.ctx(), withOutcome(leases, outcome))
	return m.fates("release", leases, got, err, func(l heldLease) worker.FateKind { return m.model.release(l, outcome) })
}

// endBusy has a worker end a lease while somebody else holds the row of the job, or of its queue.
// It does not wait, and has the lease as before (R16).
func (m *leaseMachine) endBusy() {
	var held []*heldLease
	for _, w := range m.workers {
		held = append(held, slices.DeleteFunc(w.believed(), func(l *heldLease) bool { return m.model.lease(l.Lease) == nil })...)
	}
	l := pick(m, "lease", held)
	tx, err := m.pool.Begin(m.ctx())
	must(m, err)
	defer func() { _ = tx.Rollback(m.ctx()) }()
	lock, id := "select from graphile_worker._private_jobs where id = $1 for update", l.ID
	if l.queue != "" && m.below("row", 2) == 1 {
		lock, id = "select from graphile_worker._private_job_queues where id = $1 for update", int64(l.QueueID)
	}
	_, err = tx.Exec(m.ctx(), lock, id)
	must(m, err)
	store, one := m.workers[0].store, []*heldLease{l}
	var got []worker.Fate
	switch m.below("end", 3) {
	case 0:
		got, err = store.CompleteRecorded(m.ctx(), withOutcome(one, worker.Outcome{Kind: worker.OutcomeCompleted}))
	case 1:
		got, err = store.Fail(m.ctx(), withOutcome(one, worker.Outcome{Kind: worker.OutcomeFailed, Text: "busy"}))
	default:
		got, err = store.Release(m.ctx(), withOutcome(one, worker.Outcome{Kind: worker.OutcomeReturned}))
	}
	m.fates("end", one, got, err, func(heldLease) worker.FateKind { return worker.FateBusy })
}

// renew renews leases.
func (m *leaseMachine) renew() {
	w, leases := m.leases(3)
	got, err := w.store.Renew(m.ctx(), bare(leases))
	held := make([]bool, len(leases))
	for i, l := range leases {
		held[i] = !l.over
	}
	for i, fate := range m.fates("renew", leases, got, err, m.model.renew) {
		leases[i].over = !held[i] || fate == worker.FateLost
	}
}

var fateNames = map[worker.FateKind]string{
	worker.FateRecorded: "recorded", worker.FateExhausted: "exhausted", worker.FateSuperseded: "superseded",
	worker.FateLost: "lost", worker.FateBusy: "busy", worker.FateCanceled: "cancelled",
}

// fates compares what a worker is told with what the model says.
func (m *leaseMachine) fates(
	what string, leases []*heldLease, got []worker.Fate, err error, predict func(heldLease) worker.FateKind,
) []worker.FateKind {
	if sqlstate.Of(err) == "21000" { // the statement would change a row twice
		m.broken(what+": the server refuses it", err.Error())
	}
	must(m, err)
	kinds, names, want := make([]worker.FateKind, len(got)), make([]string, len(got)), make([]string, len(leases))
	for i, fate := range got {
		kinds[i], names[i] = fate.Kind, fateNames[fate.Kind]
	}
	// The statement ends what is held. Jobs that nobody has after it are ended behind it.
	held := make([]bool, len(leases))
	for i, l := range leases {
		held[i] = m.model.lease(l.Lease) != nil
	}
	for _, first := range []bool{true, false} {
		for i, l := range leases {
			if held[i] == first {
				want[i] = fateNames[predict(*l)]
				l.over = want[i] != fateNames[worker.FateBusy]
				m.seen[what+": "+want[i]]++
			}
		}
	}
	if diff := cmp.Diff(want, names); diff != "" {
		m.broken(what+": a worker is told another fate of its lease", diff)
	}
	m.kept(what, leases, kinds)
	return kinds
}

// beat has a worker beat, and come back under a fresh id if it is dead.
func (m *leaseMachine) beat() {
	w := m.worker()
	w.beats++
	beaten, err := w.store.Beat(m.ctx(), worker.Beat{WorkerID: w.id, Write: true, Number: w.beats})
	must(m, err)
	if beaten.Alive != m.model.alive[w.id] {
		m.broken("a heartbeat is told otherwise whether its worker lives", fmt.Sprint(beaten.Alive))
	}
	if !beaten.Alive {
		m.register(w)
	}
}

// die has one worker find another dead, whatever it is. So is one that retires with jobs, or whose
// row somebody deletes.
func (m *leaseMachine) die() {
	w := pick(m, "worker", m.those(func(w *leaseWorker) bool {
		// One death at a job: what a second one means is not modelled here.
		return len(m.has(w)) > 0 && !slices.ContainsFunc(m.has(w), func(id int64) bool { return m.model.jobs[id].deaths > 0 })
	}))
	observer := m.workers[0]
	if w == observer {
		observer = m.workers[1]
	}
	alive, wrong := m.model.alive[w.id], int64(0)
	switch way := pick(m, "way", []string{"declare", "too late", "retire", "delete"}); way {
	case "retire":
		must(m, w.store.Retire(m.ctx(), w.id, false))
		m.model.told[w.id] = m.model.told[w.id] || alive
	case "delete":
		m.model.told[w.id], m.model.gone[w.id] = false, true
		m.exec("delete from graphile_worker.backfill_workers where id = $1", w.id)
	case "too late":
		wrong = 1
		fallthrough
	default:
		dead, err := observer.store.Declare(m.ctx(), w.id, w.beats-wrong)
		must(m, err)
		if dead != (alive && wrong == 0) {
			m.broken("a worker is declared dead, or not, against the rules", fmt.Sprintf("%s, alive: %v, declared dead: %v", way, alive, dead))
		}
	}
	m.model.alive[w.id] = alive && wrong == 1
}

// rescueAll has a worker release what the dead have locked. It asks for all, and gets the dead.
func (m *leaseMachine) rescueAll() { m.rescue(m.living()) }

func (m *leaseMachine) rescue(w *leaseWorker) {
	rescued, err := w.store.Rescue(m.ctx(), worker.RescueRequest{IDs: m.ids})
	must(m, err)
	got := leasesRescued{Jobs: sortedIDs(rescued.Jobs), Canceled: canceledIDs(rescued.Canceled), Queues: rescued.Queues}
	for _, dead := range rescued.Dead {
		got.Crashed = append(got.Crashed, dead.ID)
	}
	slices.Sort(got.Crashed)
	m.seen["rescue: released"] += len(got.Jobs)
	m.seen["rescue: crashed"] += len(got.Crashed)
	m.seen["rescue: cancelled"] += len(got.Canceled)
	if diff := cmp.Diff(m.model.rescue(m.ids), got); diff != "" {
		m.broken("a rescue releases other locks", diff)
	}
	for _, id := range m.ids {
		if slices.Contains(rescued.Settled, id) == m.model.alive[id] {
			m.broken("a worker that lives is settled, or a dead one is not", id)
		}
	}
}

// reclaimUnknown has a worker release what it does not know of.
func (m *leaseMachine) reclaimUnknown() { m.reclaim(m.worker()) }

func (m *leaseMachine) reclaim(w *leaseWorker) {
	held := bare(w.believed())
	got, err := w.store.Reclaim(m.ctx(), w.id, held)
	must(m, err)
	m.seen["reclaim: released"] += got.Jobs
	m.seen["reclaim: cancelled"] += len(got.Canceled)
	want := m.model.reclaim(w.id, held)
	if diff := cmp.Diff(canceledIDs(want.Canceled), canceledIDs(got.Canceled)); diff != "" {
		m.broken("a reclaim ends other jobs", diff)
	}
	got.Canceled, want.Canceled = nil, nil
	if !reflect.DeepEqual(got, want) {
		m.broken("a reclaim releases other locks", fmt.Sprintf("%+v, want %+v", got, want))
	}
}

// worker draws a worker, and living one that lives.
func (m *leaseMachine) worker() *leaseWorker { return pick(m, "worker", m.workers) }

func (m *leaseMachine) living() *leaseWorker {
	return pick(m, "worker", m.those(func(w *leaseWorker) bool { return m.model.alive[w.id] }))
}

func (m *leaseMachine) those(which func(*leaseWorker) bool) (workers []*leaseWorker) {
	for _, w := range m.workers {
		if which(w) {
			workers = append(workers, w)
		}
	}
	return workers
}

// has are the jobs that a worker has locked.
func (m *leaseMachine) has(w *leaseWorker) []int64 {
	return m.model.find(func(j *leaseJob) bool { return j.Lock.ofWorker(w.id) })
}

// leases draws a worker and some of the leases that it believes to have, or of all that it
// remembers.
func (m *leaseMachine) leases(most int) (w *leaseWorker, leases []*heldLease) {
	from := (*leaseWorker).believed
	if m.below("old ones, too", 4) == 0 {
		from = (*leaseWorker).remembered
	}
	w = pick(m, "worker", m.those(func(w *leaseWorker) bool { return len(from(w)) > 0 }))
	some := from(w)
	for range 1 + m.below("how many", min(most, len(some))) {
		i := m.below("lease", len(some))
		leases = append(leases, some[i])
		some = slices.Delete(some, i, i+1)
	}
	return w, leases
}

func bare(leases []*heldLease) []wire.Lease {
	list := make([]wire.Lease, len(leases))
	for i, l := range leases {
		list[i] = l.Lease
	}
	return list
}

func withOutcome(leases []*heldLease, outcome worker.Outcome) (list []worker.Ended) {
	for _, l := range leases {
		list = append(list, worker.Ended{Lease: l.Lease, Outcome: outcome, Record: &worker.Record{Task: "a", Took: time.Second}})
	}
	return list
}

func sortedIDs(jobs []*wire.Job) (ids []int64) {
	for _, job := range jobs {
		ids = append(ids, job.ID)
	}
	slices.Sort(ids)
	return ids
}
