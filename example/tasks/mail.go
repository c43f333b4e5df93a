package tasks

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/wneessen/go-mail"

	"github.com/backfillhq/go/backfill"
)

// Mailer sends mail to subscribers. Its methods are tasks, and its fields are what they need.
type Mailer struct {
	DB   *pgxpool.Pool
	SMTP interface { // *mail.Client
		DialAndSendWithContext(ctx context.Context, messages ...*mail.Msg) error
	}
	Tasks Client // generated: enqueues the tasks of this package
}

// WelcomeArgs are the args of [Mailer.SendWelcome].
type WelcomeArgs struct {
	SubscriberID int64 `json:"subscriber_id"`
	Tips         bool  `json:"tips,omitempty"` // the tips are to follow
}

// SendWelcome sends the first mail, and schedules the tips if they were asked for. When it runs
// again, the mail arrives again, with the same Message-ID; a tip that waits is not enqueued twice,
// because it has a key.
//
//backfill:task queue="subscriber:{SubscriberID}" key="welcome:{SubscriberID}" max_attempts=10 timeout=30s
func (m *Mailer) SendWelcome(ctx context.Context, args WelcomeArgs) error {
	err := m.send(ctx, args.SubscriberID, "Welcome", `Thank you for signing up.

This mail was enqueued in the transaction that stored your address. Had it failed, you would not be on the list, and this mail would not exist.`)
	if err != nil || !args.Tips {
		return err
	}
	var planned []TipArgs
	for i := range tips {
		planned = append(planned, TipArgs{SubscriberID: args.SubscriberID, Number: i + 1})
	}
	_, err = m.Tasks.EnqueueSendTipMany(ctx, planned)
	return err
}

// TipArgs are the args of [Mailer.SendTip].
type TipArgs struct {
	SubscriberID int64 `json:"subscriber_id"`
	Number       int   `json:"number"` // from 1
}

var tips = []string{
	"A job runs at least once. If a worker dies in the middle, another one runs the job again, so a handler must be safe to run twice.",
	"Jobs with the same queue name run one at a time, in order. All three tips were due at the same moment, and yet they reached you as 1, 2, 3.",
	"A job that fails is tried again later, each time after a longer wait. Meanwhile the next job of its queue runs.",
}

// SendTip sends one of the tips. It shares its queue with the welcome mail: a subscriber gets one
// mail at a time.
//
//backfill:task queue="subscriber:{SubscriberID}" key="tip:{SubscriberID}:{Number}" delay=2s max_attempts=10 timeout=30s
func (m *Mailer) SendTip(ctx context.Context, args TipArgs) error {
	if args.Number < 1 || args.Number > len(tips) {
		return backfill.Permanent(fmt.Errorf("there is no tip %d", args.Number)) // trying again would not help
	}
	return m.send(ctx, args.SubscriberID, fmt.Sprintf("Tip %d of %d", args.Number, len(tips)), tips[args.Number-1])
}

// send sends a mail to a subscriber, whose address it reads now: args keep ids, and not copies of
// data that may change.
func (m *Mailer) send(ctx context.Context, subscriberID int64, subject, text string) error {
	var name, email string
	err := m.DB.QueryRow(ctx, "select name, email from backfill_example.subscribers where id = $1", subscriberID).Scan(&name, &email)
	if errors.Is(err, pgx.ErrNoRows) {
		return backfill.Permanent(fmt.Errorf("subscriber %d is gone", subscriberID))
	}
	if err != nil {
		return fmt.Errorf("read subscriber %d: %w", subscriberID, err)
	}
	message := mail.NewMsg()
	if err := errors.Join(message.FromFormat("backfill", "hello@example.com"), message.AddToFormat(name, email)); err != nil {
		return backfill.Permanent(fmt.Errorf("address mail: %w", err))
	}
	message.SetMessageIDWithValue(fmt.Sprintf("job-%d@backfill.example.com", backfill.JobInfo(ctx).ID))
	message.Subject(subject)
	message.SetBodyString(mail.TypeTextPlain, "Hello "+name+",\n\n"+text+"\n")
	if err := m.SMTP.DialAndSendWithContext(ctx, message); err != nil {
		refused, ok := errors.AsType[*mail.SendError](err)
		if ok && refused.ErrorCode() >= 500 { // the server says: never
			return backfill.Permanent(fmt.Errorf("send mail: %w", err))
		}
		return fmt.Errorf("send mail: %w", err)
	}
	return nil
}

// PurgeOutbox deletes what the page shows once it is older than a day: mail, and the history of
// jobs. It has no args. Its key is always the same, so one job waits, however often it is enqueued.
//
//backfill:task key="purge_outbox" timeout=1m
func (m *Mailer) PurgeOutbox(ctx context.Context) error {
	_, err := m.DB.Exec(ctx, `
		with mail as (delete from backfill_example.outbox where arrived_at < now() - interval '1 day')
		delete from backfill_example.done_jobs where done_at < now() - interval '1 day'`)
	return err
}
