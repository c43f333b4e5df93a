package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

const purge = "package tasks\n\nimport \"context\"\n\n//backfill:task\nfunc Purge(ctx context.Context) error { return nil }\n"

// Links: one that leads nowhere, as editors leave behind, keeps nothing from being written; one to
// a folder is none of a source file.
func TestDanglingLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, []txtar.File{{Name: "tasks/tasks.go", Data: []byte(purge)}, {Name: "tasks/sub/sub.go", Data: []byte("package sub\n")}})
	for name, target := range map[string]string{".#tasks.go": "me@host.1:2", "gone.go": "nowhere", "folder.go": "sub"} {
		if err := os.Symlink(target, filepath.Join(dir, "tasks", name)); err != nil {
			t.Skip(err)
		}
	}
	stderr := backfillgen(t, 0, "-C", dir, "./...")
	if want := "tasks/gone.go: warning: cannot be read: no such file or directory\n"; stderr != want {
		t.Errorf("%s, want %s", stderr, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "tasks/backfill_gen.go")); err != nil {
		t.Error(err)
	}
}

// GitHub wants paths from the repository's root, wherever the module and the folder are.
func TestGitHubWorkspace(t *testing.T) {
	t.Setenv("GITHUB_WORKSPACE", "")
	workspace := t.TempDir()
	module := filepath.Join(workspace, "services", "app")
	write(t, module, []txtar.File{{Name: "tasks/tasks.go", Data: []byte(strings.Replace(purge, "task\n", "task timout=5s\n", 1))}})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(workspace, link); err != nil {
		t.Skip(err)
	}
	for _, tt := range []struct{ workspace, dir, want string }{
		{workspace, module, "services/app/tasks/tasks.go"},
		{workspace, filepath.Join(module, "tasks"), "services/app/tasks/tasks.go"},
		{module, filepath.Join(module, "tasks"), "tasks/tasks.go"},
		{link, module, "services/app/tasks/tasks.go"},
		{workspace, filepath.Join(link, "services", "app"), "services/app/tasks/tasks.go"},
		{t.TempDir(), module, "tasks/tasks.go"},
		{"", module, "tasks/tasks.go"},
	} {
		t.Setenv("GITHUB_WORKSPACE", tt.workspace)
		var stdout, stderr bytes.Buffer
		run(t.Context(), []string{"-C", tt.dir, "-format=github", "./..."}, &stdout, &stderr)
		want := "::error file=" + tt.want + ",line=5,col=17::unknown option \"timout\"; did you mean timeout?\n"
		if diff := cmp.Diff(want, stdout.String()); diff != "" {
			t.Errorf("GITHUB_WORKSPACE=%s in %s (-want +got):\n%s", tt.workspace, tt.dir, diff)
		}
	}
}
