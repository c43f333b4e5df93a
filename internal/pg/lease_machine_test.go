package pg_test

import (
	"context"
	"fmt"
	"math/bits"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// leaseMachine does each step of the protocol in a database, through the real Store, and in the
// model. Rapid draws the steps. They come one after the other: what can happen within one is the
// business of store_race_test.go.
type leaseMachine struct {
	*leaseDB

	t        *rapid.T
	report   func(what string) // ends a run that has broken the protocol
	model    *leaseModel
	workers  []*leaseWorker
	ids      []string        // that workers have had
	requests []*leaseRequest // every enqueue that was acknowledged
	node     string          // the id of a Node worker
	nodeJobs []int64         // that it has begun
	doing    string          // the step
}

// leaseDB is a database that the runs of a test use one after the other.
type leaseDB struct {
	pool   *pgxpool.Pool
	stores []*pg.Store
	seen   map[string]int // how often what has happened
	favour []string       // steps to make more often
}

// leaseRequest is the account of one enqueue.
type leaseRequest struct {
	ended    string // why it is in no row any more, or in one that is not tried again; "": a row has it
	starts   int
	mayStart int  // if it has one attempt in all: once, and again if its handler or an operator says so
	revived  bool // by an operator, after it had ended
}

func (r *leaseRequest) end(why string) {
	if r.ended == "" {
		r.ended = why
	}
}

func newLeaseDB(t *testing.T) *leaseDB {
	t.Helper()
	db := &leaseDB{pool: pgtest.New(t).Pool(), seen: map[string]int{}}
	for range 2 {
		store, err := pg.Open(t.Context(), pg.SettingsOf(db.pool, schemaName))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		db.stores = append(db.stores, store)
	}
	return db
}

// leaseSteps are what can happen, and how often. A step that finds nothing to act on is impossible.
var leaseSteps = []struct {
	weight int
	name   string
	step   func(*leaseMachine)
}{
	{10, "enqueue", (*leaseMachine).enqueue},
	{10, "claim", (*leaseMachine).claimSome},
	{2, "claim, and the answer is lost", (*leaseMachine).claimWithoutAnswer},
	{2, "reclaim", (*leaseMachine).reclaimUnknown},
	{1, "start", (*leaseMachine).startSome},
	{3, "complete", (*leaseMachine).completeSome},
	{3, "fail", (*leaseMachine).failSome},
	{1, "snooze", (*leaseMachine).snooze},
	{4, "give back", (*leaseMachine).giveBack},
	{1, "end while a row is locked", (*leaseMachine).endBusy},
	{2, "renew", (*leaseMachine).renew},
	{5, "die", (*leaseMachine).die},
	{4, "beat", (*leaseMachine).beat},
	{4, "rescue", (*leaseMachine).rescueAll},
	{2, "remove", (*leaseMachine).remove},
	{1, "complete_jobs", (*leaseMachine).completeFree},
	{1, "permanently_fail_jobs", (*leaseMachine).permanentlyFail},
	{1, "reschedule_jobs", (*leaseMachine).reschedule},
	{3, "force_unlock_workers", (*leaseMachine).forceUnlock},
	{1, "unlock", (*leaseMachine).unlockWorker},
	{2, "age", (*leaseMachine).ageLocks},
	{2, "sweep", (*leaseMachine).sweep},
	{2, "Node claims", (*leaseMachine).nodeClaims},
	{1, "Node completes", (*leaseMachine).nodeCompletes},
	{1, "Node fails", (*leaseMachine).nodeFails},
	{2, "requeue", (*leaseMachine).requeue},
	{1, "delete a dead letter", (*leaseMachine).deleteLetter},
	{2, "sweep for dead letters", (*leaseMachine).sweepLetters},
	{4, "cancel", (*leaseMachine).request},
	{1, "look for requests", (*leaseMachine).lookForRequests},
}

// run makes one random run.
func (db *leaseDB) run(t *rapid.T, report func(what string)) {
	m := &leaseMachine{leaseDB: db, t: t, report: report, model: newLeaseModel(), node: wire.NewWorkerID()}
	m.exec(`delete from graphile_worker._private_jobs`)
	m.exec(`delete from graphile_worker._private_job_queues`)
	m.exec(`delete from graphile_worker.backfill_workers`)
	m.exec(`delete from graphile_worker.backfill_dlq`)
	m.exec(`delete from graphile_worker.backfill_cancels`)
	m.exec(`delete from graphile_worker.backfill_history`)
	for _, store := range db.stores {
		w := &leaseWorker{store: store}
		m.register(w)
		m.workers = append(m.workers, w)
	}
	t.Repeat(map[string]func(*rapid.T){"step": func(*rapid.T) { m.step() }, "": func(*rapid.T) { m.check() }})
	m.settle()
	m.keptOnce()
}

// step makes one of the steps that are possible.
func (m *leaseMachine) step() {
	var lots []int
	for i, s := range leaseSteps {
		if slices.Contains(m.favour, s.name) {
			s.weight *= 4
		}
		lots = append(lots, slices.Repeat([]int{i}, s.weight)...)
	}
	for range 20 {
		s := leaseSteps[pick(m, "step", lots)]
		if m.doing = s.name; m.try(s.step) {
			m.seen[s.name]++
			m.t.Log(s.name)
			return
		}
	}
}

// impossible is the end of a step that has nothing to act on.
type impossible struct{}

func (m *leaseMachine) try(step func(*leaseMachine)) (done bool) {
	defer func() {
		if r := recover(); r != nil && r != any(impossible{}) {
			panic(r)
		}
	}()
	step(m)
	return true
}

// register gives a worker a fresh id.
func (m *leaseMachine) register(w *leaseWorker) {
	former := w.id
	w.id, w.beats = wire.NewWorkerID(), 0
	letters := m.below("without dead letters", 4) > 0
	must(m, w.store.Register(m.ctx(), worker.Registration{
		ID: w.id, Former: former, Tasks: []string{"a"}, Slots: 9, DeadLetters: letters,
		History: map[string]time.Duration{"a": time.Hour},
	}))
	m.model.makes[w.id] = letters
	m.ids = append(m.ids, w.id)
	m.model.alive[w.id] = true
	m.model.told[former] = !m.model.gone[former] // it lives
}

// settle ends a run: whatever has happened, everything can be brought to an end.
func (m *leaseMachine) settle() {
	m.doing = "the end"
	for _, w := range m.workers {
		if m.model.alive[w.id] {
			m.complete(w, w.believed())
			m.reclaim(w)
		}
	}
	w := m.workers[0]
	m.register(w)
	m.rescue(w)
	for _, id := range m.nodeJobs {
		m.nodeComplete(id)
	}
	for queue, lock := range m.model.queues {
		if lock.By != m.node { // Node leaves the queue of a job that somebody else has deleted
			m.broken("a queue stays locked", queue+" by "+lock.By)
		}
		m.unlock([]string{m.node})
	}
	for leases := m.claim(w, 9); len(leases) > 0; leases = m.claim(w, 9) {
		m.complete(w, m.dropCanceled(w, leases))
	}
	m.look(w)
	m.check()
	if left := m.model.find(func(j *leaseJob) bool { return j.Lock.By != "" || j.available() && j.due() }); len(left) > 0 {
		m.broken("jobs are left that are due, or locked", fmt.Sprint(left))
	}
}

// check compares the tables with the model, and with what was acknowledged.
func (m *leaseMachine) check() {
	jobs, queues := m.tables()
	has := make(map[int]bool, len(jobs))
	for _, j := range jobs {
		has[j.Request] = true
	}
	m.checkLetters(has)
	for _, n := range m.model.canceled {
		m.requests[n].end("cancelled")
	}
	m.model.canceled = nil
	for n, r := range m.requests {
		if r.ended == "" && !has[n] {
			m.broken("a request is lost", fmt.Sprint(n))
		}
	}
	for id, want := range m.model.jobs {
		got := jobs[id]
		if got == nil {
			continue
		}
		if want.chosen && got.RunAt.Sub(want.RunAt).Abs() < time.Minute {
			want.RunAt, want.chosen = got.RunAt, false
		}
		got.chosen, got.deaths = want.chosen, want.deaths
	}
	if diff := cmp.Diff(m.model.jobs, jobs, cmp.AllowUnexported(leaseJob{})); diff != "" {
		m.broken("the jobs are not those of the model", diff)
	}
	if diff := cmp.Diff(m.model.queues, queues); diff != "" {
		m.broken("other queues are locked", diff)
	}
}

// tables reads the jobs, and the queues that are locked.
func (m *leaseMachine) tables() (map[int64]*leaseJob, map[string]leaseLock) {
	jobs, queues := make(map[int64]*leaseJob), make(map[string]leaseLock)
	rows, err := m.pool.Query(m.ctx(), `select j.id, coalesce(j.key, ''), coalesce(s.queue_name, ''), j.priority, (j.payload->>'n')::int,
		j.attempts, j.max_attempts, coalesce(j.last_error, ''), j.run_at, coalesce(j.locked_by, ''),
		coalesce(j.locked_at < now() - interval '4 hours', false),
		exists (select from graphile_worker.backfill_cancels as c where c.job_id = j.id)
		from graphile_worker._private_jobs as j left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id`)
	must(m, err)
	var id int64
	var j leaseJob
	_, err = pgx.ForEachRow(rows, []any{
		&id, &j.Key, &j.Queue, &j.Priority, &j.Request, &j.Attempts, &j.MaxAttempts, &j.LastError, &j.RunAt, &j.Lock.By, &j.Lock.Old,
		&j.Canceled,
	}, func() error {
		job := j
		jobs[id] = &job
		return nil
	})
	must(m, err)
	rows, err = m.pool.Query(m.ctx(), `select queue_name, locked_by, locked_at < now() - interval '4 hours'
		from graphile_worker._private_job_queues where locked_by is not null or locked_at is not null`)
	must(m, err)
	var queue string
	var lock leaseLock
	_, err = pgx.ForEachRow(rows, []any{&queue, &lock.By, &lock.Old}, func() error {
		queues[queue] = lock
		return nil
	})
	must(m, err)
	return jobs, queues
}

// ctx bounds a statement.
func (m *leaseMachine) ctx() context.Context {
	ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
	m.t.Cleanup(cancel)
	return ctx
}

func (m *leaseMachine) exec(sql string, args ...any) {
	_, err := m.pool.Exec(m.ctx(), sql, args...)
	must(m, err)
}

// broken reports what has broken the protocol. That says nothing of this run's ids and times: rapid
// looks for a shorter run with the same report.
func (m *leaseMachine) broken(what, details string) {
	m.t.Logf("%s: %s", m.doing, details)
	m.report(what)
}

// must ends a run that the database has disturbed, which is no verdict on the protocol.
func must(m *leaseMachine, err error) {
	if err != nil {
		m.t.Fatal(err)
	}
}

// pick draws one of a list. Of an empty one the step is impossible.
func pick[T any](m *leaseMachine, label string, list []T) T {
	if len(list) == 0 {
		panic(impossible{})
	}
	return list[m.below(label, len(list))]
}

// below draws a number below n. Rapid's own ranges prefer small numbers, which mean nothing here.
func (m *leaseMachine) below(label string, n int) int {
	return rapid.Custom(func(t *rapid.T) (number int) {
		for range bits.Len(uint(n)) + 2 { //nolint:gosec // positive
			number *= 2
			if rapid.Bool().Draw(t, "bit") {
				number++
			}
		}
		return number % n
	}).Draw(m.t, label)
}

func payloadOf(request int) string { return fmt.Sprintf(`{"n":%d}`, request) }
