package pg_test

import (
	"context"
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
	log := make(lines, 10)
	r.store.LogTo(slog.New(slog.NewTextHandler(log, nil)))
	r.try(1, 1)
	if len(log) > 0 {
		t.Errorf("a quick claim was logged: %s", <-log)
	}
	r.slowFullClaims(1.1)
	for range 2 {
		r.id = wire.NewWorkerID()
		r.register()
		r.try(1, 1)
	}
	if line, want := log.next(t), fmt.Sprintf("session %d of role", pid); !strings.Contains(line, want) || !strings.Contains(line, "level=WARN") {
		t.Errorf("no WARN with %q in %s", want, line)
	}
	if len(log) > 0 {
		t.Errorf("a second line: %s", <-log)
	}
	if err := holder.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// lines is a log, whose lines are received as they come.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}

func (l lines) next(t *testing.T) (line string) {
	t.Helper()
	_ = within(t, "the wait for a line", func(context.Context) error { line = <-l; return nil })
	return line
}

// snapshotTrace holds the question who has the oldest snapshot until it may be asked.
type snapshotTrace struct{ may chan struct{} }

func (s snapshotTrace) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, "OldestSnapshot") {
		<-s.may
	}
	return ctx
}
func (s snapshotTrace) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A claim that timed out does not wait for the answer to who holds the oldest snapshot.
func TestTimeoutsDoNotWaitForTheLog(t *testing.T) {
	t.Parallel()
	trace, pool := snapshotTrace{make(chan struct{})}, pgtest.New(t).Pool()
	settings := pg.SettingsOf(pool, schemaName)
	settings.Tracer = trace
	r := rigWith(t, pool, settings)
	log := make(lines, 10)
	r.store.LogTo(slog.New(slog.NewTextHandler(log, nil)))
	r.slowFullClaims(60)
	err := within(t, "the claim", func(context.Context) error { _, err := r.tryErr(1, 1); return err })
	if err == nil {
		t.Error("a claim of a minute succeeded")
	}
	close(trace.may)
	if line := log.next(t); !strings.Contains(line, "finding jobs took long") {
		t.Errorf("logged %s", line)
	}
}

// A full claim that takes longer than a statement may is not repeated at once: the next claims
// begin at the marks.
func TestFullClaimThatTimesOut(t *testing.T) {
	t.Parallel()
	r, trace := tracedRig(t)
	log := make(lines, 10)
	r.store.LogTo(slog.New(slog.NewTextHandler(log, nil)))
	r.tryAll(20, 20)
	r.slowFullClaims(60)
	dbtest.Until(t, func() bool { _, err := r.tryErr(20, 20); return err != nil })
	trace.marks = nil
	id := r.add("'a'")
	wantIDs(t, "claimed", idsOf(r.try(20, 20).Jobs), id)
	if len(trace.marks) != 1 || len(trace.marks[0].Priorities) != 1 {
		t.Errorf("the claim after it began at %+v", trace.marks)
	}
	if line := log.next(t); !strings.Contains(line, "finding jobs took long") {
		t.Errorf("logged %s", line)
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
