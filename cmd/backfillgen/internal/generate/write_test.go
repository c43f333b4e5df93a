package generate_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backfillhq/go/cmd/backfillgen/internal/generate"
)

// If one file cannot be written, none is, and the error names the file that the user knows.
func TestWriteAllOrNone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.go")
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cannot := filepath.Join(dir, "gone", generate.FileName)
	err := generate.Write([]generate.File{
		{Path: filepath.Join(dir, generate.FileName), Want: []byte("package a\n")},
		{Path: stale, Have: []byte("package a\n")},
		{Path: cannot, Want: []byte("package a\n")},
	})
	if want := "write " + cannot + ": no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	entries, err := os.ReadDir(dir)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if strings.Join(names, " ") != "stale.go" {
		t.Errorf("the folder has %v (%v)", names, err)
	}
}
