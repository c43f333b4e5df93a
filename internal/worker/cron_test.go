package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/crontab"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// fakeCron is a CronStore in memory, which several workers can share.
type fakeCron struct {
	fail  func() error
	job   func(ctx context.Context, job wire.Spec) error // for each that is enqueued
	takes time.Duration                                  // each tick

	mu        sync.Mutex
	known     map[string]worker.KnownCrontab
	scheduled []string // identifier, tick, and payload
	tried     int
}

func (f *fakeCron) KnownCrontabs(_ context.Context, identifiers []string, start time.Time) (map[string]worker.KnownCrontab, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		if err := f.fail(); err != nil {
			return nil, err
		}
	}
	known := map[string]worker.KnownCrontab{}
	for _, id := range identifiers {
		if _, ok := f.known[id]; !ok {
			f.known[id] = worker.KnownCrontab{KnownSince: start}
		}
		known[id] = f.known[id]
	}
	return known, nil
}

func (f *fakeCron) Tick(ctx context.Context, tick time.Time, identifiers []string, jobs []wire.Spec) (int, error) {
	if f.takes > 0 {
		<-time.After(f.takes)
	}
	for _, job := range jobs {
		if f.job == nil {
			break
		}
		if err := f.job(ctx, job); err != nil {
			return 0, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried++
	if f.fail != nil {
		if err := f.fail(); err != nil {
			return 0, err
		}
	}
	won := 0
	for i, id := range identifiers {
		k := f.known[id]
		if !k.LastExecution.Before(tick) {
			continue
		}
		k.LastExecution = tick
		f.known[id] = k
		won++
		f.scheduled = append(f.scheduled, fmt.Sprintf("%s %s %s", id, jobs[i].RunAt.Format("15:04"), jobs[i].Payload))
	}
	return won, nil
}

func (f *fakeCron) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := f.scheduled
	f.scheduled = nil
	return taken
}

func (f *fakeCron) tries() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tried
}

// newCron returns a change that gives a worker a crontab, on a shared store.
func newCron(t *testing.T, cron *fakeCron, text string) func(*setup) {
	t.Helper()
	entries, problems := crontab.Parse(text)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if cron.known == nil {
		cron.known = map[string]worker.KnownCrontab{}
	}
	return func(s *setup) {
		s.Cron = cron
		for _, entry := range entries {
			s.Crontab = append(s.Crontab, worker.CronEntry{Entry: entry})
		}
	}
}

func ticked(id, at string, backfilled bool) string {
	return fmt.Sprintf(`%s %s {"_cron":{"ts":"2000-01-01T%s:00.000Z","backfilled":%t}}`, id, at, at, backfilled)
}

// The bubble's clock begins at midnight of 2000-01-01. Every minute is scheduled once, however many
// workers there are.
func TestCronTicksOnceForAllWorkers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cron := &fakeCron{}
		db := newDB(t)
		for range 3 {
			newRig(t, db, takes(0), newCron(t, cron, "* * * * * every\n*/2 * * * * even ?queue=q&max=3 {a: 1}"))
		}
		<-time.After(3*time.Minute + time.Second)
		want := []string{
			ticked("every", "00:00", false), `even 00:00 {"a":1,"_cron":{"ts":"2000-01-01T00:00:00.000Z","backfilled":false}}`,
			ticked("every", "00:01", false),
			ticked("every", "00:02", false), `even 00:02 {"a":1,"_cron":{"ts":"2000-01-01T00:02:00.000Z","backfilled":false}}`,
			ticked("every", "00:03", false),
		}
		if diff := cmp.Diff(want, cron.take()); diff != "" {
			t.Errorf("scheduled (-want +got):\n%s", diff)
		}
	})
}

// What was missed while nobody ran is made up as far as an entry's fill says, each entry in its
// order, and marked; what became known just now was not missed.
func TestCronMakesUpWhatWasMissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		<-time.After(10*time.Minute + 30*time.Second)
		start := time.Now().UTC()
		cron := &fakeCron{known: map[string]worker.KnownCrontab{
			"filled":  {KnownSince: start.Add(-time.Hour), LastExecution: start.Add(-390 * time.Second).Truncate(time.Minute)}, // 00:04
			"never":   {KnownSince: start.Add(-90 * time.Second)},                                                              // 00:09:00
			"short":   {KnownSince: start.Add(-time.Hour)},
			"without": {KnownSince: start.Add(-time.Hour)},
		}}
		newRig(t, newDB(t), takes(0), newCron(t, cron, "* * * * * task ?id=filled&fill=1h\n* * * * * task ?id=never&fill=1h\n"+
			"* * * * * task ?id=short&fill=1m\n* * * * * task ?id=without\n* * * * * task ?id=unknown&fill=1h"))
		synctest.Wait()
		want := []string{
			ticked("filled", "00:05", true), ticked("filled", "00:06", true), ticked("filled", "00:07", true), ticked("filled", "00:08", true),
			ticked("filled", "00:09", true), ticked("filled", "00:10", true),
			ticked("never", "00:09", true), ticked("never", "00:10", true), ticked("short", "00:10", true),
		}
		if diff := cmp.Diff(want, byEntry(cron.take())); diff != "" {
			t.Errorf("made up (-want +got):\n%s", diff)
		}
		if n := cron.tries(); n != 10 { // from the last execution on, which is asked for once more (contract section 7.4)
			t.Errorf("it tried %d ticks", n)
		}
		<-time.After(time.Minute)
		var got []string
		for _, id := range []string{"filled", "never", "short", "without", "unknown"} {
			got = append(got, ticked(id, "00:11", false))
		}
		if diff := cmp.Diff(got, cron.take()); diff != "" {
			t.Errorf("then (-want +got):\n%s", diff)
		}
	})
}

