package backfill_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill"
)

type unreadable struct{}

func (unreadable) MarshalText() ([]byte, error) { return nil, errors.New("torn page") }

// A job whose key cannot be written is refused, and the error says why.
func TestTemplateText(t *testing.T) {
	t.Parallel()
	if got := backfill.TemplateText(netip.MustParseAddr("::1")); got != "::1" {
		t.Errorf("got %q", got)
	}
	task := &backfill.Task[backfill.NoArgs]{
		Name: "ping", Key: func(backfill.NoArgs) string { return "ping:" + backfill.TemplateText(unreadable{}) },
	}
	err := task.Request(backfill.NoArgs{}).Validate()
	if err == nil || !strings.Contains(err.Error(), "torn page") || !strings.Contains(err.Error(), "key template") {
		t.Errorf("error %v", err)
	}
}
