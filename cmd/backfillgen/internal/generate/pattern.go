package generate

import (
	"context"
	"fmt"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/tools/go/packages"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

// withoutFiles returns the patterns that are no files, and reports the others, which go list would
// take for a package of their own.
func (c Config) withoutFiles(problems *diag.List) (patterns []string) {
	for _, pattern := range c.Patterns {
		path := pattern
		if !filepath.IsAbs(path) {
			path = filepath.Join(c.Dir, path)
		}
		isPath := strings.HasSuffix(pattern, ".go") || strings.HasPrefix(pattern, ".") || filepath.IsAbs(pattern) // else an import path
		if info, err := os.Stat(path); isPath && err == nil && !info.IsDir() {
			problems.Add(diag.Diagnostic{Message: pattern + " is a file: name its package, " + asPattern(filepath.Dir(pattern))})
			continue
		}
		patterns = append(patterns, pattern)
	}
	return patterns
}

// asPattern writes a folder as go build wants it.
func asPattern(dir string) string {
	if dir = filepath.ToSlash(dir); filepath.IsAbs(dir) || dir == "." || dir == ".." || strings.HasPrefix(dir, "./") || strings.HasPrefix(dir, "../") {
		return dir
	}
	return "./" + dir
}

// patternProblem is what go list says about a pattern, and what to write instead.
func (c Config) patternProblem(p *packages.Package) diag.Diagnostic {
	d := diag.Diagnostic{Message: c.shorten(p.Errors[0].Msg)}
	switch {
	case strings.HasPrefix(p.Errors[0].Msg, "no Go files in "):
		d.Hint = "name packages, such as ./..."
	case !strings.HasPrefix(p.PkgPath, ".") && !filepath.IsAbs(p.PkgPath):
		if info, err := os.Stat(filepath.Join(c.Dir, p.PkgPath)); err == nil && info.IsDir() {
			d.Message, _, _ = strings.Cut(d.Message, " (") // where Go looked for it
			d.Hint = "for the folder, write ./" + p.PkgPath
		}
	}
	return d
}

// shorten writes paths in a message of go list relative to the folder that patterns are relative
// to.
func (c Config) shorten(text string) string {
	text = strings.TrimSpace(text)
	text = strings.ReplaceAll(text, c.Dir+string(filepath.Separator), "")
	if before, ok := strings.CutSuffix(text, c.Dir); ok {
		text = before + "."
	}
	return text
}

// missingRuntime says that the package which generated code imports is not there, and why. If
// go.mod has its module, this is a warning: before the first run nothing imports the package, so a
// vendor folder cannot have it yet.
func (c Config) missingRuntime(ctx context.Context, problem packages.Error) diag.Diagnostic {
	d := diag.Diagnostic{Message: "generated code does not build yet: " + oneLine(problem.Msg)}
	vendored := strings.Contains(problem.Msg, "-mod=vendor")
	switch {
	case vendored && c.requires(ctx, strings.TrimSuffix(runtimePath, "/backfill")):
		d.Warning, d.Hint = true, vendorHint
	case strings.HasPrefix(problem.Msg, "missing go.sum entry"):
		d.Warning, d.Hint = true, tidyHint
	case vendored:
		d.Hint = "run: go get -mod=mod " + runtimePath + " && go mod vendor"
	case strings.HasPrefix(problem.Msg, "go: found "): // but go.mod does not have it
		d.Hint = "run: go get " + runtimePath
	case strings.HasPrefix(problem.Msg, "no required module provides package"):
		d.Message = "generated code needs package " + runtimePath + ", which go.mod does not have"
		d.Hint = "run: go get " + runtimePath + "@latest"
	}
	return d
}

// requires reports whether go.mod has a module.
func (c Config) requires(ctx context.Context, module string) bool {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", module)
	cmd.Dir = c.Dir
	return cmd.Run() == nil
}

// findHidden looks for directives in folders below patterns like ./... that go list leaves out
// here, because build constraints exclude all their files. known are the folders that it has
// listed, and modules the main modules by their paths.
func findHidden(ctx context.Context, config Config, known map[string]bool, modules map[string]string, problems *diag.List) error {
	for _, pattern := range config.Patterns {
		root, ok := config.rootOf(pattern, modules)
		if !ok {
			continue
		}
		err := filepath.WalkDir(root, func(dir string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil && entry != nil && entry.IsDir():
				return fs.SkipDir // go list has reported what matters of it
			case err != nil || !entry.IsDir() || known[dir]:
				return ctx.Err()
			case dir != root && isIgnoredFolder(dir):
				return fs.SkipDir
			}
			known[dir] = true
			if target, err := filepath.EvalSymlinks(dir); err == nil && (target == dir || !known[target]) {
				config.reportHidden(dir, problems)
			}
			return ctx.Err()
		})
		if err != nil {
			return fmt.Errorf("look for directives: %w", err)
		}
	}
	return nil
}

// rootOf returns the folder below which a pattern like ./... matches packages.
func (c Config) rootOf(pattern string, modules map[string]string) (dir string, ok bool) {
	root, ok := strings.CutSuffix(pattern, "/...")
	if !ok || strings.Contains(root, "...") {
		return "", false
	}
	if filepath.IsAbs(root) {
		return root, true
	}
	if strings.HasPrefix(root, ".") {
		return filepath.Join(c.Dir, root), true
	}
	for path, dir := range modules {
		if below, ok := strings.CutPrefix(root+"/", path+"/"); ok {
			return filepath.Join(dir, below), true
		}
	}
	return "", false
}

// reportHidden reports the directives of a folder if every file of it is one that only some builds
// have. Otherwise the folder is left out for another reason, which go list has told.
func (c Config) reportHidden(dir string, problems *diag.List) {
	paths, _ := sourceFiles(dir)
	var found []diag.Diagnostic
	for _, path := range paths {
		if isTest(path) || isPassedOver(path) {
			continue
		}
		content, _ := os.ReadFile(path)
		if condition(path, content, "") == "" {
			return
		}
		if line, ok := firstDirective(path, content); ok {
			d := c.misplaced(&packages.Package{}, path, content)
			d.Pos = token.Position{Filename: path, Line: line, Column: 1}
			found = append(found, d)
		}
	}
	for _, d := range found {
		problems.Add(d)
	}
}

// isIgnoredFolder reports whether patterns like ./... leave out a folder and all below it.
func isIgnoredFolder(dir string) bool {
	name := filepath.Base(dir)
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "vendor" || name == "node_modules" {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}
