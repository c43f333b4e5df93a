package enqueue_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
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
	mu       sync.Mutex
	batches  []string // the tasks of each insert, in the order in which they began
	active   int
	most     int
	next     int64
	fail     func(tasks string) error
	notifies bool            // single jobs take their notification along
	held     map[string]bool // keys that somebody else's transaction holds
	takes    time.Duration
	payloads []string // of each insert, at its end
}

// Insert notifies a tenth of a second after the insert.
func (s *slowInserter) Insert(
	ctx *enqueue.Context, specs []wire.Spec, notify enqueue.Piggyback,
) ([]*wire.Job, bool, error) {
	var done func()
	if s.notifies && notify != nil {
		done = notify()
	}
	jobs, err := s.insert(ctx, specs)
	if done == nil {
		return jobs, false, err
	}
	time.AfterFunc(100*time.Millisecond, done)
	return jobs, err == nil, err
}

func (s *slowInserter) insert(ctx *enqueue.Context, specs []wire.Spec) ([]*wire.Job, error) {
	names := make([]string, len(specs))
	for i, spec := range specs {
		names[i] = spec.Task
	}
	tasks := strings.Join(names, " ")
	s.mu.Lock()
	s.batches = append(s.batches, tasks)
	s.active++
	s.most = max(s.most, s.active)
	takes, blocked := s.takes, slices.ContainsFunc(specs, func(spec wire.Spec) bool { return s.held[spec.Key] })
	if blocked {
		takes = lockWait
	}
	s.mu.Unlock()
	for ; takes > 0 && ctx.Err() == nil; takes -= time.Second { // each statement takes a second at most
		ctx.Step()
		select {
		case <-time.After(min(takes, time.Second)):
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	for _, spec := range specs {
		s.payloads = append(s.payloads, fmt.Sprintf("%s%s", spec.Payload, spec.Flags))
	}
	switch {
	case ctx.Err() != nil:
		return nil, &wire.UnknownError{Err: ctx.Cause()}
	case blocked:
		return nil, &wire.BlockedError{Err: errors.New("lock timeout")}
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

// lockWait is how long an insert waits for a key that somebody else holds.
const lockWait = 50 * time.Millisecond

// hold says which keys somebody else's transaction holds from now on.
func (s *slowInserter) hold(keys ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = map[string]bool{}
	for _, key := range keys {
		s.held[key] = true
	}
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

func newIntakeRig() *intakeRig { return newIntakeRigOf(20) }

// newIntakeRigOf has a pool of this many connections.
func newIntakeRigOf(connections int) *intakeRig {
	r := &intakeRig{slowInserter: slowInserter{takes: time.Second}}
	r.nudger = enqueue.NewNudger(func(_ context.Context, jobs int) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.nudged += jobs
		return nil
	}, func(error) {})
	r.intake = enqueue.NewIntake(&r.slowInserter, connections, r.nudger)
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

// R25: a caller that finds a free connection inserts directly; when all ten are busy, callers fold
// into the next batch.
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

// R17: a single job takes its notification along, one at a time for the process; the others are
// notified for apart.
func TestIntakeNotifiesBehindTheInsert(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newIntakeRig()
		r.notifies = true
		r.call(t.Context(), "", "a") // takes it along
		r.call(t.Context(), "", "b") // a is under way
		r.call(t.Context(), "", "c", "d")
		r.callers.Wait()
		<-time.After(time.Second)
		if r.told() != 3 {
			t.Errorf("nudged for %d jobs, want the 3 that did not take it along", r.told())
		}
		r.fail = func(string) error { return errors.New("broken") }
		r.call(t.Context(), "", "e") // takes it along, and fails
		r.callers.Wait()
		<-time.After(time.Second)
		r.fail = nil
		r.call(t.Context(), "", "f") // takes it along again
		r.want(t, []string{"a", "b", "c d", "e", "f"}, map[string]string{"a": "a", "b": "b", "c d": "c d", "e": "broken", "f": "f"})
		if r.told() != 3 {
			t.Errorf("nudged for %d jobs, want 3 as before", r.told())
		}
	})
}

// Keyed calls go one at a time, beside those without a key.
func TestIntakeKeyed(t *testing.T) {
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

// A keyed insert that takes long keeps the calls with its key waiting, which fold, and no others.
func TestIntakeGoesOnBesideALongInsert(t *testing.T) {
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
func TestIntakeBoundsLongInserts(t *testing.T) {
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
		r.callers.Wait()
		slices.Sort(r.batches[2:]) // they go beside each other
		r.want(t, []string{"first", "good bad fine", "bad", "fine", "good"},
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

// A caller whose context ends is told whether its jobs can be there; the others of its batch are
// not affected.
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

// A key that somebody's transaction holds delays its own caller: those folded into a batch with it
// are inserted on their own, and later ones are not held up either.
func TestIntakeBlockedKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newIntakeRig()
		r.takes = 10 * time.Millisecond
		r.hold("held")
		results := map[string]string{}
		expect := func(task string) {
			results[task] = task
		}
		r.call(t.Context(), "k", "first")
		expect("first")
		r.call(t.Context(), "held", "blocked")
		for i := range 20 {
			task := fmt.Sprint("t", i)
			r.call(t.Context(), task, task)
			expect(task)
		}
		<-time.After(time.Second)
		r.call(t.Context(), "late", "late")
		expect("late")
		r.call(t.Context(), "held", "behind") // the key is still its predecessor's
		<-time.After(100 * time.Millisecond)
		for task := range results {
			if got, _ := r.results.Load(task); got != task {
				t.Errorf("%s: %v after a second, beside the key that is held", task, got)
			}
		}
		if _, done := r.results.Load("blocked"); done {
			t.Error("the call whose key is held has ended")
		}
		r.hold()
		expect("blocked")
		expect("behind")
		r.callers.Wait()
		all := slices.Clone(r.batches)
		r.want(t, all, results)
		if last := all[len(all)-2:]; last[0] != "blocked" || last[1] != "behind" {
			t.Errorf("the last inserts were %q", last)
		}
	})
}

// Blocked calls are repeated for as long as their callers wait, never all connections at a time,
// and leave without a trace.
func TestIntakeManyBlockedKeys(t *testing.T) {
	t.Parallel()
	for connections, most := range map[int]int{1: 1, 2: 1, 4: 2, 10: 5, 100: 10} {
		synctest.Test(t, func(t *testing.T) {
			r := newIntakeRigOf(connections)
			r.takes = 10 * time.Millisecond
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			var keys []string
			for i := range 30 {
				keys = append(keys, fmt.Sprint("held", i))
			}
			r.hold(keys...)
			for _, key := range keys {
				r.call(ctx, key, key)
			}
			<-time.After(2 * time.Second)
			r.call(t.Context(), "other", "other")
			<-time.After(500 * time.Millisecond)
			if got, _ := r.results.Load("other"); got != "other" {
				t.Errorf("%d connections: a call whose key nobody holds: %v", connections, got)
			}
			r.callers.Wait()
			for _, key := range keys {
				got, _ := r.results.Load(key)
				text := fmt.Sprint(got)
				unsent := strings.HasPrefix(text, "the jobs were not enqueued: context deadline exceeded")
				if !unsent && text != "the jobs may or may not have been enqueued: context deadline exceeded" {
					t.Errorf("%s: %s", key, text)
				}
			}
			if r.most > most {
				t.Errorf("%d of %d connections were used at a time, want %d at most", r.most, connections, most)
			}
			r.hold()
			for _, key := range keys { // all keys are free again
				if _, err := r.intake.Insert(t.Context(), []wire.Spec{{Task: "again", Key: key}}); err != nil {
					t.Error(err)
				}
			}
			r.nudger.Close()
		})
	}
}

// A call that has a batch to itself, as a large one has, runs under its caller's context.
func TestIntakeLargeCallEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newIntakeRig()
		r.takes = time.Minute
		r.call(t.Context(), "k", "first")
		large := make([]wire.Spec, 2000)
		for i := range large {
			large[i] = wire.Spec{Task: "x", Key: fmt.Sprint(i)}
		}
		jobs, err := r.intake.Insert(t.Context(), large)
		if err != nil || len(jobs) != len(large) {
			t.Errorf("without a deadline: %d jobs, %v", len(jobs), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err = r.intake.Insert(ctx, large)
		if _, unknown := errors.AsType[*wire.UnknownError](err); !unknown || time.Since(began) != time.Second {
			t.Errorf("with a deadline of 1 s: %v after %v", err, time.Since(began))
		}
		r.callers.Wait()
		r.nudger.Close()
	})
}

// A caller that leaves its batch may use its bytes for something else: the batch inserts what it
// was given.
func TestIntakeCallerReusesItsBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newIntakeRigOf(1)
		r.call(t.Context(), "", "first")
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond) // in the middle of the batch
		defer cancel()
		for _, name := range []string{"a", "b"} {
			r.callers.Go(func() {
				payload, flags := []byte(`"`+name+`"`), []string{name}
				_, err := r.intake.Insert(ctx, []wire.Spec{{Task: name, Payload: payload, Flags: flags}})
				if _, unknown := errors.AsType[*wire.UnknownError](err); !unknown {
					t.Errorf("%s: %v", name, err)
				}
				copy(payload, `???`)
				flags[0] = "?"
			})
		}
		<-time.After(3 * time.Second)
		r.callers.Wait()
		r.nudger.Close()
		slices.Sort(r.payloads)
		if diff := cmp.Diff([]string{`"a"[a]`, `"b"[b]`, `[]`}, r.payloads); diff != "" {
			t.Errorf("payloads (-want +got):\n%s", diff)
		}
	})
}

