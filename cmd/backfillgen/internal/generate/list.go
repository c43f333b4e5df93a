package generate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
)

// find lists the packages that the patterns name, and returns the folders of those with directives,
// or with a file that we generated.
func find(ctx context.Context, config Config, problems *diag.List) ([]string, error) {
	if config.Patterns = config.withoutFiles(problems); len(config.Patterns) == 0 {
		return nil, nil
	}
	const mode = packages.NeedName | packages.NeedFiles | packages.NeedModule
	listed, err := listWithRuntime(ctx, config, mode, config.Patterns, nil)
	if err != nil {
		return nil, err
	}
	var dirs []string
	var missing *packages.Package
	known, modules, excluded := map[string]bool{}, map[string]string{}, ""
	for _, p := range listed {
		own := p.Module != nil && p.Module.Main
		known[p.Dir] = true
		if own {
			modules[p.Module.Path] = p.Module.Dir
		}
		if p.PkgPath != runtimePath && len(p.Errors) > 0 {
			excluded = config.shorten(p.Errors[0].Msg)
		}
		switch {
		case p.PkgPath == runtimePath && !own:
			if len(p.Errors) > 0 {
				missing = p
			}
			continue
		case (p.Dir == "" || p.Module == nil) && len(p.Errors) > 0:
			problems.Add(config.patternProblem(p))
			continue
		case !own:
			problems.Add(diag.Diagnostic{Message: fmt.Sprintf("package %s is not in the main module, so there is nowhere to write", p.PkgPath)})
			continue
		}
		found, err := config.hasDirectives(p, problems)
		if err != nil {
			return nil, err
		}
		if found {
			dirs = append(dirs, p.Dir)
		}
	}
	if err := findHidden(ctx, config, known, modules, problems); err != nil {
		return nil, err
	}
	if missing != nil && len(dirs) > 0 {
		problems.Add(config.missingRuntime(ctx, missing.Errors[0]))
	}
	if len(dirs) == 0 && problems.Empty() {
		problems.Add(diag.Diagnostic{Warning: true, Message: "no " + directive.Prefix + verbTask + " in " + strings.Join(config.Patterns, " "), Hint: excluded})
	}
	return dirs, nil
}

// hasDirectives looks through all Go files of a package's folder, for go list passes over files
// with errors. Directives where they have no effect, or one only in some builds, are reported.
func (c Config) hasDirectives(p *packages.Package, problems *diag.List) (bool, error) {
	paths, err := sourceFiles(p.Dir)
	if err != nil {
		return false, fmt.Errorf("look for directives: %w", err)
	}
	found := false
	for _, path := range paths {
		content, err := os.ReadFile(path)
		switch {
		case err != nil && filepath.Base(path) == FileName:
			continue // it is written anew, or that fails
		case err != nil:
			problems.Add(diag.Diagnostic{
				Pos: token.Position{Filename: path}, Message: "cannot be read: " + withoutPath(err).Error(),
				Warning: errors.Is(err, fs.ErrNotExist), // a link that leads nowhere
			})
			continue
		}
		if filepath.Base(path) == FileName && generated(content) {
			found = true
			continue
		}
		found = reportNear(p, path, content, problems) || found
		if line, ok := firstDirective(path, content); ok {
			d := c.misplaced(p, path, content)
			if d.Pos = (token.Position{Filename: path, Line: line, Column: 1}); d.Message != "" {
				problems.Add(d)
			}
			found = found || d.Message == "" || slices.Contains(p.GoFiles, path) // then its tasks are checked all the same
		}
	}
	return found, nil
}

