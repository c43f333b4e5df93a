package pg_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// rig is a database with one worker's store on it, which serves the tasks "a" and "b".
type rig struct {
	t      *testing.T
	pool   *pgxpool.Pool
	store  *pg.Store
	id     string
	claims uint64

	forbidden []string // flags
	freed     []int32  // queues, for the next claim
	bytes     int64
	payload   int64 // the largest
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return rigOn(t, pgtest.New(t).Pool(), "graphile_worker")
}

// rigOn registers one more worker on a database.
func rigOn(t *testing.T, pool *pgxpool.Pool, schema string) *rig {
	t.Helper()
	return rigWith(t, pool, pg.SettingsOf(pool, schema))
}

func rigWith(t *testing.T, pool *pgxpool.Pool, settings pg.Settings) *rig {
	t.Helper()
	store, err := pg.Open(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	r := &rig{t: t, pool: pool, store: store, id: wire.NewWorkerID()}
	r.register()
	return r
}

func (r *rig) sweep() worker.Swept {
	r.t.Helper()
	swept, err := r.store.Sweep(r.quick(), r.id, false)
	if err != nil {
		r.t.Fatal(err)
	}
	return swept
}

func (r *rig) register() {
	r.t.Helper()
	if err := r.store.Register(r.t.Context(), worker.Registration{ID: r.id, Tasks: []string{"a", "b"}, DeadLetters: true}); err != nil {
		r.t.Fatal(err)
	}
}

// add runs the contract's add_job and returns the job's id.
func (r *rig) add(arguments string, args ...any) int64 {
	r.t.Helper()
	return dbtest.Get[int64](r.t, r.pool, "select id from graphile_worker.add_job("+arguments+")", args...)
}

// try claims, and returns the whole answer.
func (r *rig) try(batch, serial int) worker.Claimed {
	r.t.Helper()
	claimed, err := r.tryErr(batch, serial)
	if err != nil {
		r.t.Fatal(err)
	}
	return claimed
}

func (r *rig) tryErr(batch, serial int) (worker.Claimed, error) {
	r.claims++
	freed := r.freed
	r.freed = nil
	return r.store.Claim(r.t.Context(), worker.ClaimRequest{
		WorkerID: r.id, Number: r.claims, Batch: batch, Serial: serial, Forbidden: r.forbidden,
		Queues: freed, Bytes: r.bytes, MaxPayload: r.payload,
	})
}

// wait waits until the store says that a claim looks everywhere.
func (r *rig) wait(claimed worker.Claimed) {
	select {
	case <-time.After(claimed.Again):
	case <-r.t.Context().Done():
	}
}

// tryAll makes claims that find nothing until one has looked everywhere.
func (r *rig) tryAll(batch, serial int) worker.Claimed {
	r.t.Helper()
	for {
		claimed := r.try(batch, serial)
		if len(claimed.Jobs) > 0 || claimed.Again == 0 {
			return claimed
		}
		r.wait(claimed)
	}
}

// claim claims up to n jobs of any kind, following the store's wish for more, as a worker does.
func (r *rig) claim(n int) []*wire.Job {
	r.t.Helper()
	var jobs []*wire.Job
	for len(jobs) < n {
		claimed := r.try(n-len(jobs), n-len(jobs))
		jobs = append(jobs, claimed.Jobs...)
		if !claimed.More && claimed.Again == 0 {
			break
		}
		r.wait(claimed)
	}
	return jobs
}

// claimOne claims the only job there is to claim.
func (r *rig) claimOne() *wire.Job {
	r.t.Helper()
	jobs := r.claim(2)
	if len(jobs) != 1 {
		r.t.Fatalf("claimed %d jobs, want 1", len(jobs))
	}
	return jobs[0]
}

func (r *rig) claimNone() {
	r.t.Helper()
	if jobs := r.claim(2); len(jobs) != 0 {
		r.t.Fatalf("claimed job %d, want none", jobs[0].ID)
	}
}

// quick is a deadline far below any lock that a test holds: a statement that waits for a lock does
// not meet it.
func (r *rig) quick() context.Context {
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	r.t.Cleanup(cancel)
	return ctx
}

// The ways to end a lease, for tests that hold for all of them.
var endings = map[string]func(*rig, ...*wire.Job) settled{
	"complete": func(r *rig, jobs ...*wire.Job) settled {
		return r.settled(jobs)(r.store.Complete(r.quick(), leasesOf(jobs)))
	},
	"fail": func(r *rig, jobs ...*wire.Job) settled {
		return r.settled(jobs)(r.store.Fail(r.quick(), ended(jobs, worker.Outcome{Kind: worker.OutcomeFailed, Text: "broken", Delay: time.Hour})))
	},
	"return": func(r *rig, jobs ...*wire.Job) settled {
		return r.settled(jobs)(r.store.Release(r.quick(), ended(jobs, worker.Outcome{Kind: worker.OutcomeReturned})))
	},
	"snooze": func(r *rig, jobs ...*wire.Job) settled {
		return r.settled(jobs)(r.store.Release(r.quick(), ended(jobs, worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: time.Hour})))
	},
}

