package npm_test

import (
	"encoding/json"
	"os"
	"testing"
)

// A lockfile from an npm with other settings has the addresses of its registry.
func TestLockfileHasNoAddresses(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	var lockfile struct {
		Packages map[string]struct{ Integrity, Resolved string }
	}
	if err := json.Unmarshal(content, &lockfile); err != nil {
		t.Fatal(err)
	}
	delete(lockfile.Packages, "") // the folder itself
	if len(lockfile.Packages) == 0 {
		t.Error("there are no packages")
	}
	for name, p := range lockfile.Packages {
		if p.Integrity == "" || p.Resolved != "" {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
