package backfill_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
)

var mailTask = &backfill.Task[mailArgs]{Name: "send_email"}

func TestEnqueue(t *testing.T) {
	t.Parallel()
	fake := &fakeEnqueuer{}
	job, err := backfill.Enqueue(t.Context(), fake, mailTask, mailArgs{UserID: 7}, backfill.Key("k"))
	if err != nil {
		t.Fatal(err)
	}
	if job.ID != 1 || fake.requests[0].Key != "k" {
		t.Errorf("got job %+v of %+v", job, fake.requests[0])
	}
}

func TestEnqueueErrors(t *testing.T) {
	t.Parallel()
	down := errors.New("database is down")
	_, err := backfill.Enqueue(t.Context(), nil, mailTask, mailArgs{})
	if !errors.Is(err, backfill.ErrNoClient) {
		t.Errorf("nil Enqueuer: %v", err)
	}
	wantError(t, err, "backfill.NewContext")
	if _, err = backfill.Enqueue(t.Context(), &fakeEnqueuer{err: down}, mailTask, mailArgs{}); !errors.Is(err, down) {
		t.Errorf("got %v", err)
	}
	_, err = backfill.Enqueue(t.Context(), &fakeEnqueuer{short: true}, mailTask, mailArgs{})
	wantError(t, err, "returned 0 jobs for one request")
	_, err = backfill.Enqueue(t.Context(), &fakeEnqueuer{}, (*backfill.Task[mailArgs])(nil), mailArgs{})
	wantError(t, err, "the *Task is nil")
}

func TestEnqueueMany(t *testing.T) {
	t.Parallel()
	fake := &fakeEnqueuer{}
	args := []mailArgs{{UserID: 1}, {UserID: 2}, {UserID: 1}} // equal keys are allowed
	keyed := &backfill.Task[mailArgs]{Name: "send_email", Key: func(mailArgs) string { return "same" }}
	jobs, err := backfill.EnqueueMany(t.Context(), fake, keyed, args, backfill.PriorityFastHigh)
	if err != nil {
		t.Fatal(err)
	}
	if len(jobs) != 3 || fake.calls != 1 {
		t.Errorf("%d jobs in %d round trips", len(jobs), fake.calls)
	}
	want := []string{`send_email{"user_id":1}`, `send_email{"user_id":2}`, `send_email{"user_id":1}`}
	if diff := cmp.Diff(want, fake.sent()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	for i, r := range fake.requests {
		if r.Key != "same" || r.Priority != -10 {
			t.Errorf("request %d: %+v", i, r)
		}
	}
}

func TestEnqueueManyErrors(t *testing.T) {
	t.Parallel()
	fake := &fakeEnqueuer{}
	if jobs, err := backfill.EnqueueMany(t.Context(), fake, mailTask, nil); jobs != nil || err != nil || fake.calls != 0 {
		t.Errorf("no args: %v, %v, %d round trips", jobs, err, fake.calls)
	}
	for _, args := range [][]mailArgs{nil, {{}, {}}} {
		if _, err := backfill.EnqueueMany(t.Context(), nil, mailTask, args); !errors.Is(err, backfill.ErrNoClient) {
			t.Errorf("nil Enqueuer: %v", err)
		}
		_, err := backfill.EnqueueMany(t.Context(), fake, mailTask, args, backfill.Key("k"))
		wantError(t, err, "the option Key would give every job the same key")
	}
	if fake.calls != 0 {
		t.Errorf("%d round trips", fake.calls)
	}
	_, err := backfill.EnqueueMany(t.Context(), &fakeEnqueuer{short: true}, mailTask, []mailArgs{{}, {}})
	wantError(t, err, "returned 1 jobs for 2 requests")
}

func TestContext(t *testing.T) {
	t.Parallel()
	for name, ctx := range map[string]context.Context{"bare": t.Context(), "nil": backfill.NewContext(t.Context(), nil)} {
		e := backfill.FromContext(ctx)
		for _, e := range []backfill.Enqueuer{e, e.WithTx(nil), e.WithSQLTx(nil)} {
			if _, err := e.Enqueue(ctx, mailTask.Request(mailArgs{})); !errors.Is(err, backfill.ErrNoClient) {
				t.Errorf("%s context: %v", name, err)
			}
		}
	}
	outer, inner := &fakeEnqueuer{}, &fakeEnqueuer{}
	ctx := backfill.NewContext(backfill.NewContext(t.Context(), outer), inner)
	if got := backfill.FromContext(ctx); got != backfill.Enqueuer(inner) {
		t.Errorf("got %v", got)
	}
}