func ended(jobs []*wire.Job, outcome worker.Outcome) []worker.Ended {
	var list []worker.Ended
	for _, job := range jobs {
		list = append(list, worker.Ended{Lease: job.Lease, Outcome: outcome})
	}
	return list
}

// settled is what became of the leases of some jobs, by their ids.
type settled struct {
	Recorded, Exhausted, Superseded, Lost, Busy []int64

	NextOwn, NextForeign int
	NextDue              time.Duration
}

// settled sorts the fates that a statement returned.
func (r *rig) settled(jobs []*wire.Job) func([]worker.Fate, error) settled {
	r.t.Helper()
	return func(fates []worker.Fate, err error) (s settled) {
		r.t.Helper()
		if err != nil {
			r.t.Fatal(err)
		}
		if len(fates) != len(jobs) {
			r.t.Fatalf("%d fates of %d leases", len(fates), len(jobs))
		}
		for i, fate := range fates {
			list := map[worker.FateKind]*[]int64{
				worker.FateRecorded: &s.Recorded, worker.FateExhausted: &s.Exhausted,
				worker.FateSuperseded: &s.Superseded, worker.FateLost: &s.Lost, worker.FateBusy: &s.Busy,
			}[fate.Kind]
			*list = append(*list, jobs[i].ID)
			switch fate.Next {
			case worker.NextOwn:
				s.NextOwn++
			case worker.NextForeign:
				s.NextForeign++
			case worker.NextNone:
			}
			if fate.Due > 0 && (s.NextDue == 0 || fate.Due < s.NextDue) {
				s.NextDue = fate.Due
			}
		}
		return s
	}
}

func leasesOf(jobs []*wire.Job) []wire.Lease {
	leases := make([]wire.Lease, len(jobs))
	for i, job := range jobs {
		leases[i] = job.Lease
	}
	return leases
}

func idsOf(jobs []*wire.Job) []int64 {
	ids := make([]int64, len(jobs))
	for i, job := range jobs {
		ids[i] = job.ID
	}
	return ids
}

// row is a job's row, as far as the rules are about it.
type row struct {
	Attempts, MaxAttempts int
	Locked                bool
	LastError             string
}

// row returns a job's row; nil if there is none.
func (r *rig) row(id int64) *row {
	r.t.Helper()
	rows, err := r.pool.Query(r.t.Context(), `select attempts, max_attempts, locked_by is not null, coalesce(last_error, '')
		from graphile_worker._private_jobs where id = $1`, id)
	if err != nil {
		r.t.Fatal(err)
	}
	defer rows.Close()
	if !rows.Next() {
		return nil
	}
	var got row
	if err := rows.Scan(&got.Attempts, &got.MaxAttempts, &got.Locked, &got.LastError); err != nil {
		r.t.Fatal(err)
	}
	return &got
}

func (r *rig) wantRow(id int64, want *row) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.row(id)); diff != "" {
		r.t.Errorf("row of job %d (-want +got):\n%s", id, diff)
	}
}

// wantConsistent checks that queues and jobs in flight agree: every locked queue has exactly one
// job in flight, that of the same claim, and every queued job in flight has its queue.
func (r *rig) wantConsistent() {
	r.t.Helper()
	if n := dbtest.Get[int](r.t, r.pool, `select count(*)::int from graphile_worker._private_job_queues as s where s.locked_by is not null
		and (select count(*) from graphile_worker._private_jobs as j
		      where j.job_queue_id = s.id and starts_with(j.locked_by, s.locked_by || '.')) <> 1`); n != 0 {
		r.t.Errorf("%d queues are locked without exactly one job in flight", n)
	}
	if n := dbtest.Get[int](r.t, r.pool, `select count(*)::int from graphile_worker._private_jobs as j
		join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
		where j.locked_by is not null and (s.locked_by is null or not starts_with(j.locked_by, s.locked_by || '.'))`); n != 0 {
		r.t.Errorf("%d queued jobs are in flight without their queue", n)
	}
}

func (r *rig) lockedQueues() int {
	r.t.Helper()
	return dbtest.Get[int](r.t, r.pool, "select count(*)::int from graphile_worker._private_job_queues where locked_by is not null")
}

func wantIDs(t *testing.T, what string, got []int64, want ...int64) {
	t.Helper()
	got = slices.Clone(got)
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
