// Package needs says what a test cannot do without.
package needs

import (
	"os"
	"testing"
)

// That skips a test on a machine that lacks something, of which there says whether it is there. Where BACKFILL_TEST_ALL is 1, as in
// CI, the test fails instead: "there is no " and what.
func That(tb testing.TB, there bool, what string) {
	tb.Helper()
	switch {
	case there:
	case All():
		tb.Fatalf("BACKFILL_TEST_ALL=1, but there is no %s", what)
	default:
		tb.Skipf("there is no %s", what)
	}
}

// All reports whether nothing may be skipped.
func All() bool { return os.Getenv("BACKFILL_TEST_ALL") == "1" }
