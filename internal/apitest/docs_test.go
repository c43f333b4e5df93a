package apitest_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The page names each route and each code, and no other.
func TestPage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	text, err := os.ReadFile("../../docs/http-api.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	unique := func(pattern, text string) []string {
		found := map[string]bool{}
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			found[match[1]] = true
		}
		return slices.Sorted(maps.Keys(found))
	}
	document, _ := r.document()
	routes := slices.Sorted(maps.Values(operations(document)))
	if diff := cmp.Diff(routes, unique("`((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)`", page)); diff != "" {
		t.Errorf("routes (-served +page):\n%s", diff)
	}
	var code strings.Builder
	files, err := filepath.Glob("../../backfill/admin/http*.go")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		code.Write(text)
	}
	_, errors, _ := strings.Cut(page, "\n## Errors\n")
	known := slices.DeleteFunc(unique(`"([A-Z]+(?:_[A-Z]+)+|INTERNAL|FORBIDDEN|UNAUTHENTICATED|PROXIED|TIMEOUT|UNREADABLE)"`, code.String()), func(text string) bool { return text == "DATABASE_URL" })
	documented := slices.DeleteFunc(unique("`([A-Z][A-Z_]+)`", errors), func(text string) bool { return strings.HasPrefix(text, "SKIPPED_") })
	if diff := cmp.Diff(known, documented); diff != "" {
		t.Errorf("codes (-code +page):\n%s", diff)
	}
}
