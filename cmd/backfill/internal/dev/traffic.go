package dev

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/backfillhq/go/backfill"
)

// traffic enqueues some jobs a second until ctx ends. A database that does not answer for a while is
// told, and waited for.
func traffic(ctx context.Context, client *backfill.Client, notes io.Writer) error {
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if _, err := client.Enqueue(ctx, somebody()); err != nil && ctx.Err() == nil {
			fmt.Fprintln(notes, "enqueue:", err)
		}
	}
}

// somebody is a job that a user of the sample application causes.
func somebody() backfill.Request {
	switch n := rand.N(100); {
	case n < 45:
		return sendEmail.Request(emailArgs{fmt.Sprintf("user%d@example.com", rand.N(1000)), "Welcome"})
	case n < 65:
		return syncAccount.Request(syncArgs{rand.N(5)})
	case n < 85:
		return indexProduct.Request(indexArgs{rand.N(20)})
	case n < 97:
		return chargeCard.Request(cardArgs{Order: rand.N[int64](10_000), Cents: 100 + rand.N[int64](10_000)})
	case n < 98:
		return chargeCard.Request(cardArgs{Order: rand.N[int64](10_000), Cents: declinedAmount})
	case n < 99:
		return syncAccount.Request(syncArgs{goneAccount})
	default:
		return sendSMS.Request(smsArgs{fmt.Sprintf("+49 30 %06d", rand.N(1_000_000))})
	}
}

// tally counts how jobs end.
type tally struct{ done, failed, dead atomic.Int64 }

func (t *tally) observe(e backfill.Event) {
	switch {
	case e.Kind == backfill.EventFinished:
		t.done.Add(1)
	case e.Kind == backfill.EventFailed && !e.Final:
		t.failed.Add(1)
	case e.Kind == backfill.EventDead:
		t.dead.Add(1)
	}
}

// report writes the counts now and then, until ctx ends.
func (t *tally) report(ctx context.Context, out io.Writer) error {
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			_, err := fmt.Fprintf(out, "%s  jobs that succeeded: %d; attempts that failed, and are made again: %d; dead letters: %d\n",
				now.UTC().Format(time.TimeOnly), t.done.Load(), t.failed.Load(), t.dead.Load())
			if err != nil {
				return err
			}
		}
	}
}
