package backfill_test

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Errors of handlers are recorded in a database of any encoding, with ? for what it does not have,
// and one that it does not have keeps no other job of the batch from being recorded.
func TestErrorsInOtherEncodings(t *testing.T) {
	t.Parallel()
	texts := map[string]map[string]string{ // by encoding, what is stored
		"UTF8":      {"plain": "plain", "grüße": "grüße", "5 €": "5 €", "日本 𝄞": "日本 𝄞", "a\x00b\xff": "ab\uFFFD", "\u202e\x1b[2J": "\u202e\x1b[2J"},
		"SQL_ASCII": {"plain": "plain", "grüße": "grüße", "5 €": "5 €", "a\x00b\xff": "ab\uFFFD"},
		"LATIN1":    {"plain": "plain", "grüße": "grüße", "5 €": "5 ?", "日本 𝄞": "?? ?", "grüße: 5 €": "gr??e: 5 ?", "a\x00b\xff": "ab?", "\u202e\x1b[2J": "??[2J"},
	}
	for encoding, want := range texts {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			admin := connect(t, pgtest.Empty(t))
			name := get[string](t, admin, "select current_database()") + "_" + strings.ToLower(encoding)
			dbtest.Run(t, admin, "create database "+name+" template template0 encoding '"+encoding+"' lc_collate 'C' lc_ctype 'C'")
			t.Cleanup(func() { _, _ = admin.Exec(context.Background(), "drop database "+name) })
			databaseURL := serverURL(t, &pgtest.Database{URL: admin.Config().ConnString()}, func(u *url.URL) { u.Path = "/" + name })
			client, err := backfill.Open(t.Context(), databaseURL, backfill.WithLogger(quiet))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			task, registry := taskOf("t", func(_ context.Context, i int) error { return errors.New(keyAt(want, i)) })
			ids := make(map[string]int64)
			for i := range len(want) {
				ids[keyAt(want, i)] = enqueue(t, client, task, i).ID
			}
			if report := runOnce(t, client, registry); report.Failed != int64(len(want)) {
				t.Errorf("report %+v, want %d failures", report, len(want))
			}
			for text, stored := range want {
				status, err := client.Job(t.Context(), ids[text])
				if err != nil {
					t.Fatal(err)
				}
				if status.LastError != stored {
					t.Errorf("%q is stored as %q, want %q", text, status.LastError, stored)
				}
			}
		})
	}
}

// keyAt returns the keys of a map by their place in order.
func keyAt(texts map[string]string, i int) string { return slices.Sorted(maps.Keys(texts))[i] }
