package generate

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"go/types"
	"path/filepath"
	"strings"

	"golang.org/x/tools/go/packages"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

// pkg is a package with directives, or one that its tasks need.
type pkg struct {
	*loader
	listed *packages.Package
	files  []*ast.File
	// declared are the package-level declarations by name, methods by Type.Method.
	declared  map[string]*declaration
	aliases   map[string][]string // names of aliases by what they stand for
	taken     map[string][]taken  // names that the generated file cannot declare, after takeNames
	lines     []taskLine
	scheduled map[string]bool // identifiers of cron lines
	types     *types.Package  // after check
	checking  bool
	broken    bool // a file cannot be parsed as a whole

	options packageOptions
}

// loader reads packages as far as tasks need them: the types of their args and what these consist
// of. The rest of the source is not looked at, neither function bodies, where most calls of what is
// not generated yet stand, nor the types of other fields and variables, which may be a large part
// of the standard library.
type loader struct {
	fset       *token.FileSet
	packages   map[*packages.Package]*pkg
	typeErrors []types.Error

	listedByPath map[string]*packages.Package
	cyclic       bool // go list has found packages that import each other
}

// load reads the packages in these folders.
func load(ctx context.Context, config Config, dirs []string, problems *diag.List) ([]*pkg, error) {
	if len(dirs) == 0 {
		return nil, nil
	}
	overlay, err := withoutGenerated(dirs)
	if err != nil {
		return nil, err
	}
	const mode = packages.NeedName | packages.NeedFiles | packages.NeedModule | packages.NeedImports | packages.NeedDeps
	roots, err := listWithRuntime(ctx, config, mode, dirs, overlay)
	if err != nil {
		return nil, err
	}
	l := &loader{fset: token.NewFileSet(), packages: map[*packages.Package]*pkg{}, listedByPath: map[string]*packages.Package{}}
	l.noteImports(roots)
	var found []*pkg
	for _, root := range roots {
		if root.PkgPath == runtimePath {
			reportIncomplete(root, problems)
			continue
		}
		p, err := l.read(root, parser.ParseComments)
		if p.broken = err != nil; p.broken && !p.reportSyntax(err, problems) {
			return nil, err
		}
		for _, problem := range root.Errors {
			if strings.HasPrefix(problem.Msg, "found packages ") {
				problems.Add(diag.Diagnostic{Message: config.shorten(problem.Msg)})
			}
		}
		found = append(found, p)
	}
	return found, nil
}

const (
	tidyHint   = "run go mod tidy, which finds what the generated code imports"
	vendorHint = "run: go mod tidy && go mod vendor; in a workspace, go work vendor"
)

// reportIncomplete warns of what go.mod or the vendor folder lacks for the package that generated
// code imports. It is no error: before the first run nothing imports that package, so that go mod
// tidy, the remedy, would not add it.
func reportIncomplete(runtime *packages.Package, problems *diag.List) {
	cause, vendored := "", false
	packages.Visit([]*packages.Package{runtime}, nil, func(p *packages.Package) {
		if p != runtime && len(p.Errors) > 0 && cause == "" { // if it is missing itself, that is known
			cause = oneLine(p.Errors[0].Msg)
			vendored = strings.Contains(cause, "-mod=vendor")
		}
	})
	if cause == "" {
		return
	}
	hint := tidyHint
	if vendored {
		hint = vendorHint
	}
	problems.Add(diag.Diagnostic{Warning: true, Message: "generated code does not build yet: " + cause, Hint: hint})
}

// read parses the files of a package, once, and notes what they declare. Files that cannot be read
// whole are read as far as possible.
func (l *loader) read(listed *packages.Package, mode parser.Mode) (*pkg, error) {
	if p := l.packages[listed]; p != nil {
		return p, nil
	}
	p := &pkg{loader: l, listed: listed, declared: map[string]*declaration{}, aliases: map[string][]string{}, scheduled: map[string]bool{}}
	l.packages[listed] = p
	var problems []error
	for _, path := range listed.GoFiles {
		if filepath.Base(path) == FileName && isGenerated(path) {
			continue
		}
		file, err := parser.ParseFile(l.fset, path, nil, mode|parser.SkipObjectResolution)
		if err != nil {
			problems = append(problems, err)
		}
		if file != nil {
			p.files = append(p.files, file)
			p.declare(file)
		}
	}
	return p, errors.Join(problems...)
}

// reportSyntax reports files that cannot be parsed: they may hold tasks.
func (p *pkg) reportSyntax(err error, problems *diag.List) bool {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return false
	}
	for _, err := range joined.Unwrap() {
		var list scanner.ErrorList
		if !errors.As(err, &list) {
			return false
		}
		for _, problem := range list {
			problems.Errorf(problem.Pos, "%s", problem.Msg)
		}
	}
	return true
}

func (p *pkg) dir() string  { return p.listed.Dir }
func (p *pkg) name() string { return p.listed.Name }
func (p *pkg) path() string { return p.listed.PkgPath }

// position is where pos stands, without regard to //line comments.
func (l *loader) position(pos token.Pos) token.Position { return l.fset.PositionFor(pos, false) }

// inModule reports whether the user can change a package.
func (l *loader) inModule(t *types.Package) bool {
	for listed, p := range l.packages {
		if p.types == t {
			return own(listed.Module)
		}
	}
	return false
}

// own reports whether a module is the user's: the main one, or one that go.mod replaces by a
// folder.
func own(module *packages.Module) bool {
	return module != nil && (module.Main || module.Replace != nil && module.Replace.Version == "")
}

// check type-checks what [pkg.need] has marked, in p and the packages that it needs. What the type
// checker complains of matters only where a task is concerned, so it is kept until somebody asks.
func (p *pkg) check() *types.Package {
	if p.types != nil {
		return p.types
	}
	p.checking = true
	config := types.Config{
		Importer:         importer{p},
		IgnoreFuncBodies: true,
		FakeImportC:      true,
		Error: func(err error) {
			if problem, ok := errors.AsType[types.Error](err); ok {
				p.typeErrors = append(p.typeErrors, problem)
			}
		},
	}
	p.types, _ = config.Check(p.path(), p.fset, p.neededFiles(), nil) // the error is the first of those above
	return p.types
}

// importer finds the packages that one package imports.
type importer struct{ *pkg }

func (i importer) Import(path string) (*types.Package, error) {
	if path == "unsafe" {
		return types.Unsafe, nil
	}
	imported := i.imported(path)
	switch {
	case imported == nil:
		return nil, errors.New(i.importProblem(path))
	case imported.checking && imported.types == nil:
		return nil, errors.New("import cycle")
	}
	return imported.check(), nil
}

// imported returns the package that p imports by this path, or nil if it cannot be found.
func (p *pkg) imported(path string) *pkg {
	listed := p.listed.Imports[path]
	if listed == nil || len(listed.GoFiles) == 0 {
		return nil
	}
	imported, _ := p.read(listed, 0) // what cannot be parsed is missing in the types, and reported there
	return imported
}

// importProblem says why p cannot import a package.
func (p *pkg) importProblem(path string) string {
	if path == "C" {
		return "args cannot have types of C: use one of Go"
	}
	if listed := p.listed.Imports[path]; listed != nil && len(listed.Errors) > 0 {
		return oneLine(listed.Errors[0].Msg)
	}
	if p.cyclic && p.listedByPath[path] != nil {
		return "import cycle not allowed" // which go list leaves out
	}
	return "package " + path + " cannot be found"
}
