package dev

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/backfillhq/go/backfill"
)

// The sample tasks. Each has a way to end of its own.
type (
	emailArgs  struct{ To, Subject string }
	cardArgs   struct{ Order, Cents int64 }
	syncArgs   struct{ Account int }
	indexArgs  struct{ Product int }
	reportArgs struct{ Month string }
	smsArgs    struct{ To string }
	resizeArgs struct{ Image string }
)

var (
	// Most are sent at once, some after a retry.
	sendEmail = &backfill.Task[emailArgs]{Name: "send_email", Timeout: 30 * time.Second, Backoff: backfill.FixedBackoff(3 * time.Second)}
	// A declined card is not charged again: a dead letter.
	chargeCard = &backfill.Task[cardArgs]{Name: "charge_card", MaxAttempts: 5, Backoff: backfill.FixedBackoff(2 * time.Second)}
	// One at a time for each account. Account 13 is gone: its jobs use up their attempts.
	syncAccount = &backfill.Task[syncArgs]{
		Name: "sync_account", MaxAttempts: 3, Backoff: backfill.FixedBackoff(time.Second),
		Queue: func(args syncArgs) string { return fmt.Sprintf("account:%d", args.Account) },
	}
	// However often a product changes, it is indexed once in a while.
	indexProduct = &backfill.Task[indexArgs]{
		Name: "index_product", Delay: 20 * time.Second, KeyMode: backfill.PreserveRunAt,
		Key: func(args indexArgs) string { return fmt.Sprintf("product:%d", args.Product) },
	}
	// Takes ten minutes, and the next one waits for it in the queue.
	exportReport = &backfill.Task[reportArgs]{
		Name: "export_report", Timeout: time.Hour,
		Queue: func(reportArgs) string { return "exports" },
	}
	// Is paused.
	sendSMS = &backfill.Task[smsArgs]{Name: "send_sms"}
	// Is scheduled, every minute.
	cleanSessions = &backfill.Task[backfill.NoArgs]{Name: "clean_sessions"}
	// No worker has it.
	resizeVideo = &backfill.Task[resizeArgs]{Name: "resize_video"}
)

const (
	goneAccount    = 13
	exportTakes    = 10 * time.Minute
	declinedAmount = 0
)

var (
	errMailServer  = errors.New("smtp: 451 4.7.1 greylisted, try again later")
	errBankTimeout = errors.New("payment gateway: 503 service unavailable")
	errAccountGone = errors.New("partner: 410 account 13 is closed")
)

// registry binds the tasks to what they pretend to do.
func registry() *backfill.Registry {
	return backfill.NewRegistry(
		backfill.Handle(sendEmail, func(ctx context.Context, _ emailArgs) error {
			return pretend(ctx, 200*time.Millisecond, 0.2, errMailServer)
		}),
		backfill.Handle(chargeCard, charge),
		backfill.Handle(syncAccount, synchronize),
		backfill.Handle(indexProduct, func(ctx context.Context, _ indexArgs) error { return pretend(ctx, 400*time.Millisecond, 0, nil) }),
		backfill.Handle(exportReport, export),
		backfill.Handle(sendSMS, func(ctx context.Context, _ smsArgs) error { return pretend(ctx, 100*time.Millisecond, 0, nil) }),
		backfill.Handle(cleanSessions, func(ctx context.Context, _ backfill.NoArgs) error { return pretend(ctx, time.Second, 0, nil) },
			backfill.Cron("* * * * *")),
	)
}

// pretend works for a while, more or less, and fails now and then.
func pretend(ctx context.Context, about time.Duration, fails float64, failure error) error {
	if err := sleep(ctx, about/2+rand.N(about)); err != nil {
		return err
	}
	if rand.Float64() < fails {
		return failure
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func charge(ctx context.Context, args cardArgs) error {
	if args.Cents == declinedAmount {
		return backfill.Permanent(fmt.Errorf("the bank has declined the card of order %d", args.Order))
	}
	return pretend(ctx, 300*time.Millisecond, 0.1, errBankTimeout)
}

func synchronize(ctx context.Context, args syncArgs) error {
	if args.Account == goneAccount {
		return errAccountGone
	}
	return pretend(ctx, time.Second, 0.05, errors.New("partner: connection reset by peer"))
}

// export runs for minutes, so that there is always a job to ask about, and orders the next report.
func export(ctx context.Context, args reportArgs) error {
	if err := renderPages(ctx, exportTakes); err != nil {
		return err
	}
	_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), exportReport, args)
	return err
}

// renderPages is what a stack shows of an export.
func renderPages(ctx context.Context, d time.Duration) error { return sleep(ctx, d) }
