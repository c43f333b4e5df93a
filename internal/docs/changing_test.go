package docs_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// What docs/tasks.md says about a changed task and the jobs that wait: each case is a row of its
// table.
func TestChangingATask(t *testing.T) {
	t.Parallel()
	type before struct {
		InvoiceID int64 `json:"invoice_id"`
	}
	type added struct {
		InvoiceID int64  `json:"invoice_id"`
		Currency  string `json:"currency"`
	}
	type renamed struct {
		Invoice int64 `json:"invoice"`
	}
	type retyped struct {
		InvoiceID string `json:"invoice_id"`
	}
	client, err := backfill.Open(t.Context(), pgtest.New(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	for _, task := range []string{"field_added", "field_removed", "field_renamed", "field_retyped", "task_renamed", "task_aliased"} {
		request := (&backfill.Task[before]{Name: task}).Request(before{InvoiceID: 7})
		if _, err := client.Enqueue(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan any, 6)
	registry := backfill.NewRegistry(
		backfill.Handle(&backfill.Task[added]{Name: "field_added"}, receive[added](got)),
		backfill.Handle(&backfill.Task[struct{}]{Name: "field_removed"}, receive[struct{}](got)),
		backfill.Handle(&backfill.Task[renamed]{Name: "field_renamed"}, receive[renamed](got)),
		backfill.Handle(&backfill.Task[retyped]{Name: "field_retyped"}, receive[retyped](got)),
		backfill.Handle(&backfill.Task[before]{Name: "with_alias", Aliases: []string{"task_aliased"}}, receive[before](got)),
	)
	report, err := backfill.RunOnce(t.Context(), registry, backfill.WithClient(client), backfill.WithConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	close(got)
	var args []any
	for arg := range got {
		args = append(args, arg)
	}
	want := []any{added{InvoiceID: 7}, struct{}{}, renamed{}, before{InvoiceID: 7}} // and one that does not decode, and one that waits
	if diff := cmp.Diff(want, args); diff != "" {
		t.Errorf("args of the jobs that ran (-want +got):\n%s", diff)
	}
	if report.Completed != 4 || report.Failed != 1 || report.Exhausted != 0 {
		t.Errorf("the run ended with %+v", report)
	}
}

func receive[T any](got chan<- any) func(context.Context, T) error {
	return func(_ context.Context, args T) error {
		got <- args
		return nil
	}
}
