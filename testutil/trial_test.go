package testutil_test

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// trial is a test that may fail, inside of one that looks at how it does.
type trial struct {
	testing.TB

	mu       sync.Mutex
	failures []string
	log      bytes.Buffer
	cleanups []func()
}

// try runs a test to its end, clean-ups included.
func try(t *testing.T, test func(tb *trial)) *trial {
	t.Helper()
	tb := &trial{TB: t}
	tb.apart(func() { test(tb) })
	for _, cleanup := range slices.Backward(tb.cleanups) {
		tb.apart(cleanup)
	}
	return tb
}

// apart runs a part of a test on a goroutine of its own, which Fatalf ends.
func (tb *trial) apart(part func()) {
	var wg sync.WaitGroup
	wg.Go(part)
	wg.Wait()
}

// passes fails the test unless the one inside has passed.
func (tb *trial) passes() {
	tb.TB.Helper()
	if len(tb.failures) > 0 {
		tb.TB.Errorf("the test has failed: %s", tb.failed())
	}
}

func (tb *trial) failed() string { return strings.Join(tb.failures, "\n") }

func (tb *trial) Helper() {}

func (tb *trial) Cleanup(f func()) { tb.cleanups = append(tb.cleanups, f) }

func (tb *trial) Output() io.Writer { return tb }

func (tb *trial) Write(line []byte) (int, error) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.log.Write(line)
}

func (tb *trial) Logf(format string, args ...any) { fmt.Fprintf(tb, format+"\n", args...) }

func (tb *trial) Errorf(format string, args ...any) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.failures = append(tb.failures, fmt.Sprintf(format, args...))
}

func (tb *trial) Fatalf(format string, args ...any) {
	tb.Errorf(format, args...)
	runtime.Goexit()
}

func (tb *trial) Failed() bool {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return len(tb.failures) > 0
}

func (tb *trial) logged() string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.log.String()
}

// plain replaces what go-cmp varies, so that nobody relies on its output.
func plain(text string) string { return strings.ReplaceAll(text, "\u00a0", " ") }

// mustContain fails the test unless a text has all of these.
func mustContain(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(plain(text), part) {
			t.Errorf("want %q in:\n%s", part, text)
		}
	}
}
