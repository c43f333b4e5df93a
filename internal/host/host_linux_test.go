package host_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/backfillhq/go/internal/host"
)

// sleeper starts a process, and names it as it would itself.
func sleeper(t *testing.T) (*exec.Cmd, host.Process) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "sleep", "60")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill() })
	process, err := host.Named(command.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return command, process
}

func TestSelfIsThere(t *testing.T) {
	t.Parallel()
	self := host.Self()
	if self.Machine == "" || self.PID != os.Getpid() || self.Start == 0 {
		t.Fatalf("this process is %+v", self)
	}
	if self.Gone() {
		t.Error("this process is gone")
	}
}

// A process is gone from the moment at which it ends, whether its parent has looked or not; and one
// that has its number now is another.
func TestGone(t *testing.T) {
	t.Parallel()
	command, process := sleeper(t)
	if process.Gone() {
		t.Error("a process that lives is gone")
	}
	earlier := process
	earlier.Start--
	if !earlier.Gone() {
		t.Error("an earlier process with this number is not gone")
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for !process.Gone() { // a zombie first: nobody has waited for it. The test's time limit ends this.
	}
	_ = command.Wait()
	if !process.Gone() {
		t.Error("a process that has ended is not gone")
	}
}

// Nothing is said of processes elsewhere, or of those that did not know where they were.
func TestElsewhereIsNotJudged(t *testing.T) {
	t.Parallel()
	command, process := sleeper(t)
	_ = command.Process.Kill()
	_ = command.Wait()
	for _, machine := range []string{"", "another/1/2"} {
		elsewhere := process
		elsewhere.Machine = machine
		if elsewhere.Gone() {
			t.Errorf("a process on machine %q is gone", machine)
		}
	}
	if (host.Process{Machine: process.Machine}).Gone() {
		t.Error("a process without a number is gone")
	}
}
