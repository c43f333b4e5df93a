package enqueue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/enqueue"
	"github.com/backfillhq/go/internal/wire"
)

// slowInserter takes its time for each insert, and remembers them.
type slowInserter struct {
	mu      sync.Mutex
	batches []string // the tasks of each insert, in the order in which they began
	active  int
	most    int
	next    int64
	fail    func(tasks string) error
	ride    bool // single jobs take their notification along
	takes   time.Duration
}

func (s *slowInserter) Insert(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
	names := make([]string, len(specs))
	for i, spec := range specs {
		names[i] = spec.Task
	}
	tasks := strings.Join(names, " ")
	s.mu.Lock()
	s.batches = append(s.batches, tasks)
	s.active++
	s.most = max(s.most, s.active)
	s.mu.Unlock()
	timer := time.NewTimer(s.takes)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if s.fail != nil {
		if err := s.fail(tasks); err != nil {
			return nil, err
		}
	}
	jobs := make([]*wire.Job, len(specs))
	for i, spec := range specs {
		s.next++
		jobs[i] = &wire.Job{Lease: wire.Lease{ID: s.next}, Task: spec.Task}
	}
	return jobs, nil
}

// InsertAndNotify notifies a tenth of a second after the insert.
func (s *slowInserter) InsertAndNotify(ctx context.Context, spec wire.Spec, notified func()) (*wire.Job, bool, error) {
	if !s.ride {
		return nil, false, nil
	}
	jobs, err := s.Insert(ctx, []wire.Spec{spec})
	time.AfterFunc(100*time.Millisecond, notified)
	if err != nil {
		return nil, true, err
	}
	return jobs[0], true, nil
}

// intakeRig is an intake on a slow inserter, with what callers got.
type intakeRig struct {
	slowInserter
	intake  *enqueue.Intake
	nudger  *enqueue.Nudger
	callers sync.WaitGroup
	nudged  int
	results sync.Map // caller -> result
}

func newIntakeRig() *intakeRig {
	r := &intakeRig{slowInserter: slowInserter{takes: time.Second}}
	r.nudger = enqueue.NewNudger(func(_ context.Context, jobs int) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.nudged += jobs
		return nil
	}, func(error) {})
	r.intake = enqueue.NewIntake(&r.slowInserter, 10, r.nudger)
	return r
}

// told returns how many jobs the workers were notified of.
func (r *intakeRig) told() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nudged
}

// call inserts jobs of these tasks in a goroutine, and returns when it is under way.
func (r *intakeRig) call(ctx context.Context, key string, tasks ...string) {
	specs := make([]wire.Spec, len(tasks))
	for i, task := range tasks {
		specs[i] = wire.Spec{Task: task, Key: key}
	}
	r.callers.Go(func() {
		jobs, err := r.intake.Insert(ctx, specs)
		var names []string
		for _, job := range jobs {
			names = append(names, job.Task)
		}
		result := strings.Join(names, " ")
		if err != nil {
			result = err.Error()
		}
		r.results.Store(strings.Join(tasks, " "), result)
	})
	synctest.Wait()
}

func (r *intakeRig) want(t *testing.T, batches []string, results map[string]string) {
	t.Helper()
	r.callers.Wait()
	r.nudger.Close()
	if diff := cmp.Diff(batches, r.batches); diff != "" {
		t.Errorf("batches (-want +got):\n%s", diff)
	}
	got := map[string]string{}
	r.results.Range(func(caller, result any) bool {
		got[fmt.Sprint(caller)] = fmt.Sprint(result)
		return true
	})
	if diff := cmp.Diff(results, got); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

// R25: a caller that finds a free connection inserts directly; when all ten are busy, callers fold into the next batch.
func TestIntakeFolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newIntakeRig()
		results := map[string]string{}
		var batches []string
		for i := range 10 {
			task := fmt.Sprint("direct", i)
			r.call(t.Context(), "", task)
			results[task] = task
			batches = append(batches, task)
		}
		for _, tasks := range [][]string{{"a"}, {"b", "c"}, {"d"}} {
			r.call(t.Context(), "", tasks...)
			results[strings.Join(tasks, " ")] = strings.Join(tasks, " ")
		}
		r.want(t, append(batches, "a b c d"), results)
		if r.most != 10 || r.told() != 14 {
			t.Errorf("%d inserts at a time, want 10; nudged for %d jobs, want 14", r.most, r.told())
		}
	})
}

// R17: a single job takes its notification along, one at a time for the process; the others are notified for apart.
func TestIntakeNotifiesBehindTheInsert(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newIntakeRig()
		r.ride = true
		r.call(t.Context(), "", "a") // rides
		r.call(t.Context(), "", "b") // a is under way
		r.call(t.Context(), "", "c", "d")
		r.callers.Wait()
		<-time.After(time.Second)
		if r.told() != 3 {
			t.Errorf("nudged for %d jobs, want the 3 that did not ride", r.told())
		}
		r.fail = func(string) error { return errors.New("broken") }
		r.call(t.Context(), "", "e") // rides, and fails
		r.callers.Wait()
		<-time.After(time.Second)
		r.fail = nil
		r.call(t.Context(), "", "f") // rides again
		r.want(t, []string{"a", "b", "c d", "e", "f"}, map[string]string{"a": "a", "b": "b", "c d": "c d", "e": "broken", "f": "f"})
		if r.told() != 3 {
			t.Errorf("nudged for %d jobs, want 3 as before", r.told())
		}
	})
}

