package pg_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// The statements that end leases, each with the place before it locks the row of a job, and one
// after.
var cancelRaces = map[string]struct {
	text, before, after string
	end                 func(*rig, *wire.Job) ([]worker.Fate, error)
}{
	"a failure": {query.FailJobs, failLocks, queueLocks, func(r *rig, job *wire.Job) ([]worker.Fate, error) {
		return r.store.Fail(r.t.Context(), []worker.Ended{{Lease: job.Lease, Outcome: failed}})
	}},
	"the last failure, without dead letters": {query.FailJobs, failLocks, queueLocks, func(r *rig, job *wire.Job) ([]worker.Fate, error) {
		return r.store.Fail(r.t.Context(), []worker.Ended{{Lease: job.Lease, Outcome: worker.Outcome{Kind: worker.OutcomeExhausted, Text: "no"}}})
	}},
	"a dead letter": {query.FailJobs, failLocks, queueLocks, func(r *rig, job *wire.Job) ([]worker.Fate, error) {
		dies := worker.Outcome{Kind: worker.OutcomeExhausted, Text: "no", Reason: worker.ReasonPermanent}
		return r.store.Fail(r.t.Context(), []worker.Ended{{Lease: job.Lease, Outcome: dies}})
	}},
	"a return": {query.ReleaseJobs, releaseLocks, queueLocks, func(r *rig, job *wire.Job) ([]worker.Fate, error) {
		return r.store.Release(r.t.Context(), []worker.Ended{{Lease: job.Lease, Outcome: worker.Outcome{Kind: worker.OutcomeReturned}}})
	}},
	"a suspect": {query.ParkJobs, parkLocks, queueLocks, func(r *rig, job *wire.Job) ([]worker.Fate, error) {
		return r.store.Park(r.t.Context(), []wire.Lease{job.Lease})
	}},
	"a reclaim": {query.ReclaimJobs, reclaimLocks, "where j.id = any(array(select id from held))", func(r *rig, job *wire.Job) ([]worker.Fate, error) {
		answer, err := r.store.Reclaim(r.t.Context(), r.id, nil)
		fate := worker.Fate{}
		if len(answer.Canceled) == 1 && answer.Canceled[0].ID == job.ID {
			fate = worker.Fate{Kind: worker.FateCanceled, Request: answer.Canceled[0].Request}
		}
		return []worker.Fate{fate}, err
	}},
}

var failed = worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Reason: worker.ReasonExhausted}

const (
	failLocks    = "on j.id = failure.id and j.locked_by = failure.token\n"
	releaseLocks = "on j.id = release.id and j.locked_by = release.token\n"
	parkLocks    = "on j.id = u.id and j.locked_by = u.token\n"
	reclaimLocks = "and j.id <> all($3::bigint[])\n"
	queueLocks   = "where s.id = any(array(select job_queue_id from held where job_queue_id is not null))"

	gate = "pg_advisory_xact_lock_shared(16)::text"
)

