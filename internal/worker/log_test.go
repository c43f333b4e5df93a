package worker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// many is more jobs than a log or an error may name.
const many = 1500

// manyRig is a worker that runs many jobs at once.
func manyRig(t *testing.T, log *logged, handle handler, changes ...func(*setup)) (*rig, []int64) {
	t.Helper()
	db := newDB(t)
	ids := db.add(many, wire.Job{})
	r := newRig(t, db, handle, append(changes, concurrency(many), logTo(log))...)
	r.pass(time.Second)
	return r, ids
}

// Leases that are lost at once make one line, and an event each. Their handlers, which are
// cancelled, make none: it is not known that the jobs failed.
func TestManyLostLeasesMakeOneLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log logged
		r, ids := manyRig(t, &log, func(ctx context.Context, _ *wire.Job) worker.Outcome {
			<-ctx.Done()
			return worker.Outcome{Kind: worker.OutcomeFailed, Err: ctx.Err()}
		})
		for _, id := range ids {
			r.db.update(id, func(row *fakeJob) { row.LockedBy, row.Attempt = "", row.MaxAttempts })
		}
		r.pass(31 * time.Minute) // until the renewal
		if lines := log.with("lease"); len(lines) != 1 {
			t.Errorf("%d lines: %q", len(lines), lines[:min(len(lines), 3)])
		}
		if lines := log.with("job ended"); len(lines) > 0 {
			t.Errorf("%d lines %q", len(lines), lines[0])
		}
		if n := len(r.seen(worker.EventLeaseLost)); n != many {
			t.Errorf("%d events, want %d", n, many)
		}
	})
}

// A stop says in one line which handlers ignore their contexts.
func TestManyStubbornHandlersMakeOneLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log logged
		r, _ := manyRig(t, &log, takes(time.Hour))
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if n := len(log.with("cancelled context")); n != 1 {
			t.Errorf("%d lines", n)
		}
		<-time.After(2 * time.Hour)
	})
}

// The error of a stop names the first of many jobs.
func TestManyUnrecordedOutcomesAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log logged
		r, _ := manyRig(t, &log, takes(0), func(s *setup) {
			s.before = func(op string) error {
				if op == opComplete {
					return errors.New("connection refused")
				}
				return nil
			}
		})
		err := r.stop()
		if err == nil || len(err.Error()) > 300 || !strings.Contains(err.Error(), "1500 jobs") ||
			!strings.Contains(err.Error(), " and 1490 more") {
			t.Errorf("Run: %v", err)
		}
	})
}
