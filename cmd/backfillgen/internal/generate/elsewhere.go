package generate

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

// taken is a name that a file gives to something, so that the generated code, which is part of the
// same package, cannot declare it.
type taken struct {
	pos   token.Pos
	owner string // what has the name in the file; empty: a declaration
}

// takeNames notes the names that all files of a package claim: also those of tests and of other
// builds, for the generated file has to compile with them, and also those that imports give to one
// file, for Go lets no file and its package have one name.
func (p *pkg) takeNames(ctx context.Context, config Config) error {
	if p.taken = map[string][]taken{}; len(p.lines) == 0 {
		return nil
	}
	add := func(name string, t taken) { p.taken[name] = append(p.taken[name], t) }
	for name, d := range p.declared {
		add(name, taken{pos: d.pos})
	}
	others, tests, err := p.otherFiles()
	if err != nil {
		return err
	}
	for _, file := range others {
		declaredNames(file, add)
	}
	files := slices.Concat(p.files, others)
	if slices.ContainsFunc(tests, func(file *ast.File) bool { return dotImport(file, p.path()) != nil }) {
		for _, file := range tests { // whose names meet those that this package exports
			declaredNames(file, func(name string, t taken) {
				if ast.IsExported(name) && !strings.Contains(name, ".") {
					add(name, t)
				}
			})
			if dotImport(file, p.path()) != nil {
				files = append(files, file)
			}
		}
	}
	return p.takeImported(ctx, config, files, add)
}

// otherFiles parses the files of a package's folder that this build does not read: those of the
// package itself, and the tests that are a package of their own.
func (p *pkg) otherFiles() (own, external []*ast.File, err error) {
	paths, err := sourceFiles(p.dir())
	if err != nil {
		return nil, nil, err
	}
	for _, path := range paths {
		if isPassedOver(path) || slices.Contains(p.listed.GoFiles, path) {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil || generated(content) || condition(path, content, "") == neverBuilt {
			continue // the first is reported
		}
		file, _ := parser.ParseFile(p.fset, path, content, parser.SkipObjectResolution)
		switch {
		case file == nil:
		case file.Name.Name == p.name():
			own = append(own, file)
		case isTest(path) && file.Name.Name == p.name()+"_test":
			external = append(external, file)
		}
	}
	return own, external, nil
}

func declaredNames(file *ast.File, add func(name string, t taken)) {
	p := &pkg{declared: map[string]*declaration{}, aliases: map[string][]string{}}
	p.declare(file)
	for name, d := range p.declared {
		add(name, taken{pos: d.pos})
	}
}

// takeImported notes the names that imports give to files.
func (p *pkg) takeImported(ctx context.Context, config Config, files []*ast.File, add func(name string, t taken)) error {
	dots := map[string][]token.Pos{}
	for _, file := range files {
		for _, spec := range file.Imports {
			path := importPath(spec)
			switch {
			case spec.Name != nil && spec.Name.Name == ".":
				if path != p.path() {
					dots[path] = append(dots[path], spec.Pos())
				}
			case spec.Name != nil:
				add(spec.Name.Name, taken{spec.Pos(), "the import of " + path})
			case p.listed.Imports[path] != nil:
				add(p.listed.Imports[path].Name, taken{spec.Pos(), "the import of " + path})
			}
		}
	}
	imported, err := p.dotImported(ctx, config, dots)
	for path, other := range imported {
		for name := range other.declared {
			if ast.IsExported(name) && !strings.Contains(name, ".") {
				for _, pos := range dots[path] {
					add(name, taken{pos, "package " + path + ", which this file imports with a dot,"})
				}
			}
		}
	}
	return err
}

// dotImported reads packages, of which only some may be listed: what tests and other builds import
// is not.
func (p *pkg) dotImported(ctx context.Context, config Config, dots map[string][]token.Pos) (map[string]*pkg, error) {
	found := map[string]*pkg{}
	var unlisted []string
	for path := range dots {
		if imported := p.imported(path); imported != nil {
			found[path] = imported
		} else {
			unlisted = append(unlisted, path)
		}
	}
	if len(unlisted) == 0 {
		return found, nil
	}
	listed, err := list(ctx, config, packages.NeedName|packages.NeedFiles, unlisted, nil)
	for _, other := range listed {
		if len(other.GoFiles) > 0 {
			found[other.PkgPath], _ = p.read(other, 0) // as far as it can be read
		}
	}
	return found, err
}

func dotImport(file *ast.File, path string) *ast.ImportSpec {
	for _, spec := range file.Imports {
		if spec.Name != nil && spec.Name.Name == "." && importPath(spec) == path {
			return spec
		}
	}
	return nil
}

// declares reports whether any file of the package declares a name, in any build or test.
func (p *pkg) declares(name string) bool {
	return slices.ContainsFunc(p.taken[name], func(t taken) bool { return t.owner == "" })
}

// reportTaken reports that the generated code needs a name which is taken.
func (p *pkg) reportTaken(name, need, remedy string, problems *diag.List) {
	for _, t := range p.taken[name] {
		if t.owner == "" {
			problems.Errorf(p.position(t.pos), "%s: %s", need, remedy)
		} else {
			problems.Errorf(p.position(t.pos), "%s, and %s has this name too: import it under another name", need, t.owner)
		}
	}
}

// reportConditional reports what tasks consist of and only some builds have, or have in another
// form: what one build stores, the other could not read, and generated code that mentions it may
// compile in one of them only.
func (l *loader) reportConditional(problems *diag.List) {
	for _, p := range l.packages {
		if !own(p.listed.Module) {
			continue
		}
		conditions := map[*ast.File]string{}
		for _, line := range p.lines {
			conditions[p.fileOf(line.function.Pos())] = "" // reported with its directives
		}
		for _, d := range p.declared {
			if !d.needed {
				continue
			}
			cause, known := conditions[d.file]
			if !known {
				path := p.position(d.file.Package).Filename
				if content, err := os.ReadFile(path); err == nil {
					cause = condition(path, content, p.listed.Module.GoVersion)
				}
				conditions[d.file] = cause
			}
			if cause != "" {
				problems.Errorf(p.position(d.pos), "tasks need this, and its file is left out of some builds by %s: move it into a file without constraints", cause)
			}
		}
	}
}
