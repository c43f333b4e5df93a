package worker_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// logged keeps the messages of a log from WARN on, and those of INFO that say that a trouble is
// over.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logged) WithGroup(string) slog.Handler            { return l }

func (l *logged) Handle(_ context.Context, record slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := record.Message
	record.Attrs(func(a slog.Attr) bool {
		if a.Key == "task" || a.Key == "owner" {
			line += " " + a.Value.String()
		}
		if a.Key == "dead_letter" {
			line += " dead_letter=" + a.Value.String()
		}
		return true
	})
	l.lines = append(l.lines, line)
	return nil
}

// with returns the lines with this text.
func (l *logged) with(text string) (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			lines = append(lines, line)
		}
	}
	return lines
}

func logTo(l *logged) func(*setup) { return func(s *setup) { s.Logger = slog.New(l) } }

// An outage makes one retry and ever fewer lines, however many outcomes wait, and one line when it
// is over.
func TestOutageDoesNotFloodTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1000, wire.Job{})
		var away atomic.Bool
		var log logged
		r := newRig(t, db, takes(time.Millisecond), concurrency(20), logTo(&log), func(s *setup) {
			s.before = func(op string) error {
				if op != opListen && op != opSchema && away.Load() {
					return errors.New("connection refused")
				}
				return nil
			}
		})
		r.pass(2 * time.Millisecond)
		away.Store(true)
		r.pass(time.Minute)
		if n := len(r.store.calls(opComplete)); n > 140 {
			t.Errorf("%d statements in a minute of outage", n)
		}
		for _, message := range []string{"recording outcomes failed", "claim failed"} {
			if n := len(log.with(message)); n == 0 || n > 8 {
				t.Errorf("%d lines %q in a minute of outage", n, message)
			}
		}
		away.Store(false)
		r.pass(10 * time.Second)
		r.nothingLeft()
		if n := len(log.with("outcomes are recorded again")); n != 1 {
			t.Errorf("%d lines say that the outage is over", n)
		}
	})
}

// An outcome whose text the server refuses is recorded with the text mended, and as a last resort
// without it.
func TestRefusedTextsAreMended(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		refuse func(worker.Outcome) bool
		want   string
	}{
		"not in the server's encoding": {func(o worker.Outcome) bool { return strings.Contains(o.Text, "€") }, "5 ? short"},
		"in no form":                   {func(o worker.Outcome) bool { return o.Text != "" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				bad := db.add(1, wire.Job{})[0]
				db.add(30, wire.Job{})
				r := newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
					<-time.After(time.Millisecond)
					if job.ID != bad {
						return completed
					}
					return worker.Outcome{Kind: worker.OutcomeFailed, Text: "5 € short", Delay: time.Hour}
				}, concurrency(31), func(s *setup) { s.refuse = test.refuse })
				r.pass(time.Second)
				if job := db.job(bad); job.LockedBy != "" || job.LastError != test.want || job.Attempt != 1 {
					t.Errorf("the job is left as %+v", job)
				}
				r.stats(worker.Stats{Completed: 30, Failed: 1})
			})
		})
	}
}

// An outcome whose row stays locked for long is said, ever more rarely, and once when it is
// recorded.
func TestOutcomesThatWaitForRowsAreSaid(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		ids := db.add(2, wire.Job{})
		var log logged
		r := newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
			db.update(job.ID, func(job *fakeJob) { job.Busy = true })
			return completed
		}, logTo(&log))
		r.pass(10 * time.Second)
		if lines := log.with("outcomes wait"); len(lines) > 0 {
			t.Errorf("said too early: %q", lines)
		}
		r.pass(10 * time.Minute)
		if n := len(log.with("outcomes wait for rows task")); n < 10 || n > 20 {
			t.Errorf("%d lines in 10 minutes", n)
		}
		for _, id := range ids {
			db.update(id, func(job *fakeJob) { job.Busy = false })
		}
		r.pass(time.Second)
		if n := len(log.with("outcomes wait for no row any more")); n != 1 {
			t.Errorf("%d lines say that it is over", n)
		}
		r.nothingLeft()
	})
}

// Anybody can notify of migrations. However often it happens, the schema is looked at once a
// second.
func TestNotificationsOfMigrationsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(0), latency(opSchema, 10*time.Millisecond))
		r.pass(time.Second)
		before := len(r.store.calls(opSchema))
		for range 50_000 {
			db.notify(worker.Notification{Kind: worker.NotifyMigrate})
		}
		db.insert(5, wire.Job{})
		r.pass(10 * time.Millisecond)
		r.nothingLeft()
		r.pass(5 * time.Second)
		if n := len(r.store.calls(opSchema)) - before; n < 1 || n > 3 {
			t.Errorf("looked at the schema %d times", n)
		}
	})
}

// A worker says what waits that it does not serve, and which locks others hold: at its start, a
// minute later for what was too young, and when that changes.
func TestSurveyIsSaidOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		lock := func(owner string, age time.Duration) {
			id := db.add(1, wire.Job{})[0]
			db.update(id, func(job *fakeJob) { job.LockedBy, job.LockedAt = owner, time.Now().Add(-age) })
		}
		gone, killed := wire.NewWorkerID(), wire.NewWorkerID() // as those of Node workers, by default
		lock(gone, time.Hour)
		lock(gone, time.Second)
		lock(killed, 5*time.Second)
		lock(wire.NewWorkerID()+".1.1", time.Hour) // a worker without a row is watched, and not told of
		var log logged
		r := newRig(t, db, takes(0), logTo(&log), func(s *setup) {
			s.survey.Unserved = []worker.UnservedTask{{Task: "renamed", Jobs: 3, Oldest: time.Hour}, {Task: "young", Jobs: 1, Oldest: time.Second}}
		})
		said := func(what string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, log.with(what)); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
		}
		const locks = "another worker holds locks; if it is gone, UnlockWorker releases them "
		r.pass(time.Second)
		said("holds locks", locks+gone)
		r.pass(time.Minute)
		said("holds locks", locks+gone, locks+killed)
		lock("later", 0)
		r.store.mu.Lock()
		r.store.survey.Unserved = append(r.store.survey.Unserved, worker.UnservedTask{Task: "second", Jobs: 1, Oldest: time.Hour})
		r.store.mu.Unlock()
		r.pass(2 * time.Hour)
		said("holds locks", locks+gone, locks+killed, locks+"later")
		said("jobs wait", "jobs wait whose task this worker does not serve renamed", "jobs wait whose task this worker does not serve second")
	})
}
