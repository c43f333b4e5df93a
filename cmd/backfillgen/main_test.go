package main

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write what the generator does into testdata")

// Each file of testdata is a module and what backfillgen does to it. Its comment may have a line "backfillgen: arguments"; the
// default is ./... The files want/… are those that were written or removed (then with the content "removed"), and stdout, stderr
// and exit are what they say. A go.mod that requires this module is added where there is none.
func TestGolden(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("testdata: %v, %v", paths, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive := parse(t, path)
			input, want := split(archive)
			dir := t.TempDir()
			write(t, dir, input)
			got := generated(t, dir, input, arguments(archive))
			if *update {
				archive.Files = append(archive.Files[:0], input...)
				for _, name := range slices.Sorted(maps.Keys(got)) {
					archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(got[name])})
				}
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// generated runs backfillgen in a module, twice: the second run must change nothing.
func generated(t *testing.T, dir string, input []txtar.File, arguments []string) map[string]string {
	t.Helper()
	got := map[string]string{}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), append([]string{"-C", dir}, arguments...), &stdout, &stderr)
	for name, text := range map[string]string{"stdout": stdout.String(), "stderr": stderr.String()} {
		if text != "" {
			got[name] = strings.ReplaceAll(text, dir, "DIR")
		}
	}
	if code != 0 {
		got["exit"] = string(rune('0'+code)) + "\n"
	}
	before := map[string]string{}
	for _, file := range input {
		before[file.Name] = string(file.Data)
	}
	after := read(t, dir)
	for name, content := range after {
		if old, ok := before[name]; name != "go.mod" && name != "go.sum" && (!ok || old != content) {
			got["want/"+name] = content
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			got["want/"+name] = "removed\n"
		}
	}
	if code == 0 {
		if code := run(t.Context(), append([]string{"-C", dir}, arguments...), &stdout, &stderr); code != 0 {
			t.Errorf("the second run exits with %d: %s", code, stderr.String())
		}
		if diff := cmp.Diff(after, read(t, dir)); diff != "" {
			t.Errorf("the second run changed something (-first +second):\n%s", diff)
		}
	}
	return got
}

// All golden output compiles, together with what it was made of, against the real backfill package; except where the comment of
// the case says that it does not.
func TestGoldenCompiles(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, nil)
	cases := 0
	for _, path := range paths {
		archive := parse(t, path)
		input, want := split(archive)
		if strings.Contains(string(archive.Comment), "does not compile") || want["exit"] != "" || !slices.ContainsFunc(slices.Collect(maps.Keys(want)), func(name string) bool { return strings.HasPrefix(name, "want/") }) {
			continue
		}
		cases++
		name := strings.TrimSuffix(filepath.Base(path), ".txtar")
		for _, file := range input {
			if _, replaced := want["want/"+file.Name]; !replaced {
				want["input/"+file.Name] = string(file.Data)
			}
		}
		for path, content := range want {
			kind, path, _ := strings.Cut(path, "/")
			if kind != "want" && kind != "input" || content == "removed\n" || filepath.Base(path) == "go.mod" {
				continue
			}
			content = strings.ReplaceAll(content, `"example.com/app`, `"example.com/app/`+name)
			writeFile(t, filepath.Join(dir, name, path), []byte(content))
		}
	}
	if cases == 0 {
		t.Fatal("there is nothing to compile")
	}
	cmd := exec.Command("go", "vet", "-tags=prod", "./...")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go vet: %v\n%s", err, out)
	}
}

func parse(t *testing.T, path string) *txtar.Archive {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

// split returns the files of the module, and what is wanted.
func split(archive *txtar.Archive) (input []txtar.File, want map[string]string) {
	want = map[string]string{}
	for _, file := range archive.Files {
		switch name := file.Name; {
		case name == "stdout" || name == "stderr" || name == "exit" || strings.HasPrefix(name, "want/"):
			want[name] = string(file.Data)
		default:
			input = append(input, file)
		}
	}
	return input, want
}

func arguments(archive *txtar.Archive) []string {
	for line := range strings.Lines(string(archive.Comment)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "backfillgen:"); ok {
			return strings.Fields(rest)
		}
	}
	return []string{"./..."}
}

// write makes a module of the files. Without a go.mod among them it has what this module needs, and this module.
func write(t *testing.T, dir string, files []txtar.File) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		writeFile(t, filepath.Join(dir, file.Name), bytes.ReplaceAll(file.Data, []byte("=> ROOT"), []byte("=> "+root)))
	}
	if slices.ContainsFunc(files, func(file txtar.File) bool { return file.Name == "go.mod" }) {
		return
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "go.mod" {
			content = bytes.Replace(content, []byte("module github.com/backfillhq/go\n"), []byte("module example.com/app\n"), 1)
			content = append(content, "\nrequire github.com/backfillhq/go v0.0.0\nreplace github.com/backfillhq/go => "+root+"\n"...)
		}
		writeFile(t, filepath.Join(dir, name), content)
	}
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// read returns the content of every file below dir.
func read(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files[filepath.ToSlash(name)] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
