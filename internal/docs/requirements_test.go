package docs_test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/needs"
)

const own = "github.com/backfillhq/go"

// runtimeNeeds are the modules that every user has in go.mod.
var runtimeNeeds = []string{
	own, "github.com/jackc/pgpassfile", "github.com/jackc/pgservicefile", "github.com/jackc/pgx/v5", "github.com/jackc/puddle/v2",
	"golang.org/x/sync", "golang.org/x/text",
}

// testNeeds are the modules that only tests need, ours and those of our dependencies: go.sum may
// have their hashes.
var testNeeds = []string{
	"github.com/davecgh/go-spew", "github.com/google/go-cmp", "github.com/lib/pq", "github.com/pmezard/go-difflib",
	"github.com/stretchr/testify", "go.yaml.in/yaml/v3", "gopkg.in/yaml.v3", "pgregory.net/rapid",
}

// What go mod tidy adds for a user's imports is known to the module. It counts what is imported
// under any build tag, and by tests.
func TestRequirementsOfUsers(t *testing.T) {
	t.Parallel()
	generator := []string{"github.com/aymanbagabas/go-udiff", "github.com/dave/jennifer", "golang.org/x/mod", "golang.org/x/tools"}
	for _, user := range []struct {
		name, test string
		tools      []string
		adds       []string
		hashes     []string // of modules that only tests of these packages need
	}{
		{name: "runtime"},
		{name: "tests", test: `import (_ "` + own + `/testutil"; _ "` + own + `/testutil/pgtest")`, adds: []string{"github.com/google/go-cmp"}},
		{name: "telemetry", test: `import _ "` + own + `/backfill/backfillotel"`, adds: []string{
			"github.com/cespare/xxhash/v2", "github.com/go-logr/logr", "github.com/go-logr/stdr", "go.opentelemetry.io/auto/sdk",
			"go.opentelemetry.io/otel", "go.opentelemetry.io/otel/log", "go.opentelemetry.io/otel/metric", "go.opentelemetry.io/otel/trace",
		}, hashes: []string{
			"github.com/beorn7/perks", "github.com/google/uuid", "github.com/munnerz/goautoneg", "github.com/prometheus/client_golang",
			"github.com/prometheus/client_model", "github.com/prometheus/common", "github.com/prometheus/otlptranslator",
			"github.com/prometheus/procfs", "go.opentelemetry.io/otel/exporters/prometheus", "go.opentelemetry.io/otel/sdk",
			"go.opentelemetry.io/otel/sdk/metric", "golang.org/x/sys", "google.golang.org/protobuf",
		}},
		{name: "generator", tools: []string{"backfillgen"}, adds: generator},
		{name: "both tools", tools: []string{"backfillgen", "backfill"}, adds: append([]string{"github.com/BurntSushi/toml", "github.com/urfave/cli/v3"}, generator...)},
	} {
		t.Run(user.name, func(t *testing.T) {
			t.Parallel()
			dir := userModule(t, user.test)
			for _, tool := range user.tools {
				run(t, dir, "go mod edit -tool="+own+"/cmd/"+tool)
			}
			run(t, dir, "go mod tidy")
			if diff := cmp.Diff(sorted(runtimeNeeds, user.adds), sorted(requirements(t, dir, true))); diff != "" {
				t.Errorf("go.mod (-want +got):\n%s", diff)
			}
			known := slices.Concat(runtimeNeeds, user.adds, user.hashes, testNeeds)
			for _, path := range hashed(t, dir) {
				if !slices.Contains(known, path) {
					t.Errorf("go.sum has a hash of %s", path)
				}
			}
		})
	}
}

