package pg_test

import (
	"maps"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/backfillhq/go/internal/pg/query"
)

// witnessRuns is how many runs there are to find a witness in. The most that it has taken is 50.
const witnessRuns = 1000

// witnessTime is how long they may take. Where a statement is changed that the machine does not run
// any more, no run finds anything.
const witnessTime = 3 * time.Minute

// leaseWitness is the protocol without one of its rules: old is replaced by fresh in statements of
// the product. The machine must find out.
type leaseWitness struct {
	statements []string
	old, fresh string
	favour     []string // steps that lead there, where that is a long way
}

const (
	ownToken  = "j.locked_by = u.token"
	sameOwner = "split_part(j.locked_by, '.', 1) = split_part(u.token, '.', 1)"
	attempt   = "j.attempts = rtrim(split_part(u.token, '.', 3), 'k')::int"

	unlessChanged, always = "else j.attempts end", "else greatest(0, j.attempts - 1) end"

	ownQueue = "and starts_with(ended.locked_by, s.locked_by || '.')"
)

var (
	claimsFor   = []string{query.ClaimFree, query.ClaimFront, query.ClaimDeep, query.ClaimScan}
	completesOf = []string{query.CompleteJobs, query.CompleteKeyedJobs, query.CompleteRecordedJobs}

	rescuesOf = []string{query.RescueFind, query.HeldJobs, query.RescueQueues, query.SettleWorkers}
)

// leaseWitnesses are known by what happens without the rule.
var leaseWitnesses = map[string]leaseWitness{
	// The guard is gone: who has lost a lease acts on the job all the same, which may run elsewhere or
	// hold a newer request.
	"a zombie completes another's job": {statements: completesOf, old: "and j.locked_by = u.token"},
	"a zombie fails another's job":     {statements: []string{query.FailJobs}, old: "and j.locked_by = failure.token"},
	"a zombie releases another's job":  {statements: []string{query.ReleaseJobs}, old: "and j.locked_by = release.token"},
	"a zombie renews another's job":    {statements: []string{query.RenewJobs}, old: "and j.locked_by = lease.token"},

	// The guard is (id, worker id, attempts). It fails in two ways, each of which follows by itself.
	"the worker and the attempts stand for the token": {
		statements: completesOf, old: ownToken, fresh: sameOwner + " and " + attempt,
	},
	// A worker is refused whose job was superseded or removed meanwhile: its attempts were changed
	// (R1).
	"changed attempts end a lease": {
		statements: completesOf, old: ownToken, fresh: ownToken + " and " + attempt,
	},
	// An old lease of the same worker at the same attempt is accepted, as after a return (R2).
	"an old lease of the same worker counts": {
		statements: completesOf, old: ownToken, fresh: "(" + ownToken + " or " + sameOwner + " and " + attempt + ")",
		favour: []string{"give back", "claim", "complete"},
	},

	// Attempts are refunded whatever a peer has done: what it failed for good, removed or superseded
	// is tried again (R3).
	"a rescue refunds changed attempts": {
		statements: []string{query.ReleaseHeld}, old: unlessChanged, fresh: always,
		favour: []string{"permanently_fail_jobs", "die", "rescue"},
	},
	"a release refunds changed attempts": {
		statements: []string{query.ReleaseJobs}, old: unlessChanged, fresh: always,
		favour: []string{"permanently_fail_jobs", "give back"},
	},
	"a reclaim refunds changed attempts": {
		statements: []string{query.ReclaimJobs}, old: unlessChanged, fresh: always,
		favour: []string{"permanently_fail_jobs", "claim, and the answer is lost", "reclaim"},
	},
	// On the last attempt only the key tells that the job was removed or superseded (R3).
	"a rescue keeps a removed job": {
		statements: []string{query.HeldJobs}, old: "coalesce(held.key, '')", fresh: "'x'",
		favour: []string{"remove", "die", "rescue"},
	},
	// What has one attempt in all starts twice (R9).
	"an only attempt is refunded": {
		statements: []string{query.HeldJobs}, old: "held.attempts, held.max_attempts", fresh: "held.attempts, 2::smallint as max_attempts",
	},

	// A claim of a worker that was declared dead: nobody would release what it takes (R5).
	"the dead claim": {statements: claimsFor, old: "w.dead_at is null for key share", fresh: "true for key share"},
	// A worker that lives loses its jobs (R4).
	"the living are rescued": {statements: rescuesOf, old: "w.dead_at is null", fresh: "false"},
	// A worker is declared dead that has beaten since it was looked at (R4).
	"a verdict is too late": {statements: []string{query.DeclareDead}, old: "w.beats = $2::bigint", fresh: "$2::bigint is not null"},

	// A sweep of 4 hours frees the queue of a job that runs on (R7).
	"only the job is renewed": {
		statements: []string{query.RenewJobs}, old: "where s.id = any(array(select id from queue))", fresh: "where false",
		favour: []string{"age", "renew"},
	},
	// The queue of a job that a peer has deleted stays locked (R7).
	"nobody frees the queue of a lost job": {statements: []string{query.FreeQueues}, old: "s.locked_by = u.claim", fresh: "false"},
	// A queue is freed that another claim has: two of its jobs run at a time (R2).
	"a lost lease frees another's queue": {statements: []string{query.FreeQueues}, old: "s.locked_by = u.claim", fresh: "true"},
	"a held lease frees another's queue": {
		statements: completesOf, old: ownQueue,
		favour: []string{"force_unlock_workers", "claim", "complete"},
	},

	// A job that was removed while it ran is sent back by whoever requeues dead letters.
	"a superseded job becomes a dead letter": {
		statements: []string{query.FailJobs}, old: "failure.token like '%k' and j.key is null", fresh: "false",
		favour: []string{"remove", "claim", "fail"},
	},
	// A job that was removed is no failure, however many attempts its row says (R27).
	"a sweep takes what was removed": {
		statements: []string{query.SweepJobs, query.BuryJobs}, old: "j.last_error is not null", fresh: "true",
		favour: []string{"remove", "give back", "sweep for dead letters"},
	},
	// What has one attempt in all, and was requeued, is another dead letter each time (R20).
	"a crash makes a second dead letter": {
		statements: []string{query.BuryJobs}, old: "d.requeued_job_id = any(array(select id from held))", fresh: "false",
		favour: []string{"requeue", "claim", "die", "rescue", "permanently_fail_jobs", "sweep for dead letters"},
	},
	// The dead letter of a success stays (section 14).
	"a success clears nothing": {
		statements: []string{query.CompleteKeyedJobs, query.CompleteRecordedJobs}, old: "d.job_key = ended.key", fresh: "false",
		favour: []string{"fail", "enqueue", "complete"},
	},
}

