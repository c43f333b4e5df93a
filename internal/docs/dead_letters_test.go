package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// The commands of docs/dead-letters.md write what the page has, one after the other, in a database
// with the two dead letters that it speaks of.
func TestDeadLettersPage(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, root+"/cmd/backfill").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	db := pgtest.New(t)
	dbtest.Run(t, db.Pool(), `insert into graphile_worker.backfill_dlq (original_job_id, task_identifier, payload, priority, max_attempts, attempts,
		failure_reason, last_error, original_created_at, original_run_at, failed_at) values
		(1001, 'send_welcome', '{"user_id":6}', 0, 25, 25, 'exhausted', 'connection refused', now(), now(), now() - interval '2 hours'),
		(1002, 'send_welcome', '{"user_id":7}', 0, 25, 1, 'permanent', 'no such user', now(), now(), now() - interval '1 hour')`)
	text, err := os.ReadFile(filepath.Join(root, "docs/dead-letters.md"))
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, b := range readPage(t, string(text)) {
		if b.language != "console" {
			continue
		}
		for _, c := range commands(t, b) {
			cmd := exec.CommandContext(t.Context(), "sh", "-c", c.line)
			cmd.Env = append(os.Environ(), "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"), "DATABASE_URL="+db.URL)
			output, err := cmd.CombinedOutput()
			if got := strings.ReplaceAll(string(output), " \n", "\n"); err != nil || !matches(c.want, got) {
				t.Errorf("%s: %v, it writes\n%sthe page has\n%s", c.line, err, got, c.want)
			}
			ran++
		}
	}
	if ran != 5 {
		t.Errorf("the page has %d commands", ran)
	}
}
