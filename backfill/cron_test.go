package backfill_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

type reportArgs struct {
	Format string `json:"format"`
	Pages  int    `json:"pages"`
}

// A tick that was missed is made up for: its job has what its line says, what the task says where
// the line does not, and its tick.
func TestCronJob(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task := &backfill.Task[reportArgs]{
		Name: "report", Queue: func(a reportArgs) string { return "reports:" + a.Format }, MaxAttempts: 7, Priority: 4, Flags: []string{"slow"},
	}
	type seen struct {
		job  backfill.Job
		args reportArgs
	}
	ran := make(chan seen, 10)
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, args reportArgs) error {
		ran <- seen{backfill.JobInfo(ctx), args}
		return nil
	}, backfill.Cron(`* * * * * ?fill=2m&max=3 {format: 'pdf', "pages": 2, _cron: 'mine'}`)))
	known := time.Now().Add(-90 * time.Second)
	exec(t, db.Pool(), "insert into graphile_worker._private_known_crontabs values ('report', $1, null)", known)
	w := start(t, client, registry)
	got := <-ran
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(reportArgs{"pdf", 2}, got.args); diff != "" {
		t.Errorf("args (-want +got):\n%s", diff)
	}
	job := got.job
	if job.Queue != "reports:pdf" || job.MaxAttempts != 3 || job.Priority != 4 || len(job.Flags) != 1 || job.Cron == nil {
		t.Fatalf("job %+v", job)
	}
	if job.Cron.TS.Before(known) || job.Cron.TS.Second() != 0 || !job.Cron.TS.Equal(job.RunAt) {
		t.Errorf("tick %+v of a job due at %v, known since %v", job.Cron, job.RunAt, known)
	}
}

// What the line says of the key and its mode counts, else what the task says, each for itself.
func TestCronKeys(t *testing.T) {
	t.Parallel()
	constant := func(reportArgs) string { return "task's" }
	for _, test := range []struct {
		key      func(reportArgs) string
		mode     backfill.KeyMode
		line     string
		want     string
		wantMode backfill.KeyMode
	}{
		{nil, "", "", "", ""},
		{nil, "", "?jobKey=k", "k", ""},
		{nil, "", "?jobKey=k&jobKeyMode=preserve_run_at", "k", backfill.PreserveRunAt},
		{nil, backfill.PreserveRunAt, "?jobKey=k", "k", backfill.PreserveRunAt},
		{constant, "", "?jobKeyMode=preserve_run_at", "task's", backfill.PreserveRunAt},
		{constant, backfill.UnsafeDedupe, "", "task's", backfill.UnsafeDedupe},
		{constant, backfill.UnsafeDedupe, "?jobKey=k&jobKeyMode=replace", "k", backfill.Replace},
	} {
		task := &backfill.Task[reportArgs]{Name: "report", Key: test.key, KeyMode: test.mode}
		registry := backfill.NewRegistry(backfill.Handle(task, func(context.Context, reportArgs) error { return nil }, backfill.Cron("* * * * * "+test.line)))
		entries, err := backfill.Schedule(registry)
		if err := errors.Join(err, backfill.Problems(registry)); err != nil || len(entries) != 1 {
			t.Fatalf("%d entries, %v", len(entries), err)
		}
		if e := entries[0]; e.Key != test.want || backfill.KeyMode(e.KeyMode) != test.wantMode {
			t.Errorf("%q of a task with mode %q: key %q, mode %q", test.line, test.mode, e.Key, e.KeyMode)
		}
	}
}

