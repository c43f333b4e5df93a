package testutil_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
	"github.com/backfillhq/go/testutil/pgtest"
)

const hour = time.Hour

// Everything that goes by a time goes by one, when that is moved: what is due, what handlers ask
// SQL, and what is written (X90).
func TestMovedTime(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, pgtest.WithSchema("jobs of the test"))
	execute(t, db, `create table log (id int, a timestamptz default now(), b timestamptz default current_timestamp,
		c timestamptz default now() + interval '1 hour', d timestamptz not null default clock_timestamp())`)
	conns, err := sql.Open("pgx", db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conns.Close() })
	if err := conns.PingContext(t.Context()); err != nil { // a connection that is older than the clock
		t.Fatal(err)
	}
	client, err := backfill.NewClient(t.Context(), db.Pool(), backfill.WithSchema("jobs of the test"), backfill.WithSQLDB(conns),
		backfill.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)

	var start time.Time
	var happened []string
	note := func(what string, now time.Time) {
		happened = append(happened, fmt.Sprint(what, " at ", now.Sub(start)))
	}
	ask := func(row interface{ Scan(...any) error }) (now time.Time, err error) {
		var times [4]time.Time
		if err = row.Scan(&times[0], &times[1], &times[2], &times[3]); err == nil && (times[0] != times[1] || times[1] != times[2] || times[2] != times[3]) {
			err = fmt.Errorf("SQL has more than one time: %v", times)
		}
		return times[0], err
	}
	const times = "select now(), clock_timestamp(), statement_timestamp(), transaction_timestamp()"
	step := func(ctx context.Context, name string) error {
		now, err := ask(db.Pool().QueryRow(ctx, times))
		if err != nil {
			return err
		}
		job := backfill.JobInfo(ctx)
		note(fmt.Sprintf("%s %d", name, job.Attempt), now)
		if !job.RunAt.Equal(now) && !strings.HasPrefix(name, "paused") {
			return fmt.Errorf("%s runs at %v, and is due at %v", name, now, job.RunAt)
		}
		switch name {
		case "snoozes":
			if now.Sub(start) < 3*hour {
				return backfill.Snooze(90 * time.Minute)
			}
		case "fails":
			return errors.New("boom")
		case "enqueues":
			_, err = backfill.Enqueue(ctx, client, taskStep, "child", backfill.Delay(hour))
		}
		return err
	}
	inTx := &backfill.Task[string]{Name: "in_tx", Timeout: time.Minute}
	inSQLTx := &backfill.Task[string]{Name: "in_sql_tx", Timeout: time.Minute}
	tick := &backfill.Task[backfill.NoArgs]{Name: "tick"}
	registry := backfill.NewRegistry(backfill.Handle(taskStep, step),
		backfill.Handle(inTx, func(ctx context.Context, tx pgx.Tx, _ string) error {
			now, err := ask(tx.QueryRow(ctx, times))
			note("in_tx", now)
			return err
		}),
		backfill.Handle(inSQLTx, func(ctx context.Context, tx *sql.Tx, _ string) error {
			now, err := ask(tx.QueryRowContext(ctx, times))
			note("in_sql_tx", now)
			return err
		}),
		backfill.Handle(tick, func(ctx context.Context, _ backfill.NoArgs) error {
			now, err := sqlNow(ctx, db)
			if !backfill.JobInfo(ctx).Cron.TS.Equal(now) || now != now.Truncate(hour) {
				err = errors.Join(err, fmt.Errorf("the tick of %v runs at %v", backfill.JobInfo(ctx).Cron.TS, now))
			}
			happened = append(happened, "tick")
			return err
		}, backfill.Cron("0 * * * *")))
	boom := testutil.ExpectFailure(func(job *backfill.Job, err error) bool { return err.Error() == "boom" })
	until := func(d time.Duration) *testutil.Drained {
		t.Helper()
		return testutil.DrainUntil(t, client, registry, d)
	}

	testutil.DrainUntil(t, client, registry, time.Duration(0))
	if start, err = sqlNow(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	mustEnqueue(t, client, taskStep.Request("snoozes", backfill.Delay(hour)), taskStep.Request("fails", backfill.MaxAttempts(3), backfill.Key("f")),
		taskStep.Request("enqueues", backfill.Delay(2*hour)), inTx.Request("", backfill.Delay(4*hour)), inSQLTx.Request("", backfill.Delay(5*hour)),
		taskStep.Request("debounced", backfill.Key("k"), backfill.Delay(6*hour)), taskStep.Request("deduped", backfill.Key("u"), backfill.Delay(6*hour)),
		taskStep.Request("at", backfill.RunAt(start.Add(7*hour))))
	drained := testutil.DrainUntil(t, client, registry, start.Add(5*hour+hour/2), boom)
	if got := drained.Now.Sub(start); got != 5*hour+hour/2 {
		t.Errorf("the time is %v", got)
	}
	happened = append(happened, "--")
	mustEnqueue(t, client, taskStep.Request("debounced again", backfill.Key("k"), backfill.Delay(2*hour)),
		taskStep.Request("not", backfill.Key("u"), backfill.Delay(2*hour), backfill.UnsafeDedupe))
	pauses := backfill.PauseOptions{Until: drained.Now.Add(4 * hour)}
	if err := client.PauseQueue(t.Context(), "q", pauses); err != nil {
		t.Fatal(err)
	}
	pauses.Until = pauses.Until.Add(-time.Second)
	if err := client.Pause(t.Context(), "in_tx", pauses); err != nil {
		t.Fatal(err)
	}
	mustEnqueue(t, client, taskStep.Request("paused", backfill.Queue("q")), inTx.Request("paused"))
	until(4*hour + hour/2)
	var ticks int
	happened = slices.DeleteFunc(happened, func(what string) bool {
		if what == "tick" {
			ticks++
		}
		return what == "tick"
	})
	want := []string{
		"fails 1 at 0s", "fails 2 at 1h0m0s", "snoozes 1 at 1h0m0s", "enqueues 1 at 2h0m0s", "fails 3 at 2h0m0s", "snoozes 1 at 2h30m0s",
		"child 1 at 3h0m0s", "in_tx at 4h0m0s", "snoozes 1 at 4h0m0s", "in_sql_tx at 5h0m0s", "--",
		"deduped 1 at 6h0m0s", "at 1 at 7h0m0s", "debounced again 1 at 7h30m0s", "in_tx at 9h29m59s", "paused 1 at 9h30m0s",
	}
	sortEqualTimes(happened)
	if diff := cmp.Diff(want, happened); diff != "" {
		t.Errorf("what happened (-want +got):\n%s", diff)
	}
	if ticks != 10 {
		t.Errorf("%d ticks in ten hours", ticks)
	}

	// What is written.
	execute(t, db, "insert into log (id) values (1)")
	now := start.Add(10 * hour)
	var a, b, c, d time.Time
	if err := db.Pool().QueryRow(t.Context(), "select a, b, c, d from log").Scan(&a, &b, &c, &d); err != nil {
		t.Fatal(err)
	}
	if !a.Equal(now) || !b.Equal(now) || !c.Equal(now.Add(hour)) || !d.Equal(now) {
		t.Errorf("defaults of columns are %v, %v, %v, %v: want %v", a, b, c, d, now)
	}
	letters, err := client.DeadLetters(t.Context(), backfill.DeadLetterFilter{}, backfill.DeadLetterPage{})
	if err != nil || len(letters.Letters) != 1 || !letters.Letters[0].FailedAt.Equal(start.Add(2*hour)) || !letters.Letters[0].CreatedAt.Equal(start) {
		t.Fatalf("dead letters: %+v, %v", letters, err)
	}
	jobs, err := client.Enqueue(t.Context(), taskStep.Request("last"))
	if err != nil || !jobs[0].RunAt.Equal(now) || !jobs[0].CreatedAt.Equal(now) {
		t.Errorf("%+v, %v: want %v", jobs[0], err, now)
	}
	execute(t, db, `select "jobs of the test".add_job('step', '"by SQL"')`) // has functions of the contract
	stats, err := client.Stats(t.Context())
	if i := slices.IndexFunc(stats.Tasks, func(s backfill.TaskStats) bool { return s.Task == "step" }); err != nil || stats.Tasks[i].Due != 2 {
		t.Errorf("%+v, %v: want two due jobs of step", stats, err)
	}
	later := now.Add(hour)
	late, err := client.RescheduleJobs(t.Context(), backfill.RescheduleChange{RunAt: &later}, jobs[0].ID)
	status, statusErr := client.Job(t.Context(), jobs[0].ID)
	if statusErr != nil || !status.UpdatedAt.Equal(now) || status.State != backfill.JobWaiting {
		t.Errorf("a job that was rescheduled: %+v, %v", status, statusErr)
	}
	if err != nil || len(late) != 1 || len(until(0).Left) != 1 || len(until(hour).Left) != 0 {
		t.Errorf("a job that was rescheduled by an hour: %+v, %v", late, err)
	}

	// What expires.
	registry = backfill.NewRegistry(backfill.Handle(taskStep, step))
	until(179 * 24 * hour)
	if letters, err = client.DeadLetters(t.Context(), backfill.DeadLetterFilter{}, backfill.DeadLetterPage{}); err != nil || len(letters.Letters) != 1 {
		t.Errorf("dead letters after 179 days: %+v, %v", letters, err)
	}
	until(24 * hour)
	if letters, err = client.DeadLetters(t.Context(), backfill.DeadLetterFilter{}, backfill.DeadLetterPage{}); err != nil || len(letters.Letters) != 0 {
		t.Errorf("dead letters after 180 days: %+v, %v", letters, err)
	}
}