// byEntry sorts ticks by their entries, which catch up beside each other.
func byEntry(ticks []string) []string {
	slices.SortStableFunc(ticks, func(a, b string) int {
		a, _, _ = strings.Cut(a, " ")
		b, _, _ = strings.Cut(b, " ")
		return strings.Compare(a, b)
	})
	return ticks
}

// An entry that has thousands of ticks to make up delays no other.
func TestCronBacklogDelaysNoOtherEntry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().UTC()
		cron := &fakeCron{takes: time.Millisecond, known: map[string]worker.KnownCrontab{
			"behind": {KnownSince: start.Add(-28 * 24 * time.Hour)},
		}}
		newRig(t, newDB(t), takes(0), newCron(t, cron, "* * * * * task ?id=behind&fill=4w\n0 0 * * * task ?id=now"))
		<-time.After(10 * time.Millisecond)
		if got := cron.take(); !slices.Contains(got, ticked("now", "00:00", false)) || len(got) > 20 {
			t.Errorf("after 10 ms %d ticks are scheduled, that of the other entry: %v", len(got), slices.Contains(got, ticked("now", "00:00", false)))
		}
		<-time.After(2 * time.Minute)
		if n := len(cron.take()); n < 40_000 {
			t.Errorf("%d ticks were made up", n)
		}
	})
}

// setClock is a clock that somebody sets. It sleeps by another one, as the clock of a process does.
type setClock struct{ offset *atomic.Int64 }

func (c setClock) Now() time.Time { return time.Now().UTC().Add(time.Duration(c.offset.Load())) }

func (setClock) Sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// A clock that is set back is early: nothing is due until it has caught up, or is set again
// (contract section 7.5).
func TestCronClockSetBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cron, clock := &fakeCron{}, setClock{new(atomic.Int64)}
		newRig(t, newDB(t), takes(0), newCron(t, cron, "* * * * * every"), func(s *setup) { s.Clock = clock })
		check := func(after time.Duration, minutes ...string) {
			t.Helper()
			<-time.After(after)
			var want []string
			for _, minute := range minutes {
				want = append(want, ticked("every", minute, false))
			}
			if diff := cmp.Diff(want, cron.take()); diff != "" {
				t.Errorf("scheduled (-want +got):\n%s", diff)
			}
		}
		check(90*time.Second, "00:00", "00:01")
		clock.offset.Store(-int64(5 * time.Minute))
		check(5 * time.Minute)
		check(2*time.Minute, "00:02", "00:03")
		clock.offset.Add(-int64(24 * time.Hour)) // for a minute
		check(time.Minute)
		clock.offset.Add(int64(24 * time.Hour))
		check(2*time.Minute, "00:04", "00:05", "00:06")
	})
}

// A database that is away costs no tick.
func TestCronTriesAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var away bool
		failed := 0
		cron := &fakeCron{}
		cron.fail = func() error {
			if away {
				failed++
				return errors.New("away")
			}
			return nil
		}
		away = true
		newRig(t, newDB(t), takes(0), newCron(t, cron, "* * * * * every"))
		<-time.After(20 * time.Second)
		cron.mu.Lock()
		away = false
		cron.mu.Unlock()
		<-time.After(70 * time.Second)
		cron.mu.Lock()
		away = true
		cron.mu.Unlock()
		<-time.After(2 * time.Minute)
		cron.mu.Lock()
		away = false
		cron.mu.Unlock()
		<-time.After(time.Minute)
		want := []string{ticked("every", "00:00", false), ticked("every", "00:01", false), ticked("every", "00:02", false), ticked("every", "00:03", false), ticked("every", "00:04", false)}
		if diff := cmp.Diff(want, cron.take()); diff != "" {
			t.Errorf("scheduled (-want +got):\n%s", diff)
		}
		if failed < 40 || failed > 120 {
			t.Errorf("it tried %d times in vain", failed)
		}
	})
}

