package testutil_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
)

// A handler that looks at its job is tested by calling it.
func TestWithJob(t *testing.T) {
	t.Parallel()
	at := time.Date(2040, 1, 2, 3, 4, 0, 0, time.UTC)
	full := backfill.Job{
		ID: 7, Task: "report", Args: raw(`{"n":1}`), Queue: "q", Key: "k", Priority: -3, Attempt: 30, MaxAttempts: 40, Revision: 2,
		RunAt: at, CreatedAt: at, Flags: []string{"f"}, Cron: &backfill.CronTick{TS: at, Backfilled: true},
	}
	if diff := cmp.Diff(full, backfill.JobInfo(testutil.WithJob(t.Context(), full))); diff != "" {
		t.Errorf("a job with all fields (-want +got):\n%s", diff)
	}
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	ctx = testutil.WithJob(ctx, backfill.Job{Attempt: 2})
	want := backfill.Job{ID: 1, Args: raw(`{}`), Attempt: 2, MaxAttempts: 25}
	got := backfill.JobInfo(ctx)
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(backfill.Job{}, "RunAt", "CreatedAt")); diff != "" {
		t.Errorf("a job with an attempt (-want +got):\n%s", diff)
	}
	if got.CreatedAt.IsZero() || !got.RunAt.Equal(got.CreatedAt) {
		t.Errorf("times %v, %v", got.CreatedAt, got.RunAt)
	}
	if cancel(); ctx.Err() == nil || ctx.Value(key{}) != "value" {
		t.Error("the context is not the caller's")
	}
	if got := backfill.JobInfo(testutil.WithJob(t.Context(), backfill.Job{Attempt: 30})); got.MaxAttempts != 30 {
		t.Errorf("attempt 30 of %d", got.MaxAttempts)
	}
	last := testutil.WithJob(t.Context(), backfill.Job{Attempt: 3, MaxAttempts: 3})
	if v := backfill.VerdictOf(last, errors.New("boom")); !v.Final {
		t.Errorf("the last attempt: %+v", v)
	}
}

// remind sends a mail on the first attempts, and gives up in words on the last.
func remind(ctx context.Context, _ SendEmailArgs) error {
	if job := backfill.JobInfo(ctx); job.Attempt == job.MaxAttempts {
		return backfill.Permanent(errors.New("nobody answers"))
	}
	return nil
}

func ExampleWithJob() {
	ctx := testutil.WithJob(context.Background(), backfill.Job{Attempt: 3, MaxAttempts: 3})
	fmt.Println(remind(ctx, SendEmailArgs{UserID: 7}))
	// Output:
	// nobody answers
}
