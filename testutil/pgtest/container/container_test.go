package container_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/testutil/pgtest/container"
)

// noDocker makes a child of the test binary, whose DOCKER_HOST nobody answers, start a container.
const noDocker = "CONTAINER_TEST_NO_DOCKER"

// Docker is never required, so that this skips where there is none, even with BACKFILL_TEST_ALL=1.
// An image is pulled with that alone.
func TestStart(t *testing.T) {
	t.Parallel()
	if out, err := docker(t, "info"); err != nil {
		t.Skipf("there is no Docker: %v: %s", err, out)
	}
	image := os.Getenv("BACKFILL_TEST_PG_IMAGE")
	if image == "" {
		image = "postgres:17-alpine"
	}
	_, err := docker(t, "image", "inspect", image)
	if err != nil && os.Getenv("BACKFILL_TEST_ALL") != "1" {
		t.Skipf("there is no image %s, which BACKFILL_TEST_ALL=1 pulls", image)
	}
	if err != nil {
		if out, err := docker(t, "pull", image); err != nil {
			t.Skipf("there is no image %s: %v: %s", image, err, out)
		}
	}
	url, err := container.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var id, connections string
	if err := conn.QueryRow(t.Context(), "select trim(e'\\n ' from pg_read_file('/etc/hostname'))").Scan(&id); err != nil {
		t.Fatal(err)
	}
	// Ryuk does that too, unless it is turned off.
	defer func() { _, _ = docker(t, "rm", "--force", id) }()
	if out, err := docker(t, "inspect", id); err != nil {
		t.Errorf("the server is not in a container: %v: %s", err, out)
	}
	if err := conn.QueryRow(t.Context(), "show max_connections").Scan(&connections); err != nil || connections != "300" {
		t.Errorf("it takes %s connections: %v", connections, err)
	}
}

// testcontainers-go looks for Docker once in a process, so this is another one.
func TestStartWithoutDocker(t *testing.T) {
	t.Parallel()
	if os.Getenv(noDocker) != "" {
		_, err := container.Start(t.Context())
		t.Logf("err=%v", err)
		return
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), program, "-test.v", "-test.run=^TestStartWithoutDocker$")
	child.Env = append(os.Environ(), noDocker+"=1", "DOCKER_HOST=tcp://127.0.0.1:1", "HOME="+t.TempDir(), "XDG_RUNTIME_DIR=")
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "err=start a container of postgres:17-alpine: ") {
		t.Errorf("%v: %s", err, out)
	}
}

func docker(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "docker", args...).CombinedOutput()
	return string(out), err
}
