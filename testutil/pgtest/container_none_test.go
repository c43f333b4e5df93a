//go:build !testcontainers

package pgtest_test

import (
	"strings"
	"testing"
)

func TestContainerIsNotCompiledIn(t *testing.T) {
	t.Parallel()
	out, err := runHelper(t, "TestHelperUse", "", "BACKFILL_TEST_PG=container")
	if err == nil || !strings.Contains(out, "run go test -tags testcontainers") {
		t.Errorf("%v: %s", err, out)
	}
}
