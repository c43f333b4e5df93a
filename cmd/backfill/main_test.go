package main

import (
	"os"
	"testing"
)

// asCommand is the variable that makes the test's own program the command, in a process of its own
// that can be killed: where these tests run, there need be no compiler.
const asCommand = "BACKFILL_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}
