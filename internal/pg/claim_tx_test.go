package pg_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// mixed is a job that waits among others, as the model of a claim sees it.
type mixed struct {
	id      int64
	task    string // a is plain, b transactional, paused a task that is paused, and foreign nobody's
	queue   string
	flagged bool
}

// Whatever waits in front of whatever: claims take every plain job, and of the transactional ones as
// many as there is room for, and nothing of paused queues and tasks, nor what has a forbidden flag. In
// a queue they take the first job that the worker serves, unless that waits for a connection, also
// while pauses come and go, with and without forbidden flags, and without the index on queues.
func TestClaimsAmongPausesAndTransactions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ unindexed, flags bool }{
		"indexed": {}, "with forbidden flags": {flags: true}, "without the index on queues": {unindexed: true},
		"without the index, with flags": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.store.LogTo(slog.New(slog.DiscardHandler))
			if test.unindexed {
				dbtest.Run(t, r.pool, "drop index graphile_worker.backfill_jobs_queue_idx")
			}
			registration := worker.Registration{ID: r.id, Tasks: []string{"a", "b", "paused"}, Transactional: []string{"b"}}
			r.id = wire.NewWorkerID()
			registration.ID = r.id
			if err := r.store.Register(t.Context(), registration); err != nil {
				t.Fatal(err)
			}
			r.pause("paused")
			r.store.ForgetTasks()
			if test.flags {
				r.forbidden = []string{"slow"}
			}
			seed := rand.Uint64()
			random := rand.New(rand.NewPCG(seed, 0))
			for round := range 8 {
				if !r.mixedRound(random) {
					t.Fatalf("round %d of seed %d", round, seed)
				}
			}
		})
	}
}

// mixedRound lets jobs wait, some queues be paused, and claims be made until they find no more. Then
// the pauses change, and it goes on.
func (r *rig) mixedRound(random *rand.Rand) (ok bool) {
	r.t.Helper()
	dbtest.Run(r.t, r.pool, "delete from graphile_worker._private_jobs")
	dbtest.Run(r.t, r.pool, "update graphile_worker._private_job_queues set locked_at = null, locked_by = null")
	few := random.IntN(2) == 0 // of queues: then some claims see none
	n := 1 + random.IntN(60)
	for range n {
		task := []string{"a", "b", "a", "b", "paused", "foreign"}[random.IntN(6)]
		queue, flags := "null", "null"
		if random.IntN(2) == 0 && !few {
			queue = fmt.Sprintf("'q%d'", random.IntN(12))
		}
		if random.IntN(4) == 0 {
			flags = "array['slow']"
		}
		r.add(fmt.Sprintf("'%s', queue_name := %s, flags := %s, priority := %d, run_at := now() - interval '%d seconds'",
			task, queue, flags, random.IntN(3), random.IntN(5)))
	}
	room := random.IntN(4)
	held := map[string]bool{} // queues
	taken := map[int64]bool{}
	for range 3 {
		paused := map[string]bool{}
		dbtest.Run(r.t, r.pool, "delete from graphile_worker.backfill_queue_pauses")
		for q := range 12 {
			if name := fmt.Sprint("q", q); random.IntN(3) == 0 {
				paused[name] = true
				r.pause("", name)
			}
		}
		want, most := r.mixedModel(paused, held)
		var got []int64
		transactional := 0
		for until := time.Now().Add(20 * time.Second); time.Now().Before(until); {
			r.claims++
			claimed, err := r.store.Claim(r.t.Context(), worker.ClaimRequest{
				WorkerID: r.id, Number: r.claims, Batch: 1 + random.IntN(20), Serial: 20, Transactional: room, Forbidden: r.forbidden,
			})
			if err != nil {
				r.t.Fatal(err)
			}
			for _, job := range claimed.Jobs {
				if job.Queue != "" {
					held[job.Queue] = true
				}
				taken[job.ID] = true
				if job.Task == "b" {
					transactional, room = transactional+1, room-1
					if !slices.Contains(most, job.ID) {
						r.t.Errorf("claimed the transactional job %d, want of %v", job.ID, most)
					}
					continue
				}
				if job.Task != "a" {
					r.t.Errorf("claimed job %d of task %q", job.ID, job.Task)
				}
				got = append(got, job.ID)
			}
			if room < 0 {
				r.t.Errorf("%d transactional jobs more than there is room for", -room)
			}
			if !claimed.More && claimed.Again == 0 && !claimed.MoreSerial {
				break
			}
			r.wait(claimed)
		}
		if room > 0 && transactional < len(most) {
			r.t.Errorf("claimed %d transactional jobs of %v, with room for %d more", transactional, most, room)
		}
		wantIDs(r.t, "plain jobs", got, want...)
		if r.t.Failed() {
			return false
		}
		r.wantConsistent()
	}
	return !r.t.Failed()
}

// mixedModel says which plain jobs claims will take, and of which transactional ones they may.
func (r *rig) mixedModel(paused, held map[string]bool) (plain, transactional []int64) {
	rows, _ := r.pool.Query(r.t.Context(), `select j.id, t.identifier, coalesce(s.queue_name, ''), coalesce(j.flags ? 'slow', false)
		from graphile_worker._private_jobs as j join graphile_worker._private_tasks as t on t.id = j.task_id
		left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
		where j.is_available order by j.priority, j.run_at, j.id`)
	jobs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (j mixed, err error) {
		return j, row.Scan(&j.id, &j.task, &j.queue, &j.flagged)
	})
	if err != nil {
		r.t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, job := range jobs {
		switch {
		case job.task == "paused" || job.task == "foreign" || job.flagged && r.forbidden != nil:
			continue
		case job.queue != "" && (paused[job.queue] || held[job.queue] || seen[job.queue]):
			continue
		case job.queue != "":
			seen[job.queue] = true
		}
		if job.task == "b" {
			transactional = append(transactional, job.id)
		} else {
			plain = append(plain, job.id)
		}
	}
	return plain, transactional
}