// A request that is stored while a statement is about to end the lease is not in its snapshot. The
// job is gone all the same when the statement has committed, also through a transaction pooler.
func TestRequestsStoredWhileALeaseEnds(t *testing.T) {
	t.Parallel()
	for through, mode := range map[string]string{"": "", ", pooled": "exec", ", pooled, simple protocol": "simple_protocol"} {
		for name, race := range cancelRaces {
			for place, after := range map[string]bool{"before its lock": false, "behind its lock": true} {
				t.Run(name+", "+place+through, func(t *testing.T) {
					t.Parallel()
					db := pgtest.New(t)
					settings := pg.SettingsOf(db.Pool(), schemaName)
					if mode != "" {
						pooler := dbtest.Pooler(t, db.URL, "transaction", 4, "server_round_robin = 1")
						settings = pg.SettingsOf(newPool(t, withParameter(t, pooler, "default_query_exec_mode", mode), nil), schemaName)
					}
					r := rigWith(t, db.Pool(), settings)
					id := r.add("'a', queue_name := 'q'")
					job := r.claimOne()
					fine := r.add("'a', priority := 1")
					r.store.Rewrite(race.text, func(text string) string {
						old, fresh := race.before, race.before+" where "+gate+" = ''\n"
						switch {
						case after: // what the gate reads is locked by then
							old, fresh = race.after, race.after+" and (select "+gate+" from held limit 1) = ''"
						case name == "a reclaim":
							fresh = race.before + " and " + gate + " = ''\n"
						}
						if strings.Count(text, old) != 1 {
							t.Fatalf("%q is not in the statement", old)
						}
						return strings.Replace(text, old, fresh, 1)
					})
					closed, err := r.pool.Begin(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					dbtest.Run(t, closed, "select pg_advisory_xact_lock(16)")
					fates := make(chan []worker.Fate, 1)
					go func() {
						ended, err := race.end(r, job)
						if err != nil {
							t.Error(err)
						}
						fates <- ended
					}()
					dbtest.Until(t, func() bool { return dbtest.SomeoneWaits(t, r.pool, "advisory") })
					answers, err := query.New(r.pool).CancelJobs(t.Context(), query.CancelJobsParams{Ids: []int64{id}, RequestedBy: "ops", Reason: "wrong"})
					if err != nil || len(answers) != 1 || !answers[0].Requested || answers[0].Ended {
						t.Errorf("the request is answered by %+v, %v", answers, err)
					}
					if err := closed.Commit(t.Context()); err != nil {
						t.Fatal(err)
					}
					ended := <-fates
					if len(ended) != 1 || ended[0].Kind != worker.FateCanceled || ended[0].Request != (worker.Request{By: "ops", Reason: "wrong"}) {
						t.Errorf("fates %+v", ended)
					}
					r.wantRow(id, nil)
					left := dbtest.Get[int](t, r.pool, `select (select count(*) from graphile_worker.backfill_cancels)::int
						+ (select count(*) from graphile_worker.backfill_dlq)::int`)
					if queues := r.lockedQueues(); left+queues != 0 {
						t.Errorf("%d requests and dead letters are left, and %d queues locked", left, queues)
					}
					wantIDs(t, "then claimed", idsOf(r.claim(2)), fine)
				})
			}
		}
	}
}

// A job's own transaction does not commit when the end of the job was requested, also if its
// snapshot is older than the request.
func TestRequestsStoredWhileATransactionCompletesTheJob(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	transactions, admin := r.store.Transactions(2), pg.NewAdmin(r.pool, schemaName)
	dbtest.Run(t, r.pool, "create table effects (job bigint)")
	for _, level := range []string{"read committed", "repeatable read", "serializable"} {
		for _, requested := range []bool{true, false} {
			id := r.add("'a', queue_name := 'q'")
			job := r.claimOne()
			tx, err := transactions.Begin(t.Context(), pg.TxJob{Lease: job.Lease, Isolation: level, Limit: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			dbtest.Run(t, tx.Pgx, "insert into effects values ($1)", id) // its snapshot
			if requested {
				outcomes, err := admin.Cancel(t.Context(), []int64{id}, "", "")
				if err != nil || outcomes[0].State != pg.CancelRequested {
					t.Fatalf("%+v, %v", outcomes, err)
				}
			}
			fate, err := tx.Commit(nil)
			switch {
			case !requested && (err != nil || fate.Kind != worker.FateRecorded),
				requested && level == "read committed" && !errors.Is(err, worker.ErrCanceled),
				requested && level != "read committed" && !pg.IsConflict(err):
				t.Errorf("%s, requested %v: fate %+v, %v", level, requested, fate, err)
			case requested:
				if err := transactions.Standing(t.Context(), job.Lease); !errors.Is(err, worker.ErrCanceled) {
					t.Errorf("%s: it stands: %v", level, err)
				}
			}
			if done := dbtest.Get[bool](t, r.pool, "select exists (select from effects where job = $1)", id); done == requested {
				t.Errorf("%s, requested %v: its effects are there: %v", level, requested, done)
			}
			if requested {
				fates, err := r.store.Release(t.Context(), []worker.Ended{{Lease: job.Lease, Outcome: worker.Outcome{Kind: worker.OutcomeCanceled}}})
				if err != nil || fates[0].Kind != worker.FateCanceled {
					t.Errorf("%s: given back: %+v, %v", level, fates, err)
				}
			}
			r.wantRow(id, nil)
		}
	}
}
