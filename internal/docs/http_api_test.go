package docs_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/testutil/pgtest"
)

// The page shows what backfill ui, and its API, write.
func TestHTTPAPIPage(t *testing.T) {
	t.Parallel()
	_, err := exec.LookPath("curl")
	needs.That(t, err == nil, "curl")
	bin := t.TempDir()
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, root+"/cmd/backfill").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs/http-api.md"))
	if err != nil {
		t.Fatal(err)
	}
	const address = "127.0.0.1:5678" // which may be taken here
	at, ran := "", 0
	for _, b := range readPage(t, string(text)) {
		if b.language != "console" {
			continue
		}
		for _, c := range commands(t, b) {
			var got string
			if c.line == "backfill ui" {
				server := exec.CommandContext(t.Context(), filepath.Join(bin, "backfill"), "ui", "--listen", "127.0.0.1:0")
				server.Env = append(os.Environ(), "DATABASE_URL="+pgtest.New(t).URL)
				pipe, err := server.StdoutPipe()
				if err == nil {
					err = server.Start()
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
				if got, err = bufio.NewReader(pipe).ReadString('\n'); err != nil {
					t.Fatal(err)
				}
				at, _, _ = strings.Cut(strings.TrimPrefix(got, "http://"), "/")
			} else {
				output, err := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(c.line, address, at, 1)).CombinedOutput()
				if err != nil {
					t.Errorf("%s: %v", c.line, err)
				}
				got = string(output)
			}
			moment := regexp.MustCompile(`"timestamp":"[^"]*"`)
			if got, want := moment.ReplaceAllString(strings.ReplaceAll(got, at, address), "…"), moment.ReplaceAllString(c.want, "…"); got != want {
				t.Errorf("%s writes\n%sthe page has\n%s", c.line, got, want)
			}
			ran++
		}
	}
	if ran != 3 {
		t.Errorf("%d commands were run", ran)
	}
}
