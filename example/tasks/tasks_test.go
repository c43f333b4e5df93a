package tasks_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/wneessen/go-mail"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/example/tasks"
	"github.com/backfillhq/go/testutil"
	"github.com/backfillhq/go/testutil/pgtest"
)

// A handler is called like any other method; what it enqueues goes to a Recorder.
func TestSendWelcome(t *testing.T) {
	t.Parallel()
	db, sent, rec := newDatabase(t), &sender{}, testutil.NewRecorder()
	mailer := &tasks.Mailer{DB: db.Pool(), SMTP: sent, Tasks: tasks.NewClient(rec)}
	if err := mailer.SendWelcome(t.Context(), tasks.WelcomeArgs{SubscriberID: 1}); err != nil {
		t.Fatal(err)
	}
	if jobs := rec.Requests(); len(jobs) != 0 {
		t.Errorf("tips that nobody asked for: %+v", jobs)
	}
	if err := mailer.SendWelcome(t.Context(), tasks.WelcomeArgs{SubscriberID: 1, Tips: true}); err != nil {
		t.Fatal(err)
	}
	if len(sent.messages) != 2 || !strings.Contains(sent.messages[1], `To: "Ada" <ada@example.com>`) || !strings.Contains(sent.messages[1], "Subject: Welcome") {
		t.Errorf("sent: %s", sent.messages)
	}
	var planned []tasks.TipArgs
	for _, job := range testutil.Enqueued(t, rec, tasks.TaskSendTip) {
		planned = append(planned, job.Args)
		if job.Queue != "subscriber:1" || job.Delay != 2*time.Second {
			t.Errorf("tip %d: queue %s, delay %v", job.Args.Number, job.Queue, job.Delay)
		}
	}
	if diff := cmp.Diff([]tasks.TipArgs{{SubscriberID: 1, Number: 1}, {SubscriberID: 1, Number: 2}, {SubscriberID: 1, Number: 3}}, planned); diff != "" {
		t.Errorf("tips (-want +got):\n%s", diff)
	}
}

// What becomes of a job is seen by running it.
func TestMailThatFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		subscriber int64
		tip        int
		smtp       error
		exhausted  int64
	}{
		"the subscriber is gone": {subscriber: 2, tip: 1, exhausted: 1},
		"no such tip":            {subscriber: 1, tip: 9, exhausted: 1},
		"the server is down":     {subscriber: 1, tip: 1, smtp: errors.New("connection refused")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t)
			client, err := backfill.NewClient(t.Context(), db.Pool(), backfill.WithSchema("backfill_example"))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			enqueue := tasks.NewClient(client)
			if _, err := enqueue.EnqueueSendTip(t.Context(), tasks.TipArgs{SubscriberID: test.subscriber, Number: test.tip}, backfill.Delay(0)); err != nil {
				t.Fatal(err)
			}
			registry := tasks.NewRegistry(tasks.Handlers{
				Mailer: &tasks.Mailer{DB: db.Pool(), SMTP: &sender{err: test.smtp}, Tasks: enqueue},
			}).Only(tasks.TaskSendTip.Name)
			report, err := backfill.RunOnce(t.Context(), registry, backfill.WithClient(client))
			if err != nil {
				t.Fatal(err)
			}
			if report.Failed != 1 || report.Exhausted != test.exhausted || report.Completed != 0 {
				t.Errorf("report is %+v, want 1 failed, of which %d exhausted", report, test.exhausted)
			}
		})
	}
}

func TestRegisterMember(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	answers := []int{http.StatusServiceUnavailable, http.StatusOK}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut || r.URL.Path != "/members/1" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		w.WriteHeader(answers[0])
		answers = answers[1:]
		w.Write([]byte(`{"number": "M-7"}`)) //nolint:errcheck // to a test
	}))
	t.Cleanup(api.Close)
	partner := &tasks.Partner{DB: db.Pool(), URL: api.URL}
	rec := testutil.NewRecorder()
	ctx := backfill.NewContext(t.Context(), rec) // in place of the worker, which does the same

	err := partner.RegisterMember(ctx, tasks.MemberArgs{SubscriberID: 1})
	if err == nil || !strings.Contains(err.Error(), "503 Service Unavailable") {
		t.Errorf("error is %v", err)
	}
	if err := partner.RegisterMember(ctx, tasks.MemberArgs{SubscriberID: 1}); err != nil {
		t.Error(err)
	}
	var member string
	if err := db.Pool().QueryRow(t.Context(), "select member from backfill_example.subscribers").Scan(&member); err != nil || member != "M-7" {
		t.Errorf("member is %q: %v", member, err)
	}
	announced := testutil.Enqueued(t, rec, tasks.TaskAnnounceMember)
	if len(announced) != 1 || announced[0].Args != (tasks.AnnounceArgs{SubscriberID: 1, Member: "M-7"}) {
		t.Errorf("announced: %+v", announced)
	}
}

func TestPurgeOutbox(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	_, err := db.Pool().Exec(t.Context(), `
		insert into backfill_example.outbox (arrived_at, message_id, recipient, subject, body)
		values (now() - interval '25 hours', 'old', '', '', ''), (now() - interval '23 hours', 'new', '', '', '')`)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Pool().Exec(t.Context(), `
		insert into backfill_example.done_jobs (id, task, queue, attempts, took, done_at)
		values (1, 'old', '', 1, 1, now() - interval '25 hours'), (2, 'new', '', 1, 1, now() - interval '23 hours')`)
	if err != nil {
		t.Fatal(err)
	}
	if err := (&tasks.Mailer{DB: db.Pool()}).PurgeOutbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	var mails, jobs string
	err = db.Pool().QueryRow(t.Context(), `
		select (select string_agg(message_id, ' ') from backfill_example.outbox), (select string_agg(task, ' ') from backfill_example.done_jobs)`).Scan(&mails, &jobs)
	if err != nil || mails != "new" || jobs != "new" {
		t.Errorf("left are mails %q and jobs %q: %v", mails, jobs, err)
	}
}

// newDatabase has one subscriber.
func newDatabase(t *testing.T) *pgtest.Database {
	t.Helper()
	db := pgtest.New(t, pgtest.WithSchema("backfill_example"))
	tables, err := os.ReadFile("../schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{string(tables), "insert into backfill_example.subscribers (name, email) values ('Ada', 'ada@example.com')"} {
		if _, err := db.Pool().Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

// sender keeps mail instead of sending it.
type sender struct {
	err      error
	messages []string
}

func (s *sender) DialAndSendWithContext(_ context.Context, messages ...*mail.Msg) error {
	for _, message := range messages {
		var text strings.Builder
		if _, err := message.WriteTo(&text); err != nil {
			return err
		}
		s.messages = append(s.messages, text.String())
	}
	return s.err
}