// misplaced says why the tasks of a file have no effect, or one only in some builds. It has no
// message if all is well.
func (c Config) misplaced(p *packages.Package, path string, content []byte) diag.Diagnostic {
	goVersion := ""
	if p.Module != nil {
		goVersion = p.Module.GoVersion
	}
	const leftOut = "the tasks of this file are left out, because go build passes over "
	cause, read := condition(path, content, goVersion), slices.Contains(p.GoFiles, path)
	switch {
	case isPassedOver(path):
		return diag.Diagnostic{Warning: true, Message: leftOut + "files whose names begin with _"}
	case isTest(path):
		return diag.Diagnostic{Message: directive.Prefix + " lines have no effect in a test file: move the task into another file"}
	case cause == neverBuilt && !read:
		return diag.Diagnostic{Warning: true, Message: leftOut + "files with the build constraint ignore"}
	case cause != "":
		return diag.Diagnostic{
			Message: "this file is left out of some builds by " + cause + ", and generated code is the same for all: move its tasks into a file without constraints",
			Hint:    "a task can call a function that each system or build tag has its own form of",
		}
	case slices.Contains(p.IgnoredFiles, path):
		return diag.Diagnostic{Warning: true, Message: leftOut + "it"} // of package documentation
	case !read && len(p.Errors) > 0:
		return diag.Diagnostic{Message: "go build cannot read this file: " + oneLine(c.shorten(p.Errors[0].Msg))}
	}
	return diag.Diagnostic{}
}

// firstDirective returns the number of the first line that begins with a directive. Only files with
// one are parsed, to tell comments from strings; of those that cannot be parsed, the text counts.
func firstDirective(path string, content []byte) (int, bool) {
	number, first := 0, 0
	for line := range bytes.Lines(content) {
		if number++; first == 0 && directive.Is(string(line)) {
			first = number
		}
	}
	if first == 0 {
		return 0, false
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return first, true
	}
	for _, group := range file.Comments {
		for _, comment := range group.List {
			if directive.Is(comment.Text) {
				return fset.PositionFor(comment.Pos(), false).Line, true
			}
		}
	}
	return 0, false
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
		if before, stderr, _ := strings.Cut(text, ": stderr: "); strings.TrimSpace(stderr) == "" {
			text = strings.TrimPrefix(before, "err: ") // go list did not even run
		} else {
			text = strings.TrimSpace(stderr)
		}
		return nil, fmt.Errorf("list packages: %s", config.shorten(text))
	}
	slices.SortFunc(found, func(a, b *packages.Package) int { return cmp.Compare(a.PkgPath, b.PkgPath) })
	return found, nil
}

// listWithRuntime runs go list for packages and the one that generated code imports. go list does
// not run at all in some modules that lack it, so then it is a package with this error.
func listWithRuntime(ctx context.Context, config Config, mode packages.LoadMode, patterns []string, overlay map[string][]byte) ([]*packages.Package, error) {
	found, err := list(ctx, config, mode, append(slices.Clone(patterns), runtimePath), overlay)
	if err == nil {
		return found, nil
	}
	found, errWithout := list(ctx, config, mode, patterns, overlay)
	if errWithout != nil {
		return nil, err
	}
	cause, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "list packages: "), "\npanic: ") // of the go command
	return append(found, &packages.Package{PkgPath: runtimePath, Errors: []packages.Error{{Msg: cause}}}), nil
}

// withoutGenerated replaces the generated files by empty ones. What they say was true for another
// state of the source: they may import what is gone, name a package that was renamed, or hold
// conflict markers.
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

// packageName returns the name of the package in dir, by the files that people wrote, or "gone" if
// there is none. Files that only some builds have, or none, may be of another package.
func packageName(dir string) (string, error) {
	paths, err := sourceFiles(dir)
	if err != nil {
		return "", fmt.Errorf("find the package's name: %w", err)
	}
	constrained := ""
	for _, path := range paths {
		if filepath.Base(path) == FileName || isTest(path) || isPassedOver(path) {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			continue // reported
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, content, parser.PackageClauseOnly)
		switch {
		case err != nil || file.Name.Name == "documentation":
		case condition(path, content, "") == "":
			return file.Name.Name, nil
		case constrained == "" || constrained == "main":
			constrained = file.Name.Name
		}
	}
	return cmp.Or(constrained, "gone"), nil
}

// oneLine makes one line of a message of go list, which may go on with what to run.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
