package trouble_test

import (
	"bytes"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/trouble"
)

// However many things there are, a second has one line, which names the first ten.
func TestDigestIsALineASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		digest := &trouble.Digest{Message: "jobs are lost", What: "jobs", Level: slog.LevelWarn}
		digest.Add(log)
		digest.Say(log)
		for i := range 2500 {
			digest.Add(log, strconv.Itoa(i))
		}
		<-time.After(1500 * time.Millisecond)
		digest.Add(log, "2500", "2501")
		digest.Say(log)
		<-time.After(time.Minute)
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 2 {
			t.Fatalf("%d lines, want 2: %s", len(lines), out.String())
		}
		for i, want := range []string{
			`count=2500 jobs="0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2490 more"`, `count=2 jobs="2500, 2501"`,
		} {
			if !strings.Contains(lines[i], want) {
				t.Errorf("line %d is %s, want %s", i, lines[i], want)
			}
		}
	})
}

func TestNames(t *testing.T) {
	t.Parallel()
	for want, n := range map[string]int{"": 0, "0": 1, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9": 10, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1 more": 11} {
		list := make([]int64, n)
		for i := range list {
			list[i] = int64(i)
		}
		if got := trouble.Names(list); got != want {
			t.Errorf("%d are %q, want %q", n, got, want)
		}
	}
}

// A trouble that comes and goes makes no more lines than one that lasts.
func TestLogOfTroubleThatComesAndGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		sending := &trouble.Log{Failing: "sending fails", Over: "sending works again"}
		for range 1000 {
			sending.Failure(log, bytes.ErrTooLarge)
			sending.Success(log)
			<-time.After(10 * time.Millisecond)
		}
		if n := strings.Count(out.String(), "\n"); n < 2 || n > 20 {
			t.Errorf("%d lines in 10 seconds, want at most two a second", n)
		}
	})
}
