package admin_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/needs"
)

// whyCron asks about an entry, and checks the kind of the answer and what it tells.
func (r *rig) whyCron(identifier string, want admin.Code, parts ...string) *admin.CronExplanation {
	r.Helper()
	x, err := r.admin.WhyCron(r.Context(), identifier)
	if err != nil {
		r.Fatal(err)
	}
	text := x.Blocker.Text + "\n" + strings.Join(x.Notes, "\n")
	for _, remedy := range x.Blocker.Remedies {
		text += "\n" + remedy.Text + "\n" + remedy.Command
	}
	if x.Blocker.Code != want {
		r.Errorf("%s: code %s, want %s: %s", identifier, x.Blocker.Code, want, text)
	}
	for _, part := range parts {
		if !strings.Contains(text, part) {
			r.Errorf("%s: %q is not in: %s", identifier, part, text)
		}
	}
	return x
}

// schedule starts a worker with a crontab, and waits until its entries are recorded.
func (r *rig) schedule(crontab string) (stop func()) {
	r.Helper()
	const scheduling = "select count(*) from graphile_worker.backfill_workers where crontab::text <> '[]' and dead_at is null"
	lines, before := int64(strings.Count(crontab, "\n")+1), dbtest.Get[int64](r.T, r.db.Pool(), scheduling)
	stop = r.workAs([]string{"report"}, backfill.WithCrontab(crontab))
	dbtest.Until(r.T, func() bool {
		return dbtest.Get[int64](r.T, r.db.Pool(), scheduling) > before &&
			dbtest.Get[int64](r.T, r.db.Pool(), "select count(*) from graphile_worker._private_known_crontabs") >= lines
	})
	return stop
}

func TestWhyCronWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stop := r.schedule("0 4 1 1 * report ?id=yearly&fill=2d&queue=q\n*/5 * * * * report ?id=often")
	x := r.whyCron("yearly", admin.CronWaits, "0 4 1 1 * UTC", "-01-01 04:00:00 UTC", "will be enqueued by worker pool-", "has not been enqueued yet")
	if next := x.NextTick.Time; next.Month() != time.January || next.Day() != 1 || next.Hour() != 4 || next.Before(x.At) {
		t.Errorf("the next tick is %v", x.NextTick)
	}
	if len(x.Entries) != 1 || x.Entries[0].Fill != "48h0m0s" || x.Entries[0].Task != "report" || x.Entries[0].Queue != "q" || len(x.Workers) != 1 || x.KnownSince.IsZero() {
		t.Errorf("the entry is %+v", x)
	}
	r.run("update graphile_worker._private_known_crontabs set last_execution = date_trunc('year', now()) where identifier = 'yearly'")
	r.whyCron("yearly", admin.CronWaits, "The last tick that was enqueued is that of ", "-01-01 00:00:00 UTC")

	if x := r.whyCron("often", admin.CronWaits); x.NextTick.Time.Sub(x.At) > 5*time.Minute+15*time.Second {
		t.Errorf("the next tick is %v", x.NextTick)
	}
	r.whyCron("another", admin.CronUnknown, "no worker has ever had it", `"yearly"`, `"often"`)

	r.work(1, "report") // another one without a crontab: it is not counted
	r.whyCron("yearly", admin.CronWaits, "will be enqueued by worker pool-")
	stop()
	r.whyCron("yearly", admin.CronNoWorker, "in the crontab of no Go worker that lives", "The last that had it was worker pool-", "nobody enqueues it")
}

// While a new version is rolled out, two workers have other schedules.
func TestWhyCronDisagreement(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule("0 4 1 1 * report ?id=a")
	r.schedule("30 5 1 1 * report ?id=a")
	x := r.whyCron("a", admin.CronWaits, "first of 2 workers", "do not agree", "30 5 1 1 * UTC", "0 4 1 1 * UTC")
	if x.NextTick.Time.Hour() != 4 {
		t.Errorf("the next tick is %v, and the other schedule's is later", x.NextTick)
	}
}

func TestWhyCronZone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	task := &backfill.Task[args]{Name: "report"}
	none := func(context.Context, args) error { return nil }
	w, err := r.client.NewWorker(backfill.NewRegistry(backfill.Handle(task, none, backfill.Cron("0 12 1 7 * ?id=noon&tz=Asia/Kathmandu"))), backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	runWorker(t, w)
	dbtest.Until(t, func() bool {
		return dbtest.Get[int64](t, r.db.Pool(), "select count(*) from graphile_worker._private_known_crontabs") == 1
	})
	x := r.whyCron("noon", admin.CronWaits, "0 12 1 7 * Asia/Kathmandu", "-07-01 06:15:00 UTC")
	if x.NextTick.Time.Hour() != 6 || x.NextTick.Time.Minute() != 15 {
		t.Errorf("the next tick is %v", x.NextTick)
	}
}

