//go:build testcontainers

package pgtest_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/backfillhq/go/testutil/pgtest"
)

// Docker is never required, so that this skips where there is none, even with
// BACKFILL_TEST_ALL=1.
func TestContainer(t *testing.T) {
	t.Parallel()
	if out, err := exec.CommandContext(t.Context(), "docker", "info").CombinedOutput(); err != nil {
		t.Skipf("there is no Docker: %v: %s", err, out)
	}
	out, err := runHelper(t, "TestHelperContainer", "", "BACKFILL_TEST_PG=container")
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	_, rest, found := strings.Cut(out, "container=")
	if !found {
		t.Fatalf("no container was used: %s", out)
	}
	id := strings.Fields(rest)[0]
	if out, err := exec.CommandContext(t.Context(), "docker", "inspect", id).CombinedOutput(); err != nil {
		t.Errorf("the server was not in a container: %v: %s", err, out)
	}
	// Ryuk does that too, unless it is turned off.
	_ = exec.CommandContext(t.Context(), "docker", "rm", "--force", id).Run()
}

func TestHelperContainer(t *testing.T) {
	t.Parallel()
	isHelper(t)
	conn := connect(t, pgtest.New(t).URL)
	execute(t, conn, "select graphile_worker.add_job('greet')")
	t.Log("container=" + value(t, conn, "select trim(pg_read_file('/etc/hostname'))"))
}