// sortEqualTimes sorts what happened at one time, in which there is no order.
func sortEqualTimes(happened []string) {
	at := func(what string) string { return what[strings.LastIndex(what, " ")+1:] }
	for i := range happened {
		for j := i; j > 0 && at(happened[j-1]) == at(happened[j]) && happened[j] < happened[j-1]; j-- {
			happened[j-1], happened[j] = happened[j], happened[j-1]
		}
	}
}

// A test that does not move the time finds nothing of a clock in its database, and one that does
// can ask for it everywhere, by any client, for ever.
func TestUnmovedTime(t *testing.T) {
	t.Parallel()
	client, db := newClient(t)
	there := func() (schema bool, path string) {
		t.Helper()
		conn := connectTo(t, db.URL)
		if err := conn.QueryRow(t.Context(), "select to_regnamespace('backfill_clock') is not null, current_setting('search_path')").Scan(&schema, &path); err != nil {
			t.Fatal(err)
		}
		return schema, path
	}
	_, before := there()
	registry := backfill.NewRegistry(doing(nil))
	mustEnqueue(t, client, taskStep.Request("a"))
	testutil.Drain(t, client, registry)
	if schema, path := there(); schema || path != before {
		t.Errorf("Drain has left a clock: search_path %s", path)
	}
	drained := testutil.DrainUntil(t, client, registry, 48*hour)
	if _, path := there(); path != "backfill_clock, pg_catalog, "+before {
		t.Errorf("search_path %s", path)
	}
	for range 2 { // it stands still
		if now, err := sqlNow(t.Context(), db); err != nil || !now.Equal(drained.Now) {
			t.Errorf("now is %v, %v: want %v", now, err, drained.Now)
		}
	}
	said := tryDrainUntil(t, client, registry, drained.Now.Add(-time.Second))
	wantAll(t, said, "the time does not go back: it is ")
	if again := testutil.Drain(t, client, registry); !again.Now.Equal(drained.Now) {
		t.Errorf("Drain has moved the time to %v", again.Now)
	}

	pool, err := pgxpool.New(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	second, err := backfill.NewClient(t.Context(), pool, backfill.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.Close)
	testutil.Drain(t, second, registry) // from then on
	mustEnqueue(t, second, taskStep.Request("b", backfill.Delay(hour)))
	if left := testutil.Drain(t, second, registry).Left; len(left) != 1 || !left[0].RunAt.Equal(drained.Now.Add(hour)) {
		t.Errorf("a second client's job: %v", left)
	}
}

// Where the time cannot be moved, DrainUntil says so: beside a test, and where SQL would not see
// it.
func TestImmovableTime(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	registry := backfill.NewRegistry(doing(nil))
	open := func(change func(*pgxpool.Config)) *backfill.Client {
		t.Helper()
		config, err := pgxpool.ParseConfig(db.URL)
		if err != nil {
			t.Fatal(err)
		}
		change(config)
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		client, err := backfill.NewClient(t.Context(), pool, backfill.WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		return client
	}
	own := open(func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["search_path"] = "public" })
	said := tryDrainUntil(t, own, registry, hour)
	wantAll(t, said, "sessions of the client's pool set a search_path themselves")

	name := strings.Replace(databaseOf(t, db), "backfill_test_", "not_a_test_", 1)
	execute(t, db, "create database "+name)
	t.Cleanup(func() {
		conn := connectTo(t, db.URL)
		if _, err := conn.Exec(context.Background(), "drop database "+name); err != nil {
			t.Error(err)
		}
	})
	elsewhere := open(func(c *pgxpool.Config) { c.ConnConfig.Database = name })
	said = tryDrainUntil(t, elsewhere, registry, hour)
	wantAll(t, said, `the time of database "`+name+`" is not to be moved`, "pgtest.New")
	mustEnqueue(t, elsewhere, taskStep.Request("a"))
	if drained := testutil.Drain(t, elsewhere, registry); drained.Completed != 1 { // which moves nothing
		t.Errorf("%+v", drained)
	}
	elsewhere.Close()
}

// The time that a test moves to is any time, also one at which a suite fails once a year, and the
// server is anywhere (X92).
func TestTimesAtWhichTestsFail(t *testing.T) {
	t.Parallel()
	for _, zone := range []string{"Asia/Kathmandu", "America/St_Johns"} {
		t.Run(zone, func(t *testing.T) {
			t.Parallel()
			client, db := newClient(t)
			execute(t, db, "alter database "+databaseOf(t, db)+" set timezone = '"+zone+"'")
			db.Pool().Reset()
			daily := &backfill.Task[backfill.NoArgs]{Name: "daily"}
			var ticks []string
			quiet := backfill.NewRegistry(doing(nil))
			registry := backfill.NewRegistry(doing(nil), backfill.Handle(daily, func(ctx context.Context, _ backfill.NoArgs) error {
				now, err := sqlNow(ctx, db)
				if !now.Equal(backfill.JobInfo(ctx).Cron.TS) {
					t.Errorf("the tick of %v runs at %v", backfill.JobInfo(ctx).Cron.TS, now)
				}
				ticks = append(ticks, now.Format("01-02 15:04"))
				return err
			}, backfill.Cron("30 2 * * * ?tz=Europe/Berlin")))
			year := time.Now().Year()/4*4 + 4 // a leap year
			for _, c := range []struct {
				from string
				want []string
			}{
				{"02-28T23:59:58Z", []string{"02-29 01:30", "03-01 01:30", "03-02 01:30"}},
				{"03-24T23:59:58Z", lastSunday(year, time.March, []string{"%d 01:30", "%d 01:00", "%d 00:30"})},
				{"10-27T23:59:58Z", lastSunday(year, time.October, []string{"%d 00:30", "%d 00:30", "%d 01:30"})},
				{"12-31T23:59:58Z", []string{"01-01 01:30", "01-02 01:30", "01-03 01:30"}},
			} {
				from, err := time.Parse(time.RFC3339, fmt.Sprintf("%d-%s", year, c.from))
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(c.from, "03") || strings.HasPrefix(c.from, "10") { // the Friday evening before
					from = sundayOf(year, from.Month()).AddDate(0, 0, -2).Add(24*hour - 2*time.Second)
				}
				start := testutil.DrainUntil(t, client, quiet, from).Now
				ticks = nil
				mustEnqueue(t, client, taskStep.Request("in a day", backfill.Delay(24*hour)), taskStep.Request("in 2 s", backfill.Delay(2*time.Second)),
					taskStep.Request("at", backfill.RunAt(start.Add(24*hour+time.Second))))
				if got := names(testutil.DrainUntil(t, client, registry, 2*time.Second)); len(got) != 1 || got[0] != "in 2 s" {
					t.Errorf("%s: two seconds later %q have run", c.from, got)
				}
				drained := testutil.DrainUntil(t, client, registry, start.Add(72*hour))
				var at []time.Duration
				for _, run := range drained.Runs {
					if run.Job.Task == "step" {
						at = append(at, run.At.Sub(start))
					}
				}
				if diff := cmp.Diff([]time.Duration{24 * hour, 24*hour + time.Second}, at); diff != "" {
					t.Errorf("%s: runs (-want +got):\n%s", c.from, diff)
				}
				if diff := cmp.Diff(c.want, ticks); diff != "" {
					t.Errorf("%s: ticks (-want +got):\n%s", c.from, diff)
				}
				if len(drained.Left) > 0 {
					t.Errorf("%s: left %v", c.from, drained.Left)
				}
			}
		})
	}
}

// sundayOf is the last one of a month: when Europe's clocks change.
func sundayOf(year int, month time.Month) time.Time {
	last := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC)
	return last.AddDate(0, 0, -int(last.Weekday()))
}