// A process whose clock was ahead has recorded a tick that is to come.
func TestWhyCronAhead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule("* * * * * report ?id=a")
	r.run("update graphile_worker._private_known_crontabs set last_execution = now() + interval '3 hours'")
	x := r.whyCron("a", admin.CronAhead, "whose clock was ahead", "update graphile_worker._private_known_crontabs")
	r.run(x.Blocker.Remedies[0].Command)
	r.whyCron("a", admin.CronWaits)
}

// A tick that is due and cannot be recorded, because a session has locked the row.
func TestWhyCronLate(t *testing.T) {
	t.Parallel()
	if !needs.All() {
		t.Skip("a minute has to begin, and 15 s to pass")
	}
	r := newRig(t)
	r.schedule("* * * * * report ?id=a")
	tx, err := r.db.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), "select from graphile_worker._private_known_crontabs for update"); err != nil {
		t.Fatal(err)
	}
	dbtest.UntilWithin(t, 2*time.Minute, func() bool {
		x, err := r.admin.WhyCron(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		return x.Blocker.Code == admin.CronLate
	})
	r.whyCron("a", admin.CronLate, "was due at", "is not recorded, although worker pool-")
}

// A database that only Node has used says what Node has recorded, and a role that may read less is
// told so.
func TestWhyCronWithoutGo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run("insert into graphile_worker._private_known_crontabs (identifier, known_since, last_execution) values ('daily', now() - interval '9 days', now() - interval '5 hours')")
	r.run("drop table graphile_worker.backfill_workers cascade")
	r.whyCron("daily", admin.CronNoWorker, "The last tick that was enqueued is that of", "no Go worker")
	r.whyCron("nightly", admin.CronUnknown, `"daily"`)

	role := dbtest.NewRole(t, dbtest.Connect(t, r.db.URL))
	r.admin = openAdmin(t, asRole(t, r.db.URL, role))
	r.whyCron("daily", admin.Unseen, "this role may not see")
	r.run("grant usage on schema graphile_worker to " + role)
	r.run("grant select on all tables in schema graphile_worker to " + role)
	r.whyCron("daily", admin.Unseen, "this role may not see") // row level security hides the row
}

// The job of an entry is enqueued out of its turn, as its worker has it.
func TestTriggerCron(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule(`0 4 1 1 * report ?id=yearly&queue=q&priority=3&max=7&jobKey=k {"year": 2026}`)
	outcome, err := r.admin.TriggerCron(as(t, "ada"), "yearly", admin.ChangeOptions{Reason: "the disk was full"})
	if err != nil || outcome.JobID == 0 {
		t.Fatalf("%+v, %v", outcome, err)
	}
	got := dbtest.Get[string](t, r.db.Pool(), `select concat_ws('|', task_identifier, queue_name, p.priority, p.max_attempts, j.key, payload ->> 'year',
		payload #>> '{_cron,backfilled}', (payload #>> '{_cron,ts}')::timestamptz between now() - interval '2 minutes' and now(), p.run_at <= now())
		from graphile_worker.jobs as j join graphile_worker._private_jobs as p using (id) where id = $1`, outcome.JobID)
	if got != "report|q|3|7|k|2026|false|t|t" {
		t.Errorf("the job is %s", got)
	}
	if got := dbtest.Get[string](t, r.db.Pool(), "select concat_ws('|', principal, action, target_kind, target_id, task, reason) from graphile_worker.backfill_audit"); got != "ada|trigger|cron|yearly|report|the disk was full" {
		t.Errorf("the record is %s", got)
	}
	if x := r.whyCron("yearly", admin.CronWaits, "has not been enqueued yet"); !x.LastTick.IsZero() {
		t.Errorf("a tick was recorded: %+v", x)
	}
	if _, err := r.admin.TriggerCron(t.Context(), "another", admin.ChangeOptions{}); !errors.Is(err, admin.ErrNotFound) || !strings.Contains(err.Error(), "stands in their code") {
		t.Errorf("an entry that nobody has: %v", err)
	}
}
