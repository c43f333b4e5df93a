package docs_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The table of options in docs/directives.md has every option that backfillgen knows, no other, and
// backfillgen takes each example and each value in it.
func TestOptions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeSnippetModule(t, dir)
	_, table, _ := strings.Cut(pages(t)["docs/directives.md"], "\n## Task options\n")
	table, _, _ = strings.Cut(table, "\n## ")
	var names, examples []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)(=[^`]*)?` \\| (.*)$").FindAllStringSubmatch(table, -1) {
		names = append(names, row[1])
		if row[2] != "=" {
			examples = append(examples, row[1]+row[2])
			continue
		}
		for _, value := range regexp.MustCompile("`([a-z_]+(?:\\([0-9a-z.,]+\\))?)`").FindAllStringSubmatch(row[3], -1) {
			examples = append(examples, row[1]+"="+value[1])
		}
	}
	slices.Sort(names)
	if diff := cmp.Diff(knownOptions(t, dir), names); diff != "" {
		t.Errorf("backfillgen's options (-), and those in docs/directives.md (+):\n%s", diff)
	}
	if len(examples) < len(names)+6 {
		t.Fatalf("the table has the examples %q", examples)
	}
	for i, example := range examples {
		switch {
		case strings.HasPrefix(example, "key_mode="):
			example = "key={UserID} " + example
		case strings.HasPrefix(example, "tx="):
			example += " timeout=1m"
		case example == "serial":
			example = "queue=mail serial"
		case example == "singleton":
			example = "key=report singleton"
		}
		if !strings.HasPrefix(example, "name=") {
			example += fmt.Sprintf(" name=task_%d", i)
		}
		writeTask(t, dir, i, example)
	}
	run(t, dir, "go tool backfillgen ./...")
	run(t, dir, "go vet ./...")
}

// writeTask writes a package with a task that has these options.
func writeTask(t *testing.T, dir string, i int, options string) {
	t.Helper()
	name := fmt.Sprintf("option%02d", i)
	imports, transaction := "import \"context\"\n\n", ""
	if strings.HasPrefix(options, "tx=") {
		imports, transaction = imports+"import \"database/sql\"\n\n", "tx *sql.Tx, "
	}
	write(t, filepath.Join(dir, name, "task.go"), "//backfill:package database="+name+"\npackage "+name+"\n\n"+imports+
		"type Args struct{ UserID int64 }\n\n//backfill:task "+options+"\nfunc Do(ctx context.Context, "+transaction+"args Args) error { return nil }\n")
}

// knownOptions returns the options that backfillgen names when it refuses one.
func knownOptions(t *testing.T, dir string) []string {
	t.Helper()
	writeTask(t, dir, 0, "zzzzzzzzzzzz=1")
	cmd := exec.CommandContext(t.Context(), "go", "tool", "backfillgen", "./...")
	cmd.Dir = dir
	output, err := cmd.CombinedOutput()
	list := regexp.MustCompile(`there are ([\w, ]+)`).FindStringSubmatch(string(output))
	if err == nil || list == nil {
		t.Fatalf("backfillgen takes an unknown option, or names none that it knows: %v\n%s", err, output)
	}
	return strings.Split(list[1], ", ")
}
