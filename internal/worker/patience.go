package worker

import (
	"context"
	"fmt"
	"time"
)

// WithPatience returns a context that ends after d, or later if this process had little time to run
// meanwhile: then an answer may have come that nobody has read, and to ask again takes more time
// than to read it. It ends after 4 d in any case.
func WithPatience(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	const steps, most = 10, 4
	hard, cancel := context.WithTimeout(ctx, most*d)
	patient, end := context.WithCancelCause(hard)
	go func() {
		for range steps { // each is late by as much as whatever else is to run here
			if !sleep(patient, d/steps) {
				return
			}
		}
		end(fmt.Errorf("no answer within %v: %w", d, context.DeadlineExceeded))
	}()
	return patient, func() {
		end(nil)
		cancel()
	}
}
