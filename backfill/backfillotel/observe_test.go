package backfillotel_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/backfill/backfillotel"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// fresh waits until what was measured is too old to be shown again.
func (r *rig) fresh() map[string]float64 {
	r.Helper()
	timer := time.NewTimer(1100 * time.Millisecond) // measuredFor, which is about the clock alone
	defer timer.Stop()
	<-timer.C
	return r.numbers()
}

// of returns the series whose names begin like this.
func of(all map[string]float64, prefixes ...string) map[string]float64 {
	found := map[string]float64{}
	for name, n := range all {
		for _, prefix := range prefixes {
			if strings.HasPrefix(name, prefix) {
				found[name] = n
			}
		}
	}
	return found
}

// Gauges are read when they are collected, without any worker, and are right or absent, and never
// what they were (X143, X145).
func TestGaugesAreRightOrAbsent(t *testing.T) {
	t.Parallel()
	r, db := newRig(t, backfillotel.WithoutTraces()), pgtest.New(t)
	client := newClient(t, db)
	through := newLink(t, db.URL)
	r.observe(through.URL)
	jobs := enqueue(t, client,
		backfill.Request{Task: "a"}, backfill.Request{Task: "a", RunAt: time.Now().Add(-time.Hour)}, backfill.Request{Task: "a", Delay: time.Hour},
		backfill.Request{Task: "b"}, backfill.Request{Task: "b"}, backfill.Request{Task: "b"}, backfill.Request{Task: "b"})
	dbtest.Run(t, db.Pool(), "update graphile_worker._private_jobs set locked_at = now(), locked_by = 'somebody' where id = $1", jobs[3].ID)
	dbtest.Run(t, db.Pool(), "update graphile_worker._private_jobs set attempts = max_attempts where id = $1", jobs[4].ID)
	dbtest.Run(t, db.Pool(), "update graphile_worker._private_jobs set locked_at = now(), locked_by = 'backfill-suspect.x' where id = $1", jobs[5].ID)
	dbtest.Run(t, db.Pool(), `insert into graphile_worker.backfill_dlq (original_job_id, task_identifier, payload, priority, attempts, max_attempts,
		failure_reason, original_created_at, original_run_at, failed_at) values (1, 'b', '{}', 0, 1, 1, 'exhausted', now(), now(), now() - interval '2 hours')`)

	got := r.numbers()
	want := map[string]float64{
		"backfill.observer.up":        1,
		"backfill.queue.depth name=a": 2, "backfill.queue.depth name=b": 1,
		"backfill.queue.scheduled name=a": 1, "backfill.queue.scheduled name=b": 0,
		"backfill.queue.running name=a": 0, "backfill.queue.running name=b": 1,
		"backfill.queue.failed name=a": 0, "backfill.queue.failed name=b": 1,
		"backfill.queue.suspect name=a": 0, "backfill.queue.suspect name=b": 1,
		"backfill.dead_letter.count name=b":  1,
		"backfill.fleet.workers state=alive": 0, "backfill.fleet.workers state=silent": 0, "backfill.fleet.slots": 0,
	}
	if age := got["backfill.queue.oldest_due.age name=a"]; age < 3600 || age > 3700 {
		t.Errorf("the oldest job of a has been due for %v s, want an hour", age)
	}
	if age := got["backfill.dead_letter.oldest.age name=b"]; age < 7200 || age > 7300 {
		t.Errorf("the oldest dead letter is %v s old, want two hours", age)
	}
	without := func(all map[string]float64) map[string]float64 {
		found := of(all, "backfill.observer", "backfill.queue", "backfill.dead_letter.count", "backfill.fleet")
		for name := range found {
			if strings.Contains(name, ".age") {
				delete(found, name)
			}
		}
		return found
	}
	if diff := cmp.Diff(want, without(got)); diff != "" {
		t.Errorf("gauges (-want +got):\n%s", diff)
	}

	through.cut()
	if diff := cmp.Diff(map[string]float64{"backfill.observer.up": 0},
		of(r.fresh(), "backfill.observer", "backfill.queue", "backfill.dead_letter.", "backfill.fleet")); diff != "" {
		t.Errorf("when the database is cut off (-want +got):\n%s", diff)
	}
	dbtest.Run(t, db.Pool(), "delete from graphile_worker._private_jobs") // meanwhile the queue is drained, and a task removed
	dbtest.Run(t, db.Pool(), "delete from graphile_worker._private_tasks where identifier = 'b'")
	through.mend()
	got = r.fresh()
	want = map[string]float64{"backfill.queue.depth name=a": 0}
	if diff := cmp.Diff(want, of(got, "backfill.queue.depth")); diff != "" || got["backfill.observer.up"] != 1 || got["backfill.queue.oldest_due.age name=a"] != 0 {
		t.Errorf("when it is back (-want +got):\n%s", diff)
	}
}

