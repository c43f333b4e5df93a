package backfill_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"runtime"
	"testing"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Args of some megabytes are enqueued in every way, and run. Larger ones than PostgreSQL takes are
// refused at once, by an error that says what to do, and without a copy of them.
func TestLargeArgs(t *testing.T) { //nolint:paralleltest // it measures memory
	ways := map[string]func(*testing.T, *pgtest.Database, *backfill.Client) transaction{
		"directly": func(_ *testing.T, _ *pgtest.Database, client *backfill.Client) transaction {
			nothing := func() error { return nil }
			return transaction{client, nothing, nothing}
		},
	}
	maps.Copy(ways, transactions())
	const large = 5 << 20 // more than a worker holds two of
	text := bytes.Repeat([]byte("0"), large)
	text[0], text[large-1] = '"', '"'
	tooLarge := make(json.RawMessage, backfill.MaxArgsBytes+1)
	for way, begin := range ways { //nolint:paralleltest // likewise
		t.Run(way, func(t *testing.T) {
			db := pgtest.New(t)
			client := newClient(t, db)
			tx := begin(t, db, client)
			for _, key := range []string{"", "k"} {
				if _, err := tx.enqueuer.Enqueue(t.Context(), backfill.Request{Task: "t", Args: text, Key: key}); err != nil {
					t.Fatal(err)
				}
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := tx.enqueuer.Enqueue(t.Context(), backfill.Request{Task: "t", Args: tooLarge})
			runtime.ReadMemStats(&after)
			if !errors.Is(err, backfill.ErrInvalidRequest) {
				t.Errorf("error is %v, want ErrInvalidRequest", err)
			}
			wantError(t, err, "args have 268435457 bytes: at most 268435456 (256 MiB) are allowed: store large data elsewhere")
			if n := after.TotalAlloc - before.TotalAlloc; n > 10<<20 {
				t.Errorf("%d MB were allocated for an error", n>>20)
			}
			if err := tx.commit(); err != nil {
				t.Fatal(err)
			}
			_, registry := taskOf("t", func(_ context.Context, args string) error {
				if len(args) != large-2 {
					return errors.New("not what was enqueued")
				}
				return nil
			})
			if report := runOnce(t, client, registry); report.Completed != 2 {
				t.Errorf("report %+v, want both to run", report)
			}
		})
	}
}
