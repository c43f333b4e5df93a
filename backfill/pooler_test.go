package backfill_test

import (
	"context"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// unprepared says that a pool prepares no statements.
func unprepared(t *testing.T, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set("default_query_exec_mode", "exec")
	u.RawQuery = query.Encode()
	return u.String()
}

func openURL(t *testing.T, databaseURL string) *backfill.Client {
	t.Helper()
	client, err := backfill.Open(t.Context(), databaseURL, backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// Through a transaction pooler a client enqueues and a worker runs. Where the client's prepared
// statements get lost, the error says what to do.
func TestThroughAPooler(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	through := dbtest.Pooler(t, db.URL, "transaction", 3)
	client := openURL(t, unprepared(t, through))
	for range 3 {
		enqueue(t, client, &backfill.Task[mailArgs]{Name: "send_email"}, mailArgs{})
	}
	_, registry := taskOf("send_email", ignore)
	if report := runOnce(t, client, registry); report.Completed != 3 {
		t.Errorf("report %+v, want 3 completed jobs", report)
	}
	wantJobs(t, db, 0)

	for range 20 { // each prepares statements of the same names, in sessions that it shares with the others
		other, err := backfill.Open(t.Context(), through, backfill.WithLogger(quiet))
		if err == nil {
			t.Cleanup(other.Close)
			_, err = other.Enqueue(t.Context(), backfill.Request{Task: "send_email"})
		}
		if err != nil {
			wantError(t, err, "add default_query_exec_mode=exec to the connection string")
			return
		}
	}
	t.Error("prepared statements work through the pooler")
}

// A worker behind a transaction pooler says at its start what that means, and Health does, too.
// With another URL it listens around the pooler.
func TestListeningBehindAPooler(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := openURL(t, unprepared(t, dbtest.Pooler(t, db.URL, "transaction", 3)))
	task, registry := taskOf("send_email", ignore)
	for name, test := range map[string]struct {
		opts     []backfill.WorkerOption
		pollOnly bool
	}{
		"alone":         {nil, true},
		"WithoutListen": {[]backfill.WorkerOption{backfill.WithoutListen()}, true},
		"WithListenURL": {[]backfill.WorkerOption{backfill.WithListenURL(db.URL)}, false},
	} {
		var log logBook
		w := startFirst(t, client, registry, append(test.opts, backfill.WithLogger(log.logger()))...)
		if !test.pollOnly {
			w.await("listening", 1, is(backfill.EventListening))
		}
		enqueue(t, client, task, mailArgs{})
		if !test.pollOnly {
			w.await("woken", 1, is(backfill.EventWoken))
		}
		w.awaitRecorded(1)
		if h := w.Health(); h.PollOnly != test.pollOnly || h.Listening == test.pollOnly || h.Ready() != nil {
			t.Errorf("%s: Health says %+v", name, h)
		}
		log.want(t, "pooler=transaction")
		if test.pollOnly && test.opts == nil {
			log.want(t, "WithListenURL", "within 2 seconds")
		}
		if err := w.stop(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Options about listening that cannot be meant are reported when the worker is made.
func TestListenOptions(t *testing.T) {
	t.Parallel()
	client := newClient(t, pgtest.New(t))
	_, registry := taskOf("send_email", ignore)
	for want, opts := range map[string][]backfill.WorkerOption{
		"WithListenURL: the URL is empty":                               {backfill.WithListenURL("")},
		"WithListenURL: the database URL cannot be":                     {backfill.WithListenURL("postgres://app:s3cr3t@db:port/shop")},
		"WithListenURL and WithoutListen: give one of them":             {backfill.WithListenURL("postgres://db/shop"), backfill.WithoutListen()},
		"new worker: WithListenURL and WithoutListen: give one of them": {backfill.WithoutListen(), backfill.WithListenURL("postgres://db/shop")},
	} {
		_, err := client.NewWorker(registry, opts...)
		wantError(t, err, want)
		if err != nil {
			wantSecret(t, "s3cr3t", err.Error())
		}
	}
}

// A worker without a listener, on a direct connection, has none.
func TestWithoutListen(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	task, registry := taskOf("send_email", ignore)
	client := openURL(t, db.URL)
	w := startFirst(t, client, registry, backfill.WithoutListen())
	enqueue(t, client, task, mailArgs{})
	w.awaitRecorded(1)
	if n := get[int](t, db.Pool(), `select count(*) from pg_stat_activity
		where datname = current_database() and query ~* '^\s*listen'`); n > 0 {
		t.Errorf("%d sessions listen", n)
	}
	events, _ := w.seen()
	if n := count(events, backfill.EventListening) + count(events, backfill.EventDisrupted); n > 0 || !w.Health().PollOnly {
		t.Errorf("%d events about a listener, Health %+v", n, w.Health())
	}
}

// startFirst is start for workers that may not listen: it waits until the worker looks for jobs.
func startFirst(t *testing.T, client *backfill.Client, r *backfill.Registry, opts ...backfill.WorkerOption) *running {
	t.Helper()
	w := launch(t, client, r, opts...)
	w.await("started", 1, is(backfill.EventStarted))
	return w
}

// Poolers are restarted. A worker behind one that is killed under load goes on within seconds, and
// loses nothing; nor does a client that was told that its jobs are there.
func TestPoolerRestarts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pooler := dbtest.NewPgBouncer(t, db.URL, "transaction", 5)
	client := openURL(t, unprepared(t, pooler.URL))
	var mu sync.Mutex
	ran := map[int]int{}
	task, registry := taskOf("count", func(_ context.Context, n int) error {
		mu.Lock()
		defer mu.Unlock()
		ran[n]++
		return nil
	})
	w := launch(t, client, registry, backfill.WithListenURL(db.URL), backfill.WithConcurrency(8))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	added := make(chan []int)
	go func() {
		var known []int
		for n := 0; ctx.Err() == nil; n++ {
			if _, err := backfill.Enqueue(t.Context(), client, task, n); err == nil {
				known = append(known, n)
			}
		}
		added <- known
	}()
	for restarts := 1; restarts <= 3; restarts++ {
		w.awaitRecorded(100 * restarts)
		pooler.Kill()
		<-time.After(500 * time.Millisecond) // so that connecting fails meanwhile
		pooler.Start()
		back := time.Now()
		before, _ := w.seen()
		w.await("completed after the restart", count(before, backfill.EventCompleted)+1, is(backfill.EventCompleted))
		if took := time.Since(back); took > 5*time.Second {
			t.Errorf("restart %d: the first job was completed %v later", restarts, took)
		} else {
			t.Logf("restart %d: the first job was completed %v later", restarts, took)
		}
	}
	cancel()
	known := receive(t, "the end of enqueues", added)
	until(t, "all jobs", func() bool { return len(jobRows(t, db)) == 0 })
	mu.Lock()
	defer mu.Unlock()
	for _, n := range known {
		if ran[n] == 0 {
			t.Errorf("job %d was acknowledged, and did not run", n)
		}
	}
	twice := 0
	for _, times := range ran {
		twice += times - 1
	}
	t.Logf("%d jobs ran, %d of them again because the answer to their outcome was lost", len(ran), twice)
}
