package testutil_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
)

var (
	taskPurge  = &backfill.Task[backfill.NoArgs]{Name: "purge"}
	taskNotify = &backfill.Task[[]SendEmailArgs]{Name: "notify", Key: func([]SendEmailArgs) string { return "notify" }}
)

var errDown = errors.New("database is down")

// ignoreProblems is what the documentation tells users of go-cmp to pass.
var ignoreProblems = cmpopts.IgnoreUnexported(backfill.Request{})

func raw(s string) json.RawMessage { return json.RawMessage(s) }

// Ids count from 1, and the clock is time.Now. A job that was returned does not change any more.
func TestRecorderNumbersAndTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var rec testutil.Recorder // the zero value works
		jobs, err := rec.Enqueue(t.Context(), backfill.Request{Task: "a"}, backfill.Request{Task: "b", Key: "k", Delay: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now() // stands still in the bubble
		want := []*backfill.Job{
			{ID: 1, Task: "a", Args: raw("{}"), MaxAttempts: 25, RunAt: now, CreatedAt: now},
			{ID: 2, Task: "b", Args: raw("{}"), Key: "k", MaxAttempts: 25, RunAt: now.Add(time.Hour), CreatedAt: now},
		}
		if diff := cmp.Diff(want, jobs); diff != "" {
			t.Errorf("jobs (-want +got):\n%s", diff)
		}
		time.Sleep(time.Minute)
		again, err := rec.Enqueue(t.Context(), backfill.Request{Task: "b", Key: "k"}, backfill.Request{Task: "c"})
		if err != nil {
			t.Fatal(err)
		}
		want[1].RunAt, want[1].Revision = time.Now(), 1
		want[0] = &backfill.Job{ID: 3, Task: "c", Args: raw("{}"), MaxAttempts: 25, RunAt: time.Now(), CreatedAt: time.Now()}
		if diff := cmp.Diff([]*backfill.Job{want[1], want[0]}, again); diff != "" {
			t.Errorf("later jobs (-want +got):\n%s", diff)
		}
		mustEnqueue(t, &rec, backfill.Request{Task: "b", Key: "k", KeyMode: backfill.UnsafeDedupe})
		if jobs[1].Revision != 0 || !jobs[1].RunAt.Equal(now.Add(time.Hour)) || again[0].Revision != 1 {
			t.Errorf("jobs that were returned have changed: %+v, %+v", jobs[1], again[0])
		}
		rec.Reset()
		fresh, err := rec.Enqueue(t.Context(), backfill.Request{Task: "b", Key: "k"})
		if err != nil || fresh[0].ID != 1 || fresh[0].Revision != 0 || len(rec.Requests()) != 1 {
			t.Errorf("after Reset: %v, %v, recorded %v", fresh, err, rec.Requests())
		}
	})
}

// Requests are those of every way to enqueue, in order, whatever key they have.
func TestRequests(t *testing.T) {
	t.Parallel()
	rec := testutil.NewRecorder()
	if got := rec.Requests(); len(got) != 0 {
		t.Errorf("at first: %v", got)
	}
	ctx := backfill.NewContext(t.Context(), rec)
	pgxTx := rec.WithTx(struct{ pgx.Tx }{})
	args, flags := raw(`{"n":1}`), []string{"f"}
	mustEnqueue(t, backfill.FromContext(ctx), backfill.Request{Task: "a", Args: args, Flags: flags}, backfill.Request{Task: "b", Key: "k"})
	copy(args, "[2222]!") // as the caller of a real client may
	flags[0] = "changed"
	mustEnqueue(t, pgxTx, backfill.Request{Task: "b", Key: "k", Delay: time.Hour})
	mustEnqueue(t, rec.WithSQLTx(new(sql.Tx)), backfill.Request{Task: "c"})
	mustEnqueue(t, pgxTx.WithSQLTx(new(sql.Tx)).WithTx(struct{ pgx.Tx }{}), TaskSendEmail.Request(SendEmailArgs{7, "a"}))
	want := []backfill.Request{
		{Task: "a", Args: raw(`{"n":1}`), Flags: []string{"f"}},
		{Task: "b", Key: "k"},
		{Task: "b", Key: "k", Delay: time.Hour},
		{Task: "c"},
		{Task: "send_email", Args: raw(`{"user_id":7,"template":"a"}`), Queue: "user:7"},
	}
	got := rec.Requests()
	if diff := cmp.Diff(want, got, ignoreProblems); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	got[0].Args[2], got[0].Flags[0], got[1].Task = 'x', "x", "x"
	if diff := cmp.Diff(want, rec.Requests(), ignoreProblems); diff != "" {
		t.Errorf("after a change of the copy (-want +got):\n%s", diff)
	}
}

func TestFailWith(t *testing.T) {
	t.Parallel()
	rec := testutil.NewRecorder()
	tx := rec.WithTx(struct{ pgx.Tx }{}) // from before
	rec.FailWith(errDown)
	rec.Reset()
	for prefix, e := range map[string]backfill.Enqueuer{"enqueue: ": rec, "in transaction: enqueue: ": tx} {
		jobs, err := e.Enqueue(t.Context(), backfill.Request{Task: "a"})
		if jobs != nil || !errors.Is(err, errDown) || !strings.HasPrefix(fmt.Sprint(err), prefix) {
			t.Errorf("got %v, %v, want %s… %v", jobs, err, prefix, errDown)
		}
		if _, err := e.Enqueue(t.Context(), backfill.Request{}); err == nil || errors.Is(err, errDown) {
			t.Errorf("a request that is wrong: %v", err)
		}
		if _, err := e.Enqueue(t.Context()); err != nil {
			t.Errorf("no requests: %v", err)
		}
	}
	if got := rec.Requests(); got != nil {
		t.Errorf("recorded %v", got)
	}
	rec.FailWith(nil)
	mustEnqueue(t, tx, backfill.Request{Task: "a"})
	if got := rec.Requests(); len(got) != 1 {
		t.Errorf("recorded %v", got)
	}
}

func TestRecorderIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	const callers, each = 8, 50
	rec := testutil.NewRecorder()
	ids := make(chan int64, callers*each)
	var wg sync.WaitGroup
	for caller := range int64(callers) {
		client := NewClient(rec)
		if caller%2 == 0 {
			client = client.WithTx(struct{ pgx.Tx }{})
		}
		wg.Go(func() {
			for range each {
				job, err := client.EnqueueSendEmail(t.Context(), SendEmailArgs{UserID: caller})
				if err != nil {
					t.Error(err)
					return
				}
				ids <- job.ID
				_ = rec.Requests()
				rec.FailWith(nil)
			}
		})
	}
	wg.Wait()
	close(ids)
	var want, got []int64
	for id := range ids {
		got = append(got, id)
		want = append(want, int64(len(got)))
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" || len(got) != callers*each {
		t.Errorf("%d ids, want 1 to %d:\n%s", len(got), callers*each, diff)
	}
	byCaller := map[int64]int{}
	for _, job := range testutil.Enqueued(t, rec, TaskSendEmail) {
		if job.InTx == (job.Args.UserID%2 == 0) {
			byCaller[job.Args.UserID]++
		}
	}
	for caller := range int64(callers) {
		if byCaller[caller] != each {
			t.Errorf("caller %d: %d jobs, want %d", caller, byCaller[caller], each)
		}
	}
}

func mustEnqueue(t *testing.T, e backfill.Enqueuer, requests ...backfill.Request) []*backfill.Job {
	t.Helper()
	jobs, err := e.Enqueue(t.Context(), requests...)
	if err != nil {
		t.Fatal(err)
	}
	return jobs
}
