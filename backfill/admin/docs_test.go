package admin_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The pages explain each code, and no other.
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
	for file, doc := range map[string]string{"why.go": "../../docs/why.md", "doctor.go": "../../docs/doctor.md"} {
		inCode, inDoc := find(file, `Code += "([a-z_]+)"`), find(doc, "(?m)^\\| (?:`[a-z_]+`, )?`([a-z_]+)`")
		if file == "why.go" {
			inCode = append(inCode, find("why_cron.go", `Code += "([a-z_]+)"`)...)
			slices.Sort(inCode)
		}
		if doc == "../../docs/doctor.md" { // in a row with another
			inDoc = append(inDoc, "dangling_task")
			slices.Sort(inDoc)
		}
		if diff := cmp.Diff(inCode, inDoc); diff != "" || len(inCode) < 20 {
			t.Errorf("codes of %s (-code +docs):\n%s", file, diff)
		}
	}
}
