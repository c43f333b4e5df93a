package orders

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/backfillhq/go/backfill"
)

// Receipts mails receipts, through an API that takes them as JSON.
type Receipts struct {
	URL string
}

// ReceiptArgs is the payload of SendReceipt.
type ReceiptArgs struct {
	OrderID  string `json:"order_id"`
	Customer string `json:"customer"`
	Quantity int    `json:"quantity"`
}

// SendReceipt mails the receipt of an order. A customer gets one after the other.
//
//backfill:task queue="customer:{Customer}" max_attempts=10 timeout=30s backoff=exp(1s,10m)
func (r *Receipts) SendReceipt(ctx context.Context, args ReceiptArgs) error {
	body, err := json.Marshal(map[string]string{
		"to": args.Customer, "text": fmt.Sprintf("Thank you for order %s of %d.", args.OrderID, args.Quantity),
	})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, bytes.NewReader(body))
	if err != nil {
		return backfill.Permanent(err)
	}
	// A job can run twice. Its id stays the same, so the API can tell.
	request.Header.Set("Idempotency-Key", strconv.FormatInt(backfill.JobInfo(ctx).ID, 10))
	otel.GetTextMapPropagator().Inject(ctx, propagation.HeaderCarrier(request.Header))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return outcome(response)
}

// outcome says what becomes of the job.
func outcome(response *http.Response) error {
	err := fmt.Errorf("the mail API answers %s", response.Status)
	switch status := response.StatusCode; {
	case status < 300:
		return nil
	case status == http.StatusTooManyRequests: // it is not the job's fault: no attempt is charged
		seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
		if err != nil {
			seconds = 60
		}
		return backfill.Snooze(time.Duration(seconds) * time.Second)
	case status >= 500:
		return err
	default:
		return backfill.Permanent(err)
	}
}
