package docs_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/testutil/pgtest"
)

// The way from an empty folder to jobs, by the words of the README: its files, its commands, and
// this clone in place of theirs.
func TestReadmeQuickstart(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var files []string
	var commands []block
	for _, b := range readPage(t, string(readme)) {
		if path, ok := goFile(b); ok {
			files = append(files, path)
			write(t, filepath.Join(dir, path), b.text)
		}
		if strings.Contains(b.text, "go mod init") {
			commands = append(commands, b)
		}
	}
	if len(files) != 3 {
		t.Fatalf("the README has the files %q", files)
	}
	ran := 0
	for _, b := range commands {
		for line := range strings.Lines(b.text) {
			command := strings.TrimSpace(strings.TrimPrefix(line, "$ "))
			if strings.HasPrefix(command, "#") || strings.HasPrefix(command, "DATABASE_URL=") {
				continue
			}
			ran++
			run(t, dir, strings.ReplaceAll(command, "=../backfill ", "="+root+" "))
		}
	}
	if ran < 4 {
		t.Fatalf("the README has %d commands", ran)
	}
	run(t, dir, "go mod tidy -diff")
	run(t, dir, "go tool backfillgen -check ./...")
	run(t, dir, "go test ./...")
	run(t, dir, "go vet ./...")
	run(t, dir, "go build -o signup .")
	runUntil(t, filepath.Join(dir, "signup"), pgtest.Empty(t).URL, "to user 7: Welcome, Ada!")
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// run runs a command without a shell's syntax in it.
func run(t *testing.T, dir, command string) {
	t.Helper()
	words := strings.Fields(command)
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// runUntil runs a program until it has logged a line, and then stops it as Ctrl-C does.
func runUntil(t *testing.T, program, databaseURL, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+databaseURL)
	output, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	seen := false
	for lines := bufio.NewScanner(output); lines.Scan(); {
		log.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), want) && !seen {
			seen = true
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil || !seen {
		t.Errorf("it ended with %v, and has logged:\n%s", err, log.String())
	}
}
