package worker_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/worker"
)

// Patience ends at its time in a process that has time to run, says why, and leaves nothing behind,
// which the bubble would report.
func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := worker.WithPatience(t.Context(), 2*time.Second)
		defer cancel()
		<-ctx.Done()
		if took := time.Since(start); took != 2*time.Second || !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			t.Errorf("it ended after %v with %v", took, context.Cause(ctx))
		}
		early, end := worker.WithPatience(t.Context(), time.Hour)
		end()
		if early.Err() == nil {
			t.Error("it does not end when it is told to")
		}
	})
}