// Programs link nothing that is for tests: neither those that import the runtime and generated
// code, as the example does, nor the command.
func TestProgramsLinkNothingForTests(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"./backfill", "./example", "./cmd/backfill"} {
		list := exec.CommandContext(t.Context(), "go", "list", "-deps", program)
		list.Dir = root
		out, err := list.Output()
		if err != nil {
			t.Fatal(err)
		}
		linked := strings.Fields(string(out))
		if !slices.Contains(linked, own+"/backfill") {
			t.Errorf("%s: the list lacks our own package: %q", program, linked)
		}
		for _, path := range linked {
			for _, no := range []string{
				"testing", own + "/testutil", "github.com/google/go-cmp", "github.com/stretchr", "github.com/testcontainers",
			} {
				if path == no || strings.HasPrefix(path, no+"/") {
					t.Errorf("%s links %s", program, path)
				}
			}
		}
	}
}

// Containers are for those who ask for them, and fit pgtest's hook.
func TestRequirementsOfUsersWithContainers(t *testing.T) {
	t.Parallel()
	needs.That(t, needs.All(), "permission to download testcontainers-go, as BACKFILL_TEST_ALL=1 gives")
	clone, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	const module = own + "/testutil/pgtest/container"
	comment, err := os.ReadFile(filepath.Join(root, "testutil/pgtest/container/container.go"))
	if err != nil {
		t.Fatal(err)
	}
	snippet := regexp.MustCompile(`(?m)^//\t(.*)$`).FindAllStringSubmatch(string(comment), -1)
	test := `import ("os"; "testing"; "` + own + `/testutil/pgtest"; "` + module + `")`
	for _, line := range snippet {
		test += "\n" + line[1]
	}
	dir := userModule(t, test)
	run(t, dir, "go mod edit -require="+module+"@v0.0.0 -replace="+module+"="+filepath.Join(clone, "testutil/pgtest/container"))
	run(t, dir, "go mod tidy")
	run(t, dir, "go vet ./...")
	if !slices.Contains(requirements(t, dir, true), "github.com/testcontainers/testcontainers-go") {
		t.Error("it needs no testcontainers-go")
	}
}

// CONTRIBUTING.md has a reason for each module that one of ours requires itself. The modules that
// users add on their own account require none of ours: else a release would be tags that name each
// other.
func TestEveryRequirementHasAReason(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root, "CONTRIBUTING.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## Dependencies\n")
	table, _, _ = strings.Cut(table, "\n## ")
	reasons := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(.+?)` \\| .+ \\|$").FindAllStringSubmatch(table, -1) {
		reasons[row[1]] = true
	}
	required := map[string]bool{}
	for _, dir := range []string{".", "internal/bench", "testutil/pgtest/container"} {
		for _, path := range requirements(t, filepath.Join(root, dir), false) {
			if path == own && dir != "internal/bench" {
				t.Errorf("%s requires %s", dir, own)
			}
			if path != own {
				required[path] = true
			}
		}
	}
	if diff := cmp.Diff(sorted(slices.Collect(maps.Keys(reasons))), sorted(slices.Collect(maps.Keys(required)))); diff != "" {
		t.Errorf("reasons and requirements differ (-reasons +requirements):\n%s", diff)
	}
}

// userModule is a user's module with this clone of ours, and a test file.
func userModule(t *testing.T, test string) string {
	t.Helper()
	clone, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "app.go"), "package app\n\nimport _ \""+own+"/backfill\"\n")
	write(t, filepath.Join(dir, "app_test.go"), "package app\n\n"+test+"\n")
	run(t, dir, "go mod init example.com/app")
	run(t, dir, "go mod edit -require="+own+"@v0.0.0 -replace="+own+"="+clone)
	return dir
}

// requirements are the modules in a folder's go.mod: all, or those without "// indirect".
func requirements(t *testing.T, dir string, indirect bool) (paths []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &file); err != nil {
		t.Fatal(err)
	}
	for _, module := range file.Require {
		if indirect || !module.Indirect {
			paths = append(paths, module.Path)
		}
	}
	return paths
}

// hashed are the modules whose files go.sum has hashes of, and which have to be downloaded
// therefore.
func hashed(t *testing.T, dir string) (paths []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); !strings.HasSuffix(words[1], "/go.mod") {
			paths = append(paths, words[0])
		}
	}
	return paths
}

func sorted(lists ...[]string) []string { return slices.Sorted(slices.Values(slices.Concat(lists...))) }
