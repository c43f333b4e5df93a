package testutil_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A program that imports backfill, the commands' packages and generated code links nothing that is
// for tests (X94): neither testing, which adds flags to it, nor what moves the time.
func TestProductionLinksNoTestCode(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "./backfill", "./migrations", "./cmd/...", "./example/...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := strings.Fields(string(out))
	for _, want := range []string{"github.com/backfillhq/go/example/tasks", "github.com/backfillhq/go/internal/pg", "github.com/jackc/pgx/v5"} {
		if !slices.Contains(linked, want) {
			t.Errorf("%s is not in the list: the test shows nothing", want)
		}
	}
	for _, name := range linked {
		for _, forbidden := range []string{"testing", "testutil", "testify", "dbtest", "testcontainers", "go-cmp", "rapid"} {
			if slices.Contains(strings.Split(name, "/"), forbidden) || strings.Contains(name, "/"+forbidden+"-") {
				t.Errorf("%s is linked", name)
			}
		}
	}
}