// The rules of section 16: without any of them, a job that is to end runs again, or is left.
var cancelWitnesses = map[string]leaseWitness{
	"nobody ends what is free": {
		statements: []string{query.EndCanceled}, old: "j.locked_by is null and j.locked_at is null or", fresh: "false or",
		favour: []string{"claim", "cancel", "give back", "fail"},
	},
	"stale locks stay": {
		statements: []string{query.EndCanceled}, old: "or j.locked_at < now() - interval '4 hours'",
		favour: []string{"claim", "cancel", "age", "look for requests"},
	},
	"what a worker has is ended": {
		statements: []string{query.EndCanceled}, old: "or j.locked_by = any(", fresh: "or true or j.locked_by = any(",
		favour: []string{"claim", "cancel", "look for requests"},
	},
	"a rescue does not ask": {
		statements: []string{query.EndCanceled}, old: "or j.locked_by = any(", fresh: "or false and j.locked_by = any(",
		favour: []string{"claim", "cancel", "die", "rescue"},
	},
	"requests outlive their jobs": {
		statements: []string{query.EndCanceled}, old: "as j where j.id = c.job_id) is null", fresh: "as j where j.id = c.job_id) = 0",
		favour: []string{"claim", "cancel", "complete", "look for requests"},
	},
	"the queue of a stale lock stays": {
		statements: []string{query.EndCanceled}, old: "where s.id = ended.job_queue_id and starts_with(ended.locked_by, s.locked_by || '.')",
		fresh:  "where false and s.id = ended.job_queue_id",
		favour: []string{"claim", "cancel", "age", "look for requests"},
	},
	"a claim does not ask": {
		statements: []string{query.Requested}, old: "where c.job_id = any($1::bigint[])", fresh: "where c.job_id = any($1::bigint[]) and false",
		favour: []string{"claim", "cancel", "force_unlock_workers"},
	},
	"a failure does not ask": {
		statements: []string{query.FailJobs}, old: "where c.job_id = j.id)", fresh: "where false and c.job_id = j.id)",
		favour: []string{"claim", "cancel", "fail"},
	},
	"a sweep does not ask": {
		statements: []string{query.SweepJobs}, old: "where c.job_id = j.id)", fresh: "where false and c.job_id = j.id)",
		favour: []string{"claim", "cancel", "age", "sweep for dead letters"},
	},
	"a sweep buries what is to end": {
		statements: []string{query.BuryJobs}, old: "where c.job_id = j.id)", fresh: "where false and c.job_id = j.id)",
		favour: []string{"claim", "cancel", "force_unlock_workers", "permanently_fail_jobs", "sweep for dead letters"},
	},
}

// A model that no run can break would prove nothing: without any one of these rules, it is broken.
func TestLeaseWitnesses(t *testing.T) {
	t.Parallel()
	witnesses := maps.Clone(leaseWitnesses)
	maps.Copy(witnesses, cancelWitnesses)
	for name, witness := range witnesses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newLeaseDB(t)
			db.favour = witness.favour
			for _, store := range db.stores {
				witness.rewrite(t, store)
			}
			runs, broken, until := 0, "", time.Now().Add(witnessTime)
			searching := func() bool { return broken == "" && runs < witnessRuns && time.Now().Before(until) }
			for searching() {
				rapid.Check(t, func(rt *rapid.T) {
					if searching() {
						runs++
						broken = db.brokenBy(rt)
					}
				})
			}
			if broken == "" {
				t.Fatalf("%d runs have not broken the model: does the machine run the statements that were changed?", runs)
			}
			t.Logf("run %d: %s", runs, broken)
		})
	}
}

func (w leaseWitness) rewrite(t *testing.T, store interface {
	Rewrite(statement string, rewrite func(string) string)
},
) {
	t.Helper()
	for _, statement := range w.statements {
		store.Rewrite(statement, func(text string) string {
			if !strings.Contains(text, w.old) {
				t.Fatalf("%q is not in the statement:\n%s", w.old, text)
			}
			return strings.ReplaceAll(text, w.old, w.fresh)
		})
	}
}

// brokenBy makes a run, and returns how it breaks the model.
func (db *leaseDB) brokenBy(t *rapid.T) (how string) {
	type broken string
	defer func() {
		switch r := recover().(type) {
		case nil:
		case broken:
			how = string(r)
		default:
			panic(r)
		}
	}()
	db.run(t, func(what string) { panic(broken(what)) })
	return ""
}
