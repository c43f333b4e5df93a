package trouble_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/trouble"
)

// Ten failures a second for an hour make a line at once, then ever fewer, and one when it is over.
// A second trouble starts anew.
func TestLogCannotFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		sending := &trouble.Log{Failing: "sending fails", Over: "sending works again", Level: slog.LevelWarn}
		lines := func(text string) int { return strings.Count(out.String(), text) }
		sending.Success(log) // all was well
		for i := range 36_000 {
			sending.Failure(log, errors.New("refused"))
			if i == 0 && lines("sending fails") != 1 {
				t.Error("the first failure is not logged at once")
			}
			<-time.After(100 * time.Millisecond)
		}
		if n := lines("sending fails"); n < 60 || n > 70 {
			t.Errorf("%d lines in an hour, want one a minute in the end", n)
		}
		sending.Success(log)
		sending.Success(log)
		if n := lines("sending works again"); n != 1 || !strings.Contains(out.String(), "failures=36000 duration=1h0m0s") {
			t.Errorf("%d lines say that it is over; the log ends with %s", n, out.String()[max(0, out.Len()-200):])
		}
		before := lines("sending fails")
		sending.Failure(log, errors.New("refused"))
		if lines("sending fails") != before+1 {
			t.Error("the next trouble is not logged at once")
		}
	})
}

// What explains errors is asked for each line, and for no other failure.
func TestLinesAreExplained(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		asked := 0
		sending := &trouble.Log{Failing: "sending fails", Explain: func(err error) error {
			asked++
			return fmt.Errorf("%w: run this", err)
		}}
		for range 100 {
			sending.Failure(log, errors.New("refused"))
		}
		if lines := strings.Count(out.String(), `error="refused: run this"`); lines != 1 || asked != 1 {
			t.Errorf("asked %d times: %s", asked, out.String())
		}
	})
}