// A task whose jobs the database refuses holds up no other's, and loses only the ticks before the
// last.
func TestCronJobRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ran := make(chan string, 100)
	handle := func(ctx context.Context, _ reportArgs) error {
		ran <- backfill.JobInfo(ctx).Task
		return nil
	}
	registry := backfill.NewRegistry(
		backfill.Handle(&backfill.Task[reportArgs]{Name: "bad", MaxAttempts: 3}, handle, backfill.Cron("* * * * * ?fill=1h")),
		backfill.Handle(&backfill.Task[reportArgs]{Name: "good"}, handle, backfill.Cron("* * * * * ?fill=1h")))
	exec(t, db.Pool(), "insert into graphile_worker._private_known_crontabs select id, $1, null from unnest(array['bad', 'good']) id", time.Now().Add(-3*time.Minute))
	run := func(sql string) {
		if _, err := db.Pool().Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	run(`create function refuse() returns trigger language plpgsql as $$begin raise 'refused'; end$$;
		create trigger refuse before insert on graphile_worker._private_jobs for each row when (new.max_attempts = 3) execute function refuse()`)
	w := start(t, newClient(t, db), registry)
	for range 3 {
		if task := <-ran; task != "good" {
			t.Errorf("a job of %s ran", task)
		}
	}
	run("drop trigger refuse on graphile_worker._private_jobs")
	for task := range ran {
		if task == "bad" {
			break
		}
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
}

// Each job has _cron in its payload, so a type that cannot hold it is refused, with a payload and
// without.
func TestCronInMaps(t *testing.T) {
	t.Parallel()
	task := &backfill.Task[map[string]string]{Name: "map"}
	for _, payload := range []string{"", `{a: "b"}`, `{_cron: "c"}`} {
		registry := backfill.NewRegistry(backfill.Handle(task, func(context.Context, map[string]string) error { return nil }, backfill.Cron("* * * * * "+payload)))
		wantError(t, backfill.Problems(registry), "$._cron: cannot use object as string")
	}
}

// A job that no schedule has enqueued has no tick, whatever its payload says in other places.
func TestJobsWithoutATick(t *testing.T) {
	t.Parallel()
	for payload, want := range map[string]bool{
		`{"_cron":{"ts":"2026-11-22T04:00:00.000Z","backfilled":true}}`: true,
		`{}`: false, `{"a":"\"_cron\""}`: false, `["_cron"]`: false, `{"_cron":7}`: false, `{"_cron":null}`: false, `{"a":{"_cron":{"ts":"2026-11-22T04:00:00.000Z"}}}`: false,
	} {
		tick := backfill.CronTickOf([]byte(payload))
		if (tick != nil) != want {
			t.Errorf("%s: %+v", payload, tick)
		}
		if tick != nil && (!tick.Backfilled || !tick.TS.Equal(time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC))) {
			t.Errorf("%s: %+v", payload, tick)
		}
	}
}

// Everything that is wrong with crontabs is a start-up error, with its place.
func TestCronProblems(t *testing.T) {
	t.Parallel()
	client := newClient(t, pgtest.New(t))
	task := &backfill.Task[reportArgs]{Name: "report"}
	handle := func(context.Context, reportArgs) error { return nil }
	registry := backfill.NewRegistry(backfill.Handle(task, handle, backfill.Cron("61 * * * *"), backfill.Cron(`* * * * * ?id=b {"pages": "many"}`), backfill.Cron("* * * * * ?id=c")))
	file := filepath.Join(t.TempDir(), "crontab")
	if err := os.WriteFile(file, []byte("# nightly\n\n0 4 * *  report\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := client.NewWorker(registry, backfill.WithCrontab("* * * * * other ?id=c\n* * * * * report ?tz=Europe/Berlin"),
		backfill.WithCrontabFile(file), backfill.WithCrontabFile(file+".missing"))
	for _, want := range []string{
		`task "report": crontab line "61 * * * *", column 1: `,
		`task "report": crontab line of "b": its payload, to which _cron is added, does not fit the task: decode args of task report: $.pages: cannot use string as int`,
		`two crontab lines have the identifier "c", for the tasks "report" and "other"`,
		"WithCrontab: 2:19: option tz is not for crontabs that Node workers could run",
		file + ":3:",
		"crontab.missing: no such file",
	} {
		wantError(t, err, want)
	}
	if n := strings.Count(err.Error(), "\n"); n != 6 {
		t.Errorf("%d lines:\n%v", n+1, err)
	}
}