// An entry whose jobs cannot be enqueued holds up no others. Ticks that fail are made up for in
// their order, except that one whose job is refused is given up when the next is due.
func TestCronOneEntryFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		job  func(ctx context.Context) error
		gone string // which ticks are surely given up
	}{
		"refused": {func(context.Context) error { return &wire.RejectedError{Err: errors.New("refused")} }, "23:58 23:59 00:00"},
		"locked":  {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, ""},
		"lost":    {func(context.Context) error { return errors.New("lost") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				known := worker.KnownCrontab{KnownSince: start.Add(-2 * time.Minute)}
				cron := &fakeCron{known: map[string]worker.KnownCrontab{"bad": known, "good": known}}
				cron.job = func(ctx context.Context, job wire.Spec) error {
					if job.Task == "bad" && time.Since(start) < 196*time.Second {
						return test.job(ctx)
					}
					return nil
				}
				var log bytes.Buffer
				newRig(t, newDB(t), takes(0), newCron(t, cron, "* * * * * bad ?fill=1h\n* * * * * good ?fill=1h\n1-59 * * * * late"), func(s *setup) {
					s.Logger = slog.New(slog.NewTextHandler(&log, nil))
				})
				check := func(after time.Duration, want string) {
					t.Helper()
					<-time.After(after)
					synctest.Wait()
					var got []string
					for _, job := range cron.take() {
						tick, _, _ := strings.Cut(job, " {")
						got = append(got, tick)
					}
					slices.Sort(got)
					if diff := cmp.Diff(want, strings.Join(got, ", ")); diff != "" {
						t.Errorf("scheduled (-want +got):\n%s", diff)
					}
				}
				check(30*time.Second, "good 00:00, good 23:58, good 23:59")
				check(time.Minute, "good 00:01, late 00:01")
				check(time.Minute, "good 00:02, late 00:02")
				check(45*time.Second, "good 00:03, late 00:03")
				<-time.After(75 * time.Second) // its last try and wait took 70 at most
				var made []string
				for _, job := range cron.take() {
					if tick, ok := strings.CutPrefix(job, "bad "); ok {
						made = append(made, tick[:len("00:00")])
					}
				}
				tries := cron.tries()
				check(time.Minute, "bad 00:05, good 00:05, late 00:05")
				if n := cron.tries() - tries; n != 1 {
					t.Errorf("%d statements when all is well again", n)
				}
				var gone []string
				for line := range strings.Lines(log.String()) {
					if _, ticks, found := strings.Cut(line, "given up"); found {
						for _, match := range regexp.MustCompile(`tick \S+T(\d\d:\d\d):00Z of bad: `).FindAllStringSubmatch(ticks, -1) {
							gone = append(gone, match[1])
						}
					}
				}
				all := strings.Join(append(gone, made...), " ")
				if all != "23:58 23:59 00:00 00:01 00:02 00:03 00:04" || !strings.HasPrefix(strings.Join(gone, " "), test.gone) || (len(gone) > 0) != (test.gone != "") {
					t.Errorf("given up %q, then scheduled %q; log:\n%s", gone, made, &log)
				}
			})
		})
	}
}

// A job has the key mode of its entry, which a descriptor may have given it.
func TestCronKeyModes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		got := map[string]wire.KeyMode{}
		cron := &fakeCron{job: func(_ context.Context, job wire.Spec) error {
			got[job.Task] = job.KeyMode
			return nil
		}}
		text := "* * * * * a ?jobKey=a&jobKeyMode=preserve_run_at\n* * * * * b ?jobKey=b&jobKeyMode=replace\n* * * * * c ?jobKey=c"
		newRig(t, newDB(t), takes(0), newCron(t, cron, text), func(s *setup) { s.Crontab[2].KeyMode = "unsafe_dedupe" })
		<-time.After(time.Second)
		synctest.Wait()
		want := map[string]wire.KeyMode{"a": wire.KeyPreserveRunAt, "b": wire.KeyReplace, "c": wire.KeyUnsafeDedupe}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("key modes (-want +got):\n%s", diff)
		}
	})
}

// A worker with Once schedules nothing.
func TestCronNotOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cron := &fakeCron{}
		r := newRig(t, newDB(t), takes(0), once, newCron(t, cron, "* * * * * every"))
		if err := r.wait(); err != nil {
			t.Error(err)
		}
		if got := cron.take(); len(got) > 0 || len(cron.known) > 0 {
			t.Errorf("scheduled %q, known %v", got, cron.known)
		}
	})
}

// A worker that is told to stop schedules nothing more, while its jobs may still run.
func TestCronEndsWithTheDrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cron := &fakeCron{}
		db := newDB(t)
		db.add(1, wire.Job{})
		r := newRig(t, db, takes(3*time.Minute), newCron(t, cron, "* * * * * every"), func(s *setup) { s.DrainTimeout = time.Hour })
		<-time.After(70 * time.Second)
		r.cancel()
		<-time.After(5 * time.Minute)
		if got := cron.take(); len(got) != 2 {
			t.Errorf("scheduled %q", got)
		}
		if n := r.sum(worker.EventScheduled); n != 2 {
			t.Errorf("the observer was told of %d jobs", n)
		}
		if diff := cmp.Diff([]int{1, 1}, r.nudged()); diff != "" {
			t.Errorf("other workers were told of (-want +got):\n%s", diff)
		}
	})
}