// What the role may not read is absent, and said to be; what row level security hides is not 0.
func TestGaugesOfWhatMayNotBeRead(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := dbtest.Connect(t, db.URL)
	enqueue(t, newClient(t, db), backfill.Request{Task: "a"})
	role := dbtest.NewRole(t, conn)
	dbtest.Run(t, conn, "grant usage on schema graphile_worker to "+role)
	dbtest.Run(t, conn, "grant select on all tables in schema graphile_worker to "+role) // but no policy
	name := strings.ReplaceAll(strings.Trim(role, `"`), `""`, `"`)
	through, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	options := through.Query()
	options.Set("options", "-crole="+strings.NewReplacer(`\`, `\\`, " ", `\ `).Replace(name))
	through.RawQuery = strings.ReplaceAll(options.Encode(), "+", "%20")
	a, err := admin.Open(through.String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	m, err := a.Measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m.Tasks != nil || m.Letters != nil || m.Workers != nil || len(m.Missing) < 3 {
		t.Errorf("measured %+v", m)
	}
}

// Whatever workers, operators and crashes do, each gauge is what SQL says (X154). Several observers
// say the same (X149).
func TestGaugesAreWhatSQLSays(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	var rigs []*rig
	for range 3 {
		r := newRig(t)
		r.observe(db.URL)
		rigs = append(rigs, r)
	}
	registry := backfill.NewRegistry(
		backfill.Handle(&backfill.Task[struct{}]{Name: "fine"}, func(context.Context, struct{}) error { return nil }),
		backfill.Handle(&backfill.Task[struct{}]{Name: "fails"}, func(context.Context, struct{}) error { return errors.New("no") }),
		backfill.Handle(&backfill.Task[struct{}]{Name: "waits"}, func(context.Context, struct{}) error { return backfill.Snooze(time.Hour) }),
	)
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same each time
	for round := range 6 {
		var requests []backfill.Request
		for range 30 {
			requests = append(requests, backfill.Request{
				Task: []string{"fine", "fails", "waits"}[random.IntN(3)], MaxAttempts: 1 + random.IntN(2), Delay: time.Duration(random.IntN(2)) * time.Hour,
			})
		}
		jobs := enqueue(t, client, requests...)
		for _, job := range jobs[:3] { // as a worker that was killed leaves them
			dbtest.Run(t, db.Pool(), "update graphile_worker._private_jobs set locked_at = now(), locked_by = 'killed', attempts = attempts + 1 where id = $1", job.ID)
		}
		runOnce(t, client, registry, rigs[0].Worker())
		if round%2 == 1 {
			dbtest.Run(t, db.Pool(), "delete from graphile_worker._private_jobs where locked_at is null and id % 3 = 0")
			dbtest.Run(t, db.Pool(), "update graphile_worker._private_jobs set locked_at = null, locked_by = null where locked_by = 'killed'")
		}
		enqueue(t, client, backfill.Request{Task: "fine"}, backfill.Request{Task: "later", Delay: time.Hour})
	}
	dbtest.Run(t, db.Pool(), "update graphile_worker._private_jobs set run_at = run_at + interval '1 hour' where run_at > now()") // none becomes due
	truth := map[string]float64{}
	count := func(name, condition string) {
		for task, n := range tally(t, db, condition) {
			truth[name+" name="+task] = n
		}
	}
	count("backfill.queue.depth", "locked_at is null and attempts < max_attempts and run_at <= now()")
	count("backfill.queue.scheduled", "locked_at is null and attempts < max_attempts and run_at > now()")
	count("backfill.queue.running", "locked_at is not null")
	count("backfill.queue.failed", "locked_at is null and attempts >= max_attempts")
	letters := dbtest.Get[float64](t, db.Pool(), "select count(*)::float8 from graphile_worker.backfill_dlq where requeued_job_id is null")
	if letters == 0 {
		t.Fatal("there is no dead letter")
	}
	truth["backfill.dead_letter.count name=fails"] = letters
	for i, r := range rigs {
		got := of(r.fresh(), "backfill.queue.depth", "backfill.queue.scheduled", "backfill.queue.running", "backfill.queue.failed", "backfill.dead_letter.count")
		if diff := cmp.Diff(truth, got); diff != "" {
			t.Errorf("observer %d (-SQL +gauges):\n%s", i, diff)
		}
	}
}

// tally counts jobs by task, also of tasks without.
func tally(t *testing.T, db *pgtest.Database, condition string) map[string]float64 {
	t.Helper()
	rows, err := db.Pool().Query(t.Context(), fmt.Sprintf(`select t.identifier, count(j.id) filter (where %s)::float8 from graphile_worker._private_tasks as t
		left join graphile_worker._private_jobs as j on j.task_id = t.id group by 1`, condition))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	found := map[string]float64{}
	for rows.Next() {
		var task string
		var n float64
		if err := rows.Scan(&task, &n); err != nil {
			t.Fatal(err)
		}
		found[task] = n
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	return found
}

// Two readers that collect at the same moment cost one measurement, and a task that is beyond the
// bound is in "other".
func TestReadersShareAMeasurement(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	var requests []backfill.Request
	for i := range 100 {
		for range 1 + i%2 {
			requests = append(requests, backfill.Request{Task: fmt.Sprintf("t%d", i)})
		}
	}
	enqueue(t, client, requests...)
	one, two := metric.NewManualReader(), metric.NewManualReader()
	telemetry, err := backfillotel.New(backfillotel.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(one), metric.WithReader(two))))
	if err != nil {
		t.Fatal(err)
	}
	first, second := &rig{t, telemetry, one}, &rig{t, telemetry, two}
	first.observe(db.URL)
	got := first.numbers()
	enqueue(t, client, backfill.Request{Task: "t0"})
	depth := of(got, "backfill.queue.depth")
	if diff := cmp.Diff(depth, of(second.numbers(), "backfill.queue.depth")); diff != "" {
		t.Errorf("the second reader got another measurement (-first +second):\n%s", diff)
	}
	total := 0.0
	for _, n := range depth {
		total += n
	}
	if len(depth) != 60 || total != 150 || depth["backfill.queue.depth name=other"] == 0 {
		t.Errorf("%d series for %v jobs, other %v; want 60 for 150", len(depth), total, depth["backfill.queue.depth name=other"])
	}
}
