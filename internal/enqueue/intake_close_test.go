package enqueue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/enqueue"
	"github.com/backfillhq/go/internal/wire"
)

// callingBack is an inserter whose statements are interrupted by a handler that enqueues.
type callingBack struct {
	intake *enqueue.Intake
	handed chan error
}

func (i *callingBack) Insert(
	ctx *enqueue.Context, _ []wire.Spec, _ enqueue.Piggyback,
) ([]*wire.Job, bool, error) {
	if err := ctx.Watch(i); err != nil {
		return nil, false, err
	}
	defer ctx.Unwatch()
	err := <-i.handed
	return nil, false, &wire.UnknownError{Err: fmt.Errorf("%w; the handler: %w", ctx.Cause(), err)}
}

func (i *callingBack) HandleCancel(context.Context) {
	_, err := i.intake.Insert(context.Background(), []wire.Spec{{Task: "back"}})
	i.handed <- err
}

func (*callingBack) HandleUnwatchAfterCancel() {}

// Close ends an insert whose handler calls back.
func TestIntakeCloseCallsNoHandlerUnderItsLock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		inserter := &callingBack{handed: make(chan error, 1)}
		nudger := enqueue.NewNudger(func(context.Context, int) error { return nil }, func(error) {})
		defer nudger.Close()
		inserter.intake = enqueue.NewIntake(inserter, 1, nudger)
		done := make(chan error, 1)
		go func() {
			_, err := inserter.intake.Insert(t.Context(), []wire.Spec{{Task: "a"}})
			done <- err
		}()
		synctest.Wait()
		inserter.intake.Close()
		if err := <-done; !errors.Is(err, enqueue.ErrClosed) {
			t.Errorf("got %v, want %v", err, enqueue.ErrClosed)
		}
	})
}

// Close ends, whatever hangs, and refuses what comes later.
func TestIntakeClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newIntakeRig()
		r.takes = time.Hour
		r.hold("held")
		r.call(t.Context(), "", "direct")
		r.call(t.Context(), "held", "blocked")
		r.call(t.Context(), "k", "keyed")
		began := time.Now()
		r.intake.Close()
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("Close took %v", took)
		}
		const unknown = "the jobs may or may not have been enqueued: the client was closed: close it after its last use"
		_, err := r.intake.Insert(t.Context(), []wire.Spec{{Task: "late"}})
		if _, unsent := errors.AsType[*wire.NotEnqueuedError](err); !unsent {
			t.Errorf("after Close: %v", err)
		}
		r.callers.Wait()
		for task, want := range map[string]string{"direct": unknown, "keyed": unknown} {
			if got, _ := r.results.Load(task); got != want {
				t.Errorf("%s: %v", task, got)
			}
		}
		r.nudger.Close()
	})
}
