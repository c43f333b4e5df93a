package admin_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// docs/why.md explains each code, and no other.
func TestCodesAreDocumented(t *testing.T) {
	t.Parallel()
	find := func(file, pattern string) []string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, match := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
			found[string(match[1])] = true
		}
		return slices.Sorted(maps.Keys(found))
	}
	code, doc := find("why.go", `Code += "([a-z_]+)"`), find("../../docs/why.md", "(?m)^\\| `([a-z_]+)` \\|")
	if diff := cmp.Diff(code, doc); diff != "" || len(code) < 20 {
		t.Errorf("codes (-code +docs):\n%s", diff)
	}
}
