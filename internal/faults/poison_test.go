//go:build unix

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// wayVariable has this test binary end itself.
const wayVariable = "BACKFILL_TEST_FAULTS_WAY"

// Each way ends a process, also one that is the first of its PID namespace.
func TestWays(t *testing.T) {
	t.Parallel()
	for w, want := range map[way]string{
		wayExit: "exit status 1", waySignal: "signal: killed", wayMap: "concurrent map writes", wayMemory: "fatal error: ",
	} {
		for _, alone := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, apart: %t", w, alone), func(t *testing.T) {
				t.Parallel()
				cmd := exec.CommandContext(t.Context(), os.Args[0])
				cmd.Env = append(os.Environ(), wayVariable+"="+string(w))
				cmd.SysProcAttr = &syscall.SysProcAttr{}
				if alone {
					apart(cmd.SysProcAttr)
				}
				out, err := cmd.CombinedOutput()
				if err == nil || !strings.Contains(err.Error()+string(out), want) {
					t.Errorf("ended with %v, which has no %q, and said\n%.1000s", err, want, out)
				}
			})
		}
	}
}