// A function of the application's pool, such as a tracer, panics in an insert, or ends its
// goroutine. The calls in it get an error, and leave neither permits nor keys behind.
func TestIntakeInsertThatDoesNotReturn(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(){"panic": func() { panic("a tracer") }, "exit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newIntakeRigOf(2)
				r.fail = func(tasks string) error {
					if strings.Contains(tasks, "bad") {
						end()
					}
					return nil
				}
				for _, key := range []string{"k", ""} {
					for i := range 4 { // the first ones by themselves, the others in a batch
						r.call(t.Context(), key, fmt.Sprintf("bad%s%d", key, i))
					}
				}
				r.callers.Wait()
				r.call(t.Context(), "k", "keyed")
				r.call(t.Context(), "", "free")
				r.callers.Wait()
				r.intake.Close()
				r.nudger.Close()
				for _, batched := range []string{"badk1", "badk3", "bad3"} {
					got, _ := r.results.Load(batched)
					if !strings.HasPrefix(fmt.Sprint(got), "the jobs may or may not have been enqueued") {
						t.Errorf("%s: %v", batched, got)
					}
				}
				for _, good := range []string{"keyed", "free"} {
					if got, _ := r.results.Load(good); got != good {
						t.Errorf("%s: %v", good, got)
					}
				}
			})
		})
	}
}
