package await_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/await"
)

// looks counts what a Watch asks.
type looks struct {
	mu    sync.Mutex // the Watch's goroutine and the test read and write the rest
	asked [][]int64
	at    []time.Time
	took  time.Duration
	err   error
}

func (l *looks) look(ctx context.Context, ids []int64) (map[int64]string, error) {
	l.mu.Lock()
	l.asked, l.at = append(l.asked, slices.Clone(ids)), append(l.at, time.Now())
	took, err := l.took, l.err
	l.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	found := map[int64]string{}
	for _, id := range ids {
		found[id] = "stands"
	}
	return found, err
}

func (l *looks) set(took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took, l.err = took, err
}

// made returns the looks so far.
func (l *looks) made() (asked [][]int64, at []time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.asked), slices.Clone(l.at)
}

// One statement looks at the jobs of all callers, less and less often, while there are any.
func TestOneLookForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &looks{}
		w := await.New(l.look)
		var callers []*await.Caller[string]
		for i := range 250 {
			callers = append(callers, w.Add(int64(i%150)))
		}
		for i, c := range callers {
			if got := <-c.Looks; got.Standing != "stands" || got.Err != nil {
				t.Fatalf("caller %d: %+v", i, got)
			}
		}
		asked, _ := l.made()
		if len(asked) != 2 || len(asked[0]) != 100 || len(asked[1]) != 50 {
			t.Errorf("%d looks", len(asked))
		}
		before := len(asked)
		time.Sleep(time.Minute)
		asked, at := l.made()
		if n := len(asked) - before; n < 100 || n > 400 { // 20 a second at first, one a second in the end, two each
			t.Errorf("%d looks in a minute", n)
		}
		if last := at[len(at)-1].Sub(at[len(at)-3]); last > time.Second+50*time.Millisecond {
			t.Errorf("%v between two looks", last)
		}
		for _, c := range callers {
			w.Remove(c)
		}
		w.Remove(callers[0])
		synctest.Wait()
		asked, _ = l.made()
		time.Sleep(time.Minute)
		if more, _ := l.made(); len(more) != len(asked) {
			t.Errorf("%d looks without callers", len(more)-len(asked))
		}
		// synctest fails the test if the goroutine is left
	})
}

// Who comes during a look is told of a later one: the look may have been before its job was there.
func TestNobodyIsToldOfAnEarlierLook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &looks{took: time.Second}
		w := await.New(l.look)
		defer w.Close()
		w.Add(1)
		time.Sleep(time.Second / 2)
		late, since := w.Add(1), time.Now()
		<-late.Looks
		if _, at := l.made(); at[1].Before(since) || time.Since(since) < time.Second {
			t.Errorf("it was told after %v", time.Since(since))
		}
	})
}

// A caller gets the latest look, also if it has not taken the one before; an error is handed on;
// and a look that hangs is given up.
func TestLatestLook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		errDown := errors.New("down")
		l := &looks{}
		w := await.New(l.look)
		defer w.Close()
		c := w.Add(1)
		time.Sleep(time.Second)
		l.set(0, errDown)
		time.Sleep(2 * time.Second)
		if got := <-c.Looks; !errors.Is(got.Err, errDown) {
			t.Errorf("got %+v", got)
		}
		l.set(time.Hour, nil)
		time.Sleep(10 * time.Second)
		if got := <-c.Looks; !errors.Is(got.Err, context.DeadlineExceeded) {
			t.Errorf("got %+v", got)
		}
	})
}

func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &looks{took: time.Hour}
		w := await.New(l.look)
		c := w.Add(1)
		synctest.Wait()
		w.Close()
		if _, ok := <-c.Looks; ok {
			t.Error("it was told of a look")
		}
		w.Remove(c)
		w.Close()
		if w.Add(1) != nil {
			t.Error("a closed Watch looks")
		}
		(*await.Watch[string])(nil).Close()
	})
}