// Keyed calls go one at a time, in a lane of their own.
func TestIntakeKeyedLane(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newIntakeRig()
		r.takes = 40 * time.Millisecond
		r.call(t.Context(), "k1", "a")
		r.call(t.Context(), "k2", "b")
		r.call(t.Context(), "k3", "c")
		r.call(t.Context(), "", "free")
		r.want(t, []string{"a", "free", "b c"}, map[string]string{"a": "a", "b": "b", "c": "c", "free": "free"})
		if r.most != 2 {
			t.Errorf("%d inserts at a time, want 2", r.most)
		}
	})
}

// A keyed insert that takes long keeps up the calls with its key, which fold, and no others.
func TestIntakePassesOnWhatTakesLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newIntakeRig()
		for caller, key := range []string{"k", "k", "x", "k", "y"} {
			r.call(t.Context(), key, fmt.Sprint(key, caller))
		}
		<-time.After(60 * time.Millisecond)
		r.call(t.Context(), "x", "x5")
		<-time.After(60 * time.Millisecond)
		r.call(t.Context(), "z", "z6")
		r.want(t, []string{"k0", "x2 y4", "z6", "k1 k3", "x5"}, map[string]string{
			"k0": "k0", "k1": "k1", "x2": "x2", "k3": "k3", "y4": "y4", "x5": "x5", "z6": "z6",
		})
		if r.most != 3 {
			t.Errorf("%d inserts at a time, want 3", r.most)
		}
	})
}

// However many take long, there is a limit to the connections that they take.
func TestIntakeBoundsWhatTakesLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newIntakeRig()
		results := map[string]string{}
		var batches []string
		for i := range 12 {
			task := fmt.Sprint("t", i)
			r.call(t.Context(), task, task)
			results[task] = task
			if i < 10 {
				batches = append(batches, task)
				<-time.After(51 * time.Millisecond)
			}
		}
		r.want(t, append(batches, "t10 t11"), results)
		if r.most != 10 {
			t.Errorf("%d inserts at a time, want 10", r.most)
		}
	})
}

// One bad request fails one caller: a refused batch is tried call by call.
func TestIntakeRejectedBatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newIntakeRig()
		r.fail = func(tasks string) error {
			if strings.Contains(tasks, "bad") {
				return &wire.RejectedError{Err: errors.New("refused")}
			}
			return nil
		}
		r.call(t.Context(), "k", "first")
		r.call(t.Context(), "k", "good")
		r.call(t.Context(), "k", "bad")
		r.call(t.Context(), "k", "fine")
		r.want(t, []string{"first", "good bad fine", "good", "bad", "fine"},
			map[string]string{"first": "first", "good": "good", "bad": "refused", "fine": "fine"})
		if r.told() != 3 {
			t.Errorf("nudged for %d jobs, want 3", r.told())
		}
	})
}

// After a lost connection nobody knows whether the batch was committed: it is not sent again.
func TestIntakeUnknownOutcome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newIntakeRig()
		r.fail = func(tasks string) error {
			if tasks == "b c" {
				return errors.New("connection lost")
			}
			return nil
		}
		r.call(t.Context(), "k", "a")
		r.call(t.Context(), "k", "b")
		r.call(t.Context(), "k", "c")
		r.want(t, []string{"a", "b c"}, map[string]string{"a": "a", "b": "connection lost", "c": "connection lost"})
	})
}

// A caller whose context ends is told whether its jobs can be there; the others of its batch are not affected.
func TestIntakeCallerGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newIntakeRig()
		r.call(t.Context(), "k", "a")
		early, cancelEarly := context.WithTimeout(t.Context(), time.Second/2)
		defer cancelEarly()
		late, cancelLate := context.WithTimeout(t.Context(), 3*time.Second/2)
		defer cancelLate()
		r.call(early, "k", "early")
		r.call(late, "k", "late")
		r.call(t.Context(), "k", "b")
		r.want(t, []string{"a", "late b"}, map[string]string{
			"a": "a", "b": "b",
			"early": "the jobs were not enqueued: context deadline exceeded",
			"late":  "the jobs may or may not have been enqueued: context deadline exceeded",
		})
	})
}

// A batch is bounded, and a call that is larger goes alone and whole.
func TestIntakeBoundsBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newIntakeRig()
		r.call(t.Context(), "k", "a")
		large := strings.Split(strings.Repeat("x ", 1500)+"x", " ")
		r.call(t.Context(), "k", large...)
		r.call(t.Context(), "k", "b")
		r.callers.Wait()
		var sizes []int
		for _, batch := range r.batches {
			sizes = append(sizes, len(strings.Fields(batch)))
		}
		if diff := cmp.Diff([]int{1, 1501, 1}, sizes); diff != "" {
			t.Errorf("sizes of batches (-want +got):\n%s", diff)
		}
	})
}
