package main

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// Types can be nested 100 deep, in fields and embedded. What is deeper is refused: the generator
// does not leave unsaid that it has not looked at it.
func TestDepth(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		field string // of one struct, of the type of the next
		depth int
		want  string
	}{
		"fields":            {"Next T%d", 100, ""},
		"pointers":          {"Next *T%d", 100, ""},
		"embedded":          {"T%d", 100, ""},
		"fields, deeper":    {"Next T%d", 101, "its types are nested more than 100 deep"},
		"slices, deeper":    {"Next []T%d", 101, "its types are nested more than 100 deep"},
		"embedded, deeper":  {"T%d", 101, "its types are nested more than 100 deep"},
		"embedded, far off": {"*T%d", 300, "its types are nested more than 100 deep"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var types strings.Builder
			for i := 1; i < tt.depth; i++ {
				fmt.Fprintf(&types, "type T%d struct{ "+tt.field+" }\n\n", i, i+1)
			}
			fmt.Fprintf(&types, "type T%d struct{ Value int }\n", tt.depth)
			dir := t.TempDir()
			write(t, dir, []txtar.File{{Name: "tasks/tasks.go", Data: []byte("package tasks\n\nimport \"context\"\n\n" + types.String() +
				"\n//backfill:task\nfunc Do(ctx context.Context, args T1) error { return nil }\n")}})
			code := 0
			if tt.want != "" {
				code = 1
			}
			stderr := backfillgen(t, code, "-C", dir, "./...")
			if strings.Count(stderr, "nested") != code || !strings.Contains(stderr, tt.want) {
				t.Errorf("backfillgen says %q, want %q", stderr, tt.want)
			}
		})
	}
}
