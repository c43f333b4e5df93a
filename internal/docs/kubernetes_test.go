package docs_test

import (
	"strings"
	"testing"
)

// The manifest in docs/production.md can be read, its probes are those of the page's program, and
// its grace period is long enough for the drain timeout of the page's worker.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	var manifest string
	var code strings.Builder
	for _, b := range readPage(t, pages(t)["docs/production.md"]) {
		switch b.language {
		case "yaml":
			manifest += b.text
		case "go":
			code.WriteString(b.text)
		}
	}
	scalars, err := readYAML(manifest)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, scalar := range scalars {
		path, value := scalar[0], scalar[1]
		name := path[strings.LastIndexByte(path, '/')+1:]
		want := ""
		switch name {
		case "path":
			want = `http.Handle("` + value + `", probes.`
		case "port":
			want = `http.ListenAndServe(":` + value + `"`
		case "terminationGracePeriodSeconds":
			if value != "30" { // 15 s, and 10 s more, fit into what Kubernetes gives
				t.Errorf("%s is %s", path, value)
			}
			want = "backfill.WithDrainTimeout(15*time.Second)"
		default:
			continue
		}
		found[name]++
		if !strings.Contains(code.String(), want) {
			t.Errorf("%s is %s, and no program of the page has %s", path, value, want)
		}
	}
	if found["path"] != 2 || found["port"] != 2 || found["terminationGracePeriodSeconds"] != 1 {
		t.Errorf("of the manifest these were compared: %v", found)
	}
}
