package generate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
)

// find lists the packages that the patterns name, and returns the folders of those with directives, or with a file that we
// generated.
func find(ctx context.Context, config Config, problems *diag.List) ([]string, error) {
	const mode = packages.NeedName | packages.NeedFiles | packages.NeedModule
	listed, err := list(ctx, config, mode, append(slices.Clone(config.Patterns), runtimePath), nil)
	if err != nil {
		return nil, err
	}
	var dirs []string
	runtimeMissing := false
	for _, p := range listed {
		own := p.Module != nil && p.Module.Main
		switch {
		case p.PkgPath == runtimePath && !own:
			runtimeMissing = len(p.Errors) > 0
			continue
		case p.Dir == "" && len(p.Errors) > 0:
			problems.Add(diag.Diagnostic{Message: config.message(p.Errors[0])})
			continue
		case !own:
			problems.Add(diag.Diagnostic{Message: fmt.Sprintf("package %s is not in the main module, so there is nowhere to write", p.PkgPath)})
			continue
		}
		found, err := hasDirectives(p, problems)
		if err != nil {
			return nil, err
		}
		if found {
			dirs = append(dirs, p.Dir)
		}
	}
	if runtimeMissing && len(dirs) > 0 {
		problems.Add(diag.Diagnostic{
			Message: "generated code needs package " + runtimePath + ", which go.mod does not have",
			Hint:    "run: go get " + runtimePath + "@latest",
		})
	}
	if len(dirs) == 0 && problems.Errors() == 0 {
		problems.Add(diag.Diagnostic{Warning: true, Message: "no " + directive.Prefix + verbTask + " in " + strings.Join(config.Patterns, " ")})
	}
	return dirs, nil
}

// hasDirectives looks through all Go files of a package's folder as text, for go list passes over files with errors. Directives
// where they can have no effect are reported.
func hasDirectives(p *packages.Package, problems *diag.List) (bool, error) {
	paths, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
	if err != nil {
		return false, fmt.Errorf("look for directives: %w", err)
	}
	found := false
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return false, fmt.Errorf("look for directives: %w", err)
		}
		if filepath.Base(path) == FileName && generated(content) {
			found = true
			continue
		}
		found = reportNear(p, path, content, problems) || found
		line, ok := firstDirective(content)
		if !ok {
			continue
		}
		pos := token.Position{Filename: path, Line: line, Column: 1}
		switch {
		case strings.HasSuffix(path, "_test.go") && inString(path, content, line):
		case strings.HasSuffix(path, "_test.go"):
			problems.Errorf(pos, "%s lines have no effect in a test file: move the task into another file", directive.Prefix)
		case slices.Contains(p.IgnoredFiles, path):
			problems.Add(diag.Diagnostic{
				Pos: pos, Warning: true,
				Message: "the tasks of this file are left out, because build constraints exclude it here",
				Hint:    "name its build tags with -tags, or move the tasks into a file without constraints",
			})
		default:
			found = true
		}
	}
	return found, nil
}

// firstDirective returns the number of the first line that begins with a directive.
func firstDirective(content []byte) (int, bool) {
	number := 0
	for line := range bytes.Lines(content) {
		number++
		if directive.Is(string(line)) {
			return number, true
		}
	}
	return 0, false
}

// inString reports whether no comment of a file begins in this line.
func inString(path string, content []byte, line int) bool {
	fset := token.NewFileSet()
	file, _ := parser.ParseFile(fset, path, content, parser.ParseComments|parser.SkipObjectResolution) // as far as it can be read
	return file != nil && !slices.ContainsFunc(file.Comments, func(group *ast.CommentGroup) bool {
		return slices.ContainsFunc(group.List, func(comment *ast.Comment) bool { return fset.PositionFor(comment.Pos(), false).Line == line })
	})
}

// list runs go list for packages.
func list(ctx context.Context, config Config, mode packages.LoadMode, patterns []string, overlay map[string][]byte) ([]*packages.Package, error) {
	var flags []string
	if config.Tags != "" {
		flags = []string{"-tags=" + config.Tags}
	}
	found, err := packages.Load(&packages.Config{Context: ctx, Mode: mode, Dir: config.Dir, BuildFlags: flags, Overlay: overlay}, patterns...)
	if err != nil {
		text := err.Error()
		if strings.Contains(text, "updates to go.mod needed") || strings.Contains(text, "missing go.sum entry") {
			return nil, errors.New("go.mod is out of date: run go mod tidy")
		}
		if before, stderr, _ := strings.Cut(text, ": stderr: "); strings.TrimSpace(stderr) == "" {
			text = strings.TrimPrefix(before, "err: ") // go list did not even run
		} else {
			text = strings.TrimSpace(stderr)
		}
		return nil, fmt.Errorf("list packages: %s", text)
	}
	slices.SortFunc(found, func(a, b *packages.Package) int { return cmp.Compare(a.PkgPath, b.PkgPath) })
	return found, nil
}

// withoutGenerated replaces the generated files by empty ones. What they say was true for another state of the source: they may
// import what is gone, name a package that was renamed, or hold conflict markers.
func withoutGenerated(dirs []string) (map[string][]byte, error) {
	overlay := map[string][]byte{}
	for _, dir := range dirs {
		path := filepath.Join(dir, FileName)
		content, err := os.ReadFile(path)
		if os.IsNotExist(err) || err == nil && !generated(content) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the generated file: %w", err)
		}
		name, err := packageName(dir)
		if err != nil {
			return nil, err
		}
		overlay[path] = []byte("package " + name + "\n")
	}
	return overlay, nil
}

// packageName returns the name of the package in dir, by the files that people wrote, or "gone" if there is none.
func packageName(dir string) (string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return "", fmt.Errorf("find the package's name: %w", err)
	}
	for _, path := range paths {
		if filepath.Base(path) == FileName || strings.HasSuffix(path, "_test.go") {
			continue
		}
		if file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly); err == nil {
			return file.Name.Name, nil
		}
	}
	return "gone", nil
}

// message is what go list says is wrong, without the folder that all paths are relative to.
func (c Config) message(problem packages.Error) string {
	return strings.ReplaceAll(strings.TrimSpace(problem.Msg), c.Dir+string(filepath.Separator), "")
}

// oneLine makes one line of a message of go list, which may go on with what to run.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
