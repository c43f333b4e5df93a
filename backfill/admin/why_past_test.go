package admin_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
)

// past checks what is told of a job's attempts, one after the other.
func (r *rig) past(x *admin.Explanation, parts ...string) *admin.Past {
	r.Helper()
	if x.Past == nil || len(x.Past.Attempts) != len(parts) {
		r.Fatalf("the past: %+v, want %q", x.Past, parts)
	}
	for i, part := range parts {
		if text := x.Past.Attempts[i].Text; !strings.Contains(text, part) {
			r.Errorf("attempt %q, want %q", text, part)
		}
	}
	return x.Past
}

// A job that is gone is explained by its history: how it ended, and why it ran more than once.
func TestWhyItRanTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	task := kept("export")
	task.Backoff = backfill.FixedBackoff(time.Millisecond)
	var runs atomic.Int32
	id := once(r, task, func(context.Context, args) error {
		if runs.Add(1) == 1 {
			return errors.New("the disk is full")
		}
		return nil
	}, backfill.WithScheduled())
	x := r.why(id, admin.Ended, "has completed", "has run 2 times")
	past := r.past(x, `failed`, "attempt 2 completed the job")
	if first := past.Attempts[0]; !strings.Contains(first.Text, `"the disk is full". The job was to be tried again.`) || first.Twice || first.Together || first.Outcome != admin.AttemptFailed || first.EndedAt.IsZero() {
		t.Errorf("the first attempt: %+v", first)
	}
	if x.Blocker.Since.IsZero() || x.Job != nil {
		t.Errorf("explanation %+v", x)
	}

	// While it waits, and with its lock taken away.
	client := r.client
	began, goOn := make(chan struct{}, 2), make(chan struct{})
	job, err := backfill.Enqueue(t.Context(), client, task, args{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := client.NewWorker(backfill.NewRegistry(backfill.Handle(task, func(context.Context, args) error {
		began <- struct{}{}
		<-goOn // whatever becomes of its lease: else it could give the job back before that is taken away
		return nil
	})), backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	release := sync.OnceFunc(func() { close(goOn) })
	defer func() {
		release()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	<-began
	if _, err := client.UnlockWorker(t.Context(), dbtest.Get[string](t, r.db.Pool(), "select locked_by from graphile_worker._private_jobs where id = $1", job.ID)); err != nil {
		t.Fatal(err)
	}
	<-began
	x = r.why(job.ID, admin.Running)
	if lost := r.past(x, "lost its lock").Attempts[0]; !lost.Twice || !strings.Contains(lost.Text, "the job ran twice") {
		t.Errorf("the lost attempt: %+v", lost)
	}
	release()
	dbtest.Until(t, func() bool {
		return dbtest.Get[bool](t, r.db.Pool(), "select not exists (select from graphile_worker._private_jobs where id = $1)", job.ID)
	})
	r.past(r.why(job.ID, admin.Ended, "has completed", "has run 2 times"), "lost its lock", "completed the job")
}

// What nobody would do on purpose: attempts that were one beside the other, that died, and very
// many.
func TestWhyThePastIsLong(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync'")
	insert := `insert into graphile_worker.backfill_history (job_id, task_identifier, attempt, outcome, started_at, ended_at, duration, worker_id)
		select $1, 'sync', i, $2, now() - make_interval(secs => 10000 - 10 * i), now() - make_interval(secs => 9999 - 10 * i), make_interval(secs => $3), 'w'
		  from generate_series($4::int, $5::int) as i`
	r.run(insert, id, "crashed", 0, 1, 1)
	r.run(insert, id, "failed", 15, 2, 2)
	r.run(insert, id, "returned", 1, 3, 20)
	x := r.why(id, admin.NoWorker)
	past := x.Past
	if past == nil || len(past.Attempts) != 15 || past.LeftOut != 5 || past.More {
		t.Fatalf("the past: %+v", past)
	}
	if first := past.Attempts[0]; !first.Twice || !strings.Contains(first.Text, "declared dead") {
		t.Errorf("a crash: %+v", first)
	}
	if second := past.Attempts[1]; !second.Together || !strings.Contains(second.Text, "the two ran at once") {
		t.Errorf("side by side: %+v", second)
	}
	if past.Attempts[2].Together || past.Attempts[14].Attempt != 20 {
		t.Errorf("the others: %+v", past.Attempts)
	}
	r.run(insert, id, "snoozed", 1, 21, 1021)
	if past := r.why(id, admin.NoWorker).Past; !past.More || past.LeftOut != 985 || past.Attempts[14].Attempt != 1021 {
		t.Errorf("the past: %+v", past)
	}
}

// Who has ended a job stands in the records.
func TestWhoEndedIt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.workAs([]string{"sync"}, backfill.WithHistory(time.Hour))
	dbtest.Until(t, func() bool {
		return dbtest.Get[bool](t, r.db.Pool(), "select exists (select from graphile_worker.backfill_history_tasks)")
	})
	ada := admin.As(t.Context(), admin.Principal{Name: "ada"})
	for _, test := range []struct {
		end  func(id int64) (*admin.Outcome, error)
		want string
	}{
		{func(id int64) (*admin.Outcome, error) {
			return r.admin.CancelJob(ada, id, nil, admin.ChangeOptions{Reason: "sold twice"})
		}, "was cancelled"},
		{func(id int64) (*admin.Outcome, error) {
			return r.admin.DeleteJob(ada, id, nil, admin.ChangeOptions{Reason: "sold twice"})
		}, "was removed"},
	} {
		id := r.add("'sync', run_at := now() + interval '1 hour'")
		if outcome, err := test.end(id); err != nil || outcome.Skip != "" {
			t.Fatalf("%+v, %v", outcome, err)
		}
		x := r.why(id, admin.Ended, test.want, `By ada, who gave as the reason "sold twice"`, "!has run")
		if len(x.Past.Attempts) != 1 {
			t.Errorf("the past: %+v", x.Past)
		}
	}
}

// What may not be read is missing, and a principal sees what he may.
func TestWhyThePastIsHidden(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := once(r, kept("sync"), func(context.Context, args) error { return nil })
	blind := openAdmin(t, r.db.URL, admin.WithAuthorize(func(_ context.Context, _ admin.Principal, _ admin.Action, target admin.Target) bool {
		return target.Kind != admin.KindHistory
	}))
	if x := checkWhy(t, blind, id, admin.Gone); x.Past != nil {
		t.Errorf("the past: %+v", x.Past)
	}
	conn := dbtest.Connect(t, r.db.URL)
	role := dbtest.NewRole(t, conn)
	as := openAdmin(t, asRole(t, r.db.URL, role))
	r.run("grant usage on schema graphile_worker to " + role)
	r.run("grant select on all tables in schema graphile_worker to " + role)
	r.run("revoke select on graphile_worker.backfill_history from " + role)
	for _, table := range []string{"_private_jobs", "_private_tasks", "_private_job_queues", "backfill_workers", "backfill_dlq"} {
		r.run("create policy everything_" + table + " on graphile_worker." + table + " for select to " + role + " using (true)")
	}
	hidden := func() bool {
		x, err := as.Why(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range x.Missing {
			if m.What == "the history" {
				return x.Past == nil && x.Blocker.Code == admin.Gone
			}
		}
		t.Errorf("%s, missing %+v", x.Blocker.Text, x.Missing)
		return false
	}
	if !hidden() {
		t.Error("without the right")
	}
	r.run("grant select on graphile_worker.backfill_history to " + role)
	if !hidden() {
		t.Error("without a policy")
	}
}
