package enqueue_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/enqueue"
)

// recorder is a Handler that counts, and looks at the context that has ended.
type recorder struct{ canceled, reset int }

func (r *recorder) HandleCancel(ctx context.Context) {
	<-ctx.Done()
	if ctx.Err() != nil && context.Cause(ctx) != nil {
		r.canceled++
	}
}

func (r *recorder) HandleUnwatchAfterCancel() { r.reset++ }

// A context ends with its caller's, by End, and when a step takes too long; it then interrupts what
// is under way, once, and sends nothing more.
func TestContextEnds(t *testing.T) {
	t.Parallel()
	why := errors.New("why")
	ways := []struct {
		name  string
		end   func(c *enqueue.Context, caller context.CancelCauseFunc)
		cause error
	}{
		{"caller", func(_ *enqueue.Context, caller context.CancelCauseFunc) { caller(why) }, why},
		{"end", func(c *enqueue.Context, _ context.CancelCauseFunc) { c.End(why) }, why},
		{"limit", func(c *enqueue.Context, _ context.CancelCauseFunc) {
			for range 3 {
				<-time.After(enqueue.Timeout - time.Second)
				c.Step()
			}
			if c.Err() != nil {
				t.Errorf("it ended with %v, though each step was short", c.Cause())
			}
			<-time.After(2 * enqueue.Timeout)
		}, enqueue.ErrNoAnswer},
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				caller, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				var limits enqueue.Limits
				c := limits.NewContext(caller)
				defer c.Leave()
				var h, late recorder
				if err := c.Watch(&h); err != nil || c.Statements().Done() != nil {
					t.Fatalf("watched: %v, and pgx would watch it: %v", err, c.Statements().Done() != nil)
				}
				way.end(c, cancel)
				synctest.Wait()
				select {
				case <-c.Done():
				default:
					t.Fatal("it has not ended")
				}
				c.End(errors.New("later"))
				c.Unwatch()
				if !errors.Is(c.Cause(), way.cause) || c.Err() == nil || h != (recorder{canceled: 1, reset: 1}) {
					t.Errorf("cause %v, want %v; err %v; interrupted and reset %+v, want once", c.Cause(), way.cause, c.Err(), h)
				}
				if c.Watch(&late) == nil || late != (recorder{}) || c.Statements().Done() == nil {
					t.Errorf("an ended context is watched: %+v", late)
				}
			})
		})
	}
}

// withDeadline has a deadline at which nothing happens.
type withDeadline struct{ context.Context } //nolint:containedctx // it is one

func (withDeadline) Deadline() (time.Time, bool) { return time.Now().Add(time.Hour), true }

// After Unwatch nothing is interrupted. A context that was left has ended, for whoever has kept it.
func TestContextUnwatched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		caller, cancel := context.WithCancel(t.Context())
		var limits enqueue.Limits
		c := limits.NewContext(caller)
		var h recorder
		if err := c.Watch(&h); err != nil {
			t.Fatal(err)
		}
		c.Unwatch()
		derived, stop := context.WithCancel(c)
		defer stop()
		if c.Leave(); c.Err() == nil {
			t.Error("it was left and has not ended")
		}
		<-derived.Done()
		cancel()
		<-time.After(2 * enqueue.Timeout)
		if !errors.Is(c.Cause(), context.Canceled) || h != (recorder{}) {
			t.Errorf("cause %v, interrupted %+v", c.Cause(), h)
		}
		ended := limits.NewContext(caller)
		if !errors.Is(ended.Cause(), context.Canceled) || ended.Watch(&h) == nil {
			t.Error("a caller's context that had ended is not seen at once")
		}
		limited, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		own := limits.NewContext(limited)
		defer own.Leave()
		<-time.After(time.Minute)
		if own.Err() != nil {
			t.Errorf("it ended with %v before the caller's deadline", own.Cause())
		}
		never := limits.NewContext(withDeadline{context.Background()})
		defer never.Leave()
		<-never.Done()
	})
}