// lastSunday returns times of the days from the day before it on.
func lastSunday(year int, month time.Month, times []string) (days []string) {
	for i, at := range times {
		day := sundayOf(year, month).AddDate(0, 0, i-1)
		days = append(days, day.Format("01-")+fmt.Sprintf(strings.Replace(at, "%d", "%02d", 1), day.Day()))
	}
	return days
}

// A tick that finds its job waiting changes it, at its own time.
func TestTicksChangeJobsInMovedTime(t *testing.T) {
	t.Parallel()
	client, _ := newClient(t)
	registry := backfill.NewRegistry(doing(nil))
	drained := testutil.DrainUntil(t, client, registry, 3*hour, backfill.WithCrontab("30 * * * * nobodys ?jobKey=k"))
	if len(drained.Left) != 1 || drained.Left[0].Revision != 2 || drained.Left[0].Why != testutil.LeftUnserved {
		t.Fatalf("left: %v", drained.Left)
	}
	job, err := client.Job(t.Context(), drained.Left[0].ID)
	if err != nil || !job.UpdatedAt.Equal(job.RunAt) || job.RunAt.Minute() != 30 || drained.Now.Sub(job.RunAt) >= hour {
		t.Errorf("%+v, %v", job, err)
	}
}

// A handler that ends its transaction is found out in a time that stands still as well.
func TestTransactionsInMovedTime(t *testing.T) {
	t.Parallel()
	client, db := newClient(t)
	inTx := &backfill.Task[string]{Name: "in_tx", Timeout: time.Minute, MaxAttempts: 1}
	registry := backfill.NewRegistry(backfill.Handle(inTx, func(ctx context.Context, tx pgx.Tx, name string) error {
		if name == "commits" {
			if _, err := tx.Exec(ctx, "commit; begin"); err != nil {
				return err
			}
		}
		return nil
	}))
	testutil.DrainUntil(t, client, registry, hour)
	mustEnqueue(t, client, inTx.Request("fine"), inTx.Request("commits"))
	var said error
	drained := testutil.Drain(t, client, registry, testutil.ExpectFailure(func(_ *backfill.Job, err error) bool { said = err; return true }))
	if drained.Completed != 1 || drained.Exhausted != 1 || said == nil {
		t.Errorf("%+v, %v", drained.Report, said)
	}
	if now, err := sqlNow(t.Context(), db); err != nil || !now.Equal(drained.Now) {
		t.Errorf("%v, %v", now, err)
	}
}

func connectTo(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func databaseOf(t *testing.T, db *pgtest.Database) (name string) {
	t.Helper()
	if err := db.Pool().QueryRow(t.Context(), "select current_database()").Scan(&name); err != nil {
		t.Fatal(err)
	}
	return name
}
