package main

import (
	"os"
	"strings"
	"testing"
)

// TestMain is also the command in a process of its own, to be killed.
func TestMain(m *testing.M) {
	if arguments := os.Getenv("BACKFILL_TEST_COMMAND"); arguments != "" {
		os.Args = append([]string{"backfill"}, strings.Fields(arguments)...)
		main()
		return
	}
	os.Exit(m.Run())
}
