package backfill_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// A server that stands still, for longer than it takes to declare a worker dead, makes no worker
// ready, and none dead: neither for a platform that asks for its liveness, nor for the others. When
// it goes on, so do all, and no attempt was charged.
func TestProbesWhileTheServerStandsStill(t *testing.T) {
	t.Parallel()
	const fleet, hurry = 3, 3 // of 30 s
	db := pgtest.New(t)
	proxy := dbtest.NewProxy(t, db.URL)
	client := newClient(t, db)
	release := make(chan struct{})
	var mu sync.Mutex
	var charged []string
	task, registry := taskOf("send_email", func(ctx context.Context, _ mailArgs) error {
		if job := backfill.JobInfo(ctx); job.Attempt != 1 {
			mu.Lock()
			charged = append(charged, fmt.Sprintf("job %d in attempt %d", job.ID, job.Attempt))
			mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-release:
			return nil
		}
	})
	probes := make([]*backfill.Probes, fleet)
	workers := make([]*running, fleet)
	ids := make([]string, fleet)
	for i := range workers {
		probes[i] = new(backfill.Probes)
		own, err := backfill.NewClient(t.Context(), poolOf(t, proxy.URL, func(*pgxpool.Config) {}), backfill.WithLogger(quiet))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(own.Close)
		workers[i] = start(t, own, registry, backfill.WithConcurrency(2), backfill.WithProbes(probes[i]), backfill.Hurry(hurry))
		ids[i] = workers[i].Health().WorkerID
	}
	for i := range 2 * fleet { // half of them are in queues
		var opts []backfill.EnqueueOption
		if i%2 == 0 {
			opts = append(opts, backfill.Queue(fmt.Sprint("queue ", i)))
		}
		enqueue(t, client, task, mailArgs{UserID: int64(i)}, opts...)
	}
	all := func(says func(i int) bool) func() bool {
		return func() bool {
			yes := true
			for i := range workers {
				if code, text := ask(t, probes[i].Live()); code != 200 {
					t.Fatalf("worker %d is not alive: %s", i, text)
				}
				yes = yes && says(i)
			}
			return yes
		}
	}
	ready := func(i int) bool { code, _ := ask(t, probes[i].Ready()); return code == 200 }
	until(t, "full workers", all(func(i int) bool { return workers[i].Health().Running == 2 && ready(i) }))

	goOn := proxy.Stop()
	defer goOn()
	stopped := time.Now()
	until(t, "workers that are not ready", all(func(i int) bool { return !ready(i) && workers[i].Health().Silent }))
	until(t, "the time of a death", all(func(i int) bool {
		if ready(i) {
			t.Fatalf("worker %d is ready without a server", i)
		}
		return time.Since(stopped) > (30+5)*time.Second/hurry
	}))
	goOn()
	until(t, "ready workers", all(ready))
	close(release)
	until(t, "the end of all jobs", all(func(int) bool {
		return get[int](t, db.Pool(), "select count(*)::int from graphile_worker._private_jobs") == 0
	}))
	for i, w := range workers {
		if h := w.Health(); h.WorkerID != ids[i] || h.Recorded.Failed+h.Recorded.Lost > 0 {
			t.Errorf("worker %s is now %+v", ids[i], h)
		}
		events, _ := w.seen()
		for _, e := range events {
			if slices.Contains([]backfill.EventKind{backfill.EventDeath, backfill.EventRescued, backfill.EventFenced}, e.Kind) {
				t.Errorf("worker %s has seen %+v", ids[i], e)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(charged) > 0 {
		t.Errorf("charged: %q", charged)
	}
}
