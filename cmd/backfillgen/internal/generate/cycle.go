package generate

import (
	"go/ast"
	"maps"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

// noteImports notes all packages that were listed, and whether go list says that some import each
// other.
func (l *loader) noteImports(roots []*packages.Package) {
	packages.Visit(roots, nil, func(p *packages.Package) {
		l.listedByPath[p.PkgPath] = p
		l.cyclic = l.cyclic || slices.ContainsFunc(p.Errors, func(problem packages.Error) bool {
			return strings.Contains(problem.Msg, "import cycle")
		})
	})
}

// checkCycles reports packages that import the tasks' package and that it imports, too, in the
// user's files or in the generated one. Nobody can compile such a package.
func (p *pkg) checkCycles(problems *diag.List) {
	if len(p.lines) == 0 {
		return
	}
	if path := p.importPathTo(runtimePath, map[string]bool{}); path != nil {
		problems.Add(diag.Diagnostic{
			Pos: p.position(p.lines[0].function.Name.Pos()), Message: p.cycleMessage(path),
			Hint: "generated code imports " + runtimePath + ": move the tasks into a package that it does not need",
		})
	}
	if !p.cyclic {
		return
	}
	for _, file := range p.files {
		for _, spec := range file.Imports {
			path := p.importPathTo(importPath(spec), map[string]bool{})
			if path == nil {
				continue
			}
			d := diag.Diagnostic{Pos: p.position(spec.Pos()), Message: p.cycleMessage(path), Hint: "move what the two share into a package that imports neither"}
			if args := p.argsImported(spec); args != nil {
				d.Pos = p.position(args.Pos())
				d.Hint = "move " + args.Sel.Name + " into a package that imports neither"
			}
			problems.Add(d)
		}
	}
}

// argsImported returns the first mention, in the parameters of a task, of the package that an
// import stands for.
func (p *pkg) argsImported(spec *ast.ImportSpec) (found *ast.SelectorExpr) {
	for _, line := range p.lines {
		file := p.fileOf(line.function.Pos())
		ast.Inspect(line.function.Type.Params, func(n ast.Node) bool {
			if selector, ok := n.(*ast.SelectorExpr); ok && found == nil {
				if x, ok := selector.X.(*ast.Ident); ok && p.importNamed(file, x.Name) == spec {
					found = selector
				}
			}
			return true
		})
	}
	return found
}

// cycleMessage names the packages of a cycle, in Go's words.
func (p *pkg) cycleMessage(path []string) string {
	return "import cycle not allowed: " + p.path() + " imports " + strings.Join(path, " imports ")
}

// importPathTo returns through which packages one imports p, with both ends; nil if it does not.
func (p *pkg) importPathTo(from string, seen map[string]bool) []string {
	if from == p.path() {
		return []string{from}
	}
	if seen[from] {
		return nil
	}
	seen[from] = true
	for _, imported := range p.importsOf(from) {
		if rest := p.importPathTo(imported, seen); rest != nil {
			return append([]string{from}, rest...)
		}
	}
	return nil
}

// importsOf returns what a package imports. Where there are cycles, go list leaves imports out, so
// those of the user's packages are read from their files.
func (l *loader) importsOf(path string) []string {
	listed := l.listedByPath[path]
	if listed == nil {
		return nil
	}
	paths := slices.Collect(maps.Keys(listed.Imports))
	if l.cyclic && listed.Module != nil && listed.Module.Main {
		read, _ := l.read(listed, 0) // as far as it can be read
		for _, file := range read.files {
			for _, spec := range file.Imports {
				paths = append(paths, importPath(spec))
			}
		}
	}
	slices.Sort(paths)
	return paths
}
