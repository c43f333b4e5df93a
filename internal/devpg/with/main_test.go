//go:build unix

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// asProgram makes the test binary the command itself.
const asProgram = "WITH_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Unsetenv("DATABASE_URL") // of what the tests run with
		main()
	}
	os.Exit(m.Run())
}

func TestWith(t *testing.T) {
	t.Parallel()
	with, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), with, "--", "sh", "-c",
		`trap 'exit 7' TERM; echo "$DATABASE_URL"; kill -TERM $PPID; while :; do sleep 0.05; done`)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 7 {
		t.Errorf("the exit code is not the command's: %v: %s", err, stderr.String())
	}
	if !strings.HasPrefix(out.String(), "postgres://postgres:") {
		t.Errorf("DATABASE_URL is %q", out.String())
	}
	if conn, err := pgx.Connect(t.Context(), strings.TrimSpace(out.String())); err == nil {
		conn.Close(t.Context())
		t.Error("the server still runs")
	}
}
