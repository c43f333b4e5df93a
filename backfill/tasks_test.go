package backfill_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/worker"
)

// Tasks as users write them, for generated_test.go.

type (
	SendEmailArgs struct {
		UserID   int64  `json:"user_id"`
		Template string `json:"template"`
	}
	NightlyArgs struct {
		Day string `json:"day"`
	}
	NotifyArgs struct {
		UserID int64 `json:"user_id"`
	}
)

// SendEmail enqueues itself, and its backoff mentions its task: neither may be an initialization
// cycle.
func SendEmail(ctx context.Context, args SendEmailArgs) error {
	if args.Template == "again" {
		_, err := EnqueueSendEmail(ctx, SendEmailArgs{UserID: args.UserID, Template: "last"}, backfill.Key("again"))
		return err
	}
	if args.Template == "fail" {
		return errBoom
	}
	_, err := EnqueuePurge(ctx)
	return err
}

func SendEmailBackoff(attempt int, _ error) time.Duration {
	return time.Duration(attempt*len(TaskSendEmail.Name)) * time.Second
}

// Reports has a pointer receiver, and a client of its own.
type Reports struct{ Tasks Client }

func (r *Reports) Nightly(ctx context.Context, args NightlyArgs) error {
	mails := []SendEmailArgs{{UserID: 1, Template: args.Day}, {UserID: 2, Template: args.Day}}
	_, err := r.Tasks.EnqueueSendEmailMany(ctx, mails)
	return err
}

// Counter has a value receiver.
type Counter struct{ days chan<- string }

func (c Counter) Tally(_ context.Context, args NightlyArgs) error {
	c.days <- args.Day
	return nil
}

func Notify(_ context.Context, args []NotifyArgs) error {
	failed := &backfill.BatchError{Errs: map[int]error{}}
	for i, a := range args {
		if a.UserID < 0 {
			failed.Errs[i] = errBoom
		}
	}
	return failed
}

func purge(context.Context) error { return nil }

func TestGeneratedEnqueue(t *testing.T) {
	t.Parallel()
	fake := &fakeEnqueuer{}
	mail := NewClient(fake)
	if _, err := mail.EnqueueSendEmail(t.Context(), SendEmailArgs{UserID: 7, Template: "a"}, backfill.PriorityFastHigh); err != nil {
		t.Fatal(err)
	}
	if _, err := mail.EnqueueNightlyMany(t.Context(), []NightlyArgs{{"1"}, {"2"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := mail.EnqueueNotify(t.Context(), []NotifyArgs{{1}, {2}}); err != nil {
		t.Fatal(err)
	}
	ctx := backfill.NewContext(t.Context(), fake)
	if _, err := EnqueuePurge(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := EnqueueNightly(ctx, NightlyArgs{"3"}, backfill.Delay(time.Hour)); err != nil {
		t.Fatal(err)
	}
	mixed := []backfill.Request{TaskNightly.Request(NightlyArgs{"4"}), TaskPurge.Request(backfill.NoArgs{}, backfill.Delay(time.Second))}
	if _, err := mail.Enqueue(t.Context(), mixed...); err != nil {
		t.Fatal(err)
	}
	want := []backfill.Request{
		{
			Task: "send_email", Args: raw(`{"user_id":7,"template":"a"}`), Queue: "user:7", Key: "welcome:7", KeyMode: backfill.PreserveRunAt,
			Priority: -10, MaxAttempts: 5, Delay: 5 * time.Minute, Flags: []string{"mail"},
		},
		{Task: "nightly", Args: raw(`{"day":"1"}`)},
		{Task: "nightly", Args: raw(`{"day":"2"}`)},
		{Task: "notify", Args: raw(`[{"user_id":1},{"user_id":2}]`), Key: "notify"},
		{Task: "purge", Args: raw(`{}`), Priority: 10, MaxAttempts: 5},
		{Task: "nightly", Args: raw(`{"day":"3"}`), Delay: time.Hour},
		{Task: "nightly", Args: raw(`{"day":"4"}`)},
		{Task: "purge", Args: raw(`{}`), Priority: 10, MaxAttempts: 5, Delay: time.Second},
	}
	if diff := cmp.Diff(want, fake.requests, cmpopts.IgnoreUnexported(backfill.Request{})); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if _, err := EnqueueSendEmail(t.Context(), SendEmailArgs{}); !errors.Is(err, backfill.ErrNoClient) {
		t.Errorf("without a client: %v", err)
	}
	for _, none := range []Client{{}, Client{}.WithTx(nil), Client{}.WithSQLTx(nil)} {
		if _, err := none.Enqueue(t.Context(), mixed...); !errors.Is(err, backfill.ErrNoClient) {
			t.Errorf("a zero Client: %v", err)
		}
	}
	if tx, ok := mail.WithTx(nil).enqueuer.(*fakeEnqueuer); !ok || tx.bound != "tx" {
		t.Error("WithTx is not passed on")
	}
	if tx, ok := mail.WithSQLTx(nil).enqueuer.(*fakeEnqueuer); !ok || tx.bound != "sqltx" {
		t.Error("WithSQLTx is not passed on")
	}
}

func TestGeneratedRegistry(t *testing.T) {
	t.Parallel()
	fake := &fakeEnqueuer{}
	days := make(chan string, 1)
	registry := NewRegistry(Handlers{Reports: &Reports{Tasks: NewClient(fake)}, Counter: &Counter{days}})
	if err := backfill.Problems(registry); err != nil {
		t.Fatal(err)
	}
	want := []string{"email", "nightly", "notify", "purge", "send_email", "tally"}
	if diff := cmp.Diff(want, backfill.Claimed(registry)); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	run := backfill.Executor(registry, fake, quiet)
	for task, payload := range map[string]string{"nightly": `{"day":"3"}`, "purge": `{}`, "email": `{"template":"again"}`, "tally": `{"day":"4"}`, "notify": `[{}]`} {
		if got := executeWith(t.Context(), run, engineJob(task, payload)); got.Kind != worker.OutcomeCompleted {
			t.Errorf("%s: %+v", task, got)
		}
	}
	if day := <-days; day != "4" {
		t.Errorf("tallied %s", day)
	}
	sent := strings.Join(fake.sent(), " ")
	for _, want := range []string{`send_email{"user_id":1,"template":"3"}`, `send_email{"user_id":2,"template":"3"}`, `send_email{"user_id":0,"template":"last"}`} {
		if !strings.Contains(sent, want) {
			t.Errorf("%s was not enqueued, but %s", want, sent)
		}
	}
	if got := executeWith(t.Context(), run, engineJob("send_email", `{"template":"fail"}`)); got.Delay != 20*time.Second {
		t.Errorf("backoff function: %+v", got)
	}
	if got := executeWith(t.Context(), run, engineJob("notify", `[{"user_id":1},{"user_id":-2}]`)); string(got.Payload) != `[{"user_id":-2}]` {
		t.Errorf("batch: %+v", got)
	}
}

// Receivers that are missing are start-up errors, all at once.
func TestGeneratedRegistryRequiresReceivers(t *testing.T) {
	t.Parallel()
	err := backfill.Problems(NewRegistry(Handlers{}))
	wantError(t, err, "Handlers.Counter is required")
	wantError(t, err, "Handlers.Reports is required")
}
