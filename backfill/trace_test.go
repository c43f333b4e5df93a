package backfill_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill"
)

// A trace context that no reader would take is refused before it is sent.
func TestTraceContextIsChecked(t *testing.T) {
	t.Parallel()
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, test := range []struct {
		parent, state string
		good          bool
	}{
		{"", "", true},
		{parent, "", true},
		{parent, "vendor=1,other=2", true},
		{parent, strings.Repeat("x", 512), true},
		{parent, strings.Repeat("x", 513), false},
		{parent, "a\nb", false},
		{parent, "é", false},
		{"", "vendor=1", false},
		{strings.ToUpper(parent), "", false},
		{parent + "0", "", false},
		{parent[:54], "", false},
		{strings.ReplaceAll(parent, "-", "0"), "", false},
		{strings.Replace(parent, "0af", "xyz", 1), "", false},
	} {
		err := backfill.Request{Task: "t", Trace: backfill.TraceContext{Parent: test.parent, State: test.state}}.Validate()
		if (err == nil) != test.good || err != nil && !errors.Is(err, backfill.ErrInvalidRequest) {
			t.Errorf("Parent %q, State %.20q: %v", test.parent, test.state, err)
		}
	}
}

// Several options are one, and what is wrong with them is told as that of each.
func TestOptionsOfSeveral(t *testing.T) {
	t.Parallel()
	_, err := backfill.RunOnce(t.Context(), backfill.NewRegistry(), backfill.WorkerOptions(nil, backfill.WithConcurrency(0), backfill.WithTxConnections(0)),
		backfill.ClientOptions(backfill.WithSchema(""), nil))
	for _, want := range []string{"WithConcurrency", "WithTxConnections", "WithSchema"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
}
