package pg_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// tracedRig is a rig that records what its claims are sent with.
func tracedRig(t *testing.T) (*rig, *claimTrace) {
	t.Helper()
	trace, pool := &claimTrace{}, pgtest.New(t).Pool()
	settings := pg.SettingsOf(pool, schemaName)
	settings.Tracer = trace
	return rigWith(t, pool, settings), trace
}

// slowFullClaims makes full claims look for so many seconds, as if there were that many deleted
// rows that vacuum may not remove.
func (r *rig) slowFullClaims(seconds float64) {
	r.store.RewriteClaims(func(text string) string {
		return strings.Replace(text, "now() as at,", fmt.Sprintf(
			"case when cardinality($4::smallint[]) = 0 then (select now() from pg_sleep(%v)) else now() end as at,", seconds), 1)
	})
}

// R21: full claims take a tenth of the time at most, even if every claim comes back short. In
// between claims begin at the marks, and find what has come since, also if its transaction began
// before that of a job that was claimed, and ended after it.
func TestFullClaimsTakeATenthOfTheTime(t *testing.T) {
	t.Parallel()
	r, trace := tracedRig(t)
	r.slowFullClaims(3)
	if claimed := r.try(20, 20); claimed.Again != 0 || claimed.More {
		t.Errorf("a full claim that found nothing asks for another: %+v", claimed)
	}
	for i := range 10 {
		id := r.add("'a', queue_name := case when $1 % 2 = 0 then 'q' end, run_at := now() - $1 * interval '50 ms'", i)
		claimed := r.try(20, 20)
		wantIDs(t, "claimed", idsOf(claimed.Jobs), id)
		if claimed.Again == 0 {
			t.Error("a claim that began at the marks does not say when the next one looks everywhere")
		}
		endings["complete"](r, claimed.Jobs...)
	}
	var full int
	for _, marks := range trace.marks {
		if len(marks.Priorities) == 0 {
			full++
		}
	}
	if full != 1 || len(trace.marks) != 11 {
		t.Errorf("%d of %d claims were full ones, want 1 of 11", full, len(trace.marks))
	}
}

// A claim that looks for long is logged, once a minute, with who keeps vacuum from removing what it
// has to look at.
func TestSlowClaimsAreLogged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	holder, err := r.pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	pid := dbtest.Get[int](t, holder, "select pg_backend_pid()")
	var log bytes.Buffer
	r.store.LogTo(slog.New(slog.NewTextHandler(&log, nil)))
	r.try(1, 1)
	if log.Len() > 0 {
		t.Errorf("a quick claim was logged: %s", log.String())
	}
	r.slowFullClaims(1.1)
	for range 2 {
		r.id = wire.NewWorkerID()
		r.register()
		r.try(1, 1)
	}
	if lines := strings.Count(log.String(), "\n"); lines != 1 {
		t.Errorf("%d lines, want 1: %s", lines, log.String())
	}
	if want := fmt.Sprintf("session %d of role", pid); !strings.Contains(log.String(), want) || !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("no WARN with %q in %s", want, log.String())
	}
	if err := holder.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A full claim that takes longer than a statement may is not repeated at once: the next claims
// begin at the marks.
func TestFullClaimThatTimesOut(t *testing.T) {
	t.Parallel()
	r, trace := tracedRig(t)
	var log bytes.Buffer
	r.store.LogTo(slog.New(slog.NewTextHandler(&log, nil)))
	r.tryAll(20, 20)
	r.slowFullClaims(60)
	dbtest.Until(t, func() bool { _, err := r.tryErr(20, 20); return err != nil })
	trace.marks = nil
	id := r.add("'a'")
	wantIDs(t, "claimed", idsOf(r.try(20, 20).Jobs), id)
	if len(trace.marks) != 1 || len(trace.marks[0].Priorities) != 1 {
		t.Errorf("the claim after it began at %+v", trace.marks)
	}
	if !strings.Contains(log.String(), "finding jobs took long") {
		t.Errorf("it was not logged: %s", log.String())
	}
}

// One full claim that timed out may have met an outage: the next one follows soon. Many in a row
// mean that the search takes long.
func TestPauseAfterTimeouts(t *testing.T) {
	t.Parallel()
	for timeouts, want := range map[int]time.Duration{1: 3 * time.Second, 2: 6 * time.Second, 4: 24 * time.Second, 5: 30 * time.Second, 99: 30 * time.Second} {
		if got := pg.PauseAfter(timeouts, 3*time.Second); got != want {
			t.Errorf("a pause of %v after %d time-outs, want %v", got, timeouts, want)
		}
	}
}
