// Package needs says what a test cannot do without.
package needs

import (
	"os"
	"os/exec"
	"testing"
)

// That skips a test on a machine that lacks something; there says whether the machine has it. If
// BACKFILL_TEST_ALL is 1, as in CI, the test fails instead: "there is no " and what.
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

// Program skips a test, as That does, on a machine where a program cannot be run. A program in PATH
// may be no more than a wrapper: Debian's psql says which package to install.
func Program(tb testing.TB, name string) {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), name, "--version").CombinedOutput()
	if err != nil && len(out) > 0 {
		tb.Logf("%s --version: %v: %s", name, err, out)
	}
	That(tb, err == nil, name)
}

// All reports whether nothing may be skipped.
func All() bool { return os.Getenv("BACKFILL_TEST_ALL") == "1" }
