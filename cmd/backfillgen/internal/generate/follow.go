package generate

import "go/ast"

// typeName is a type as far as syntax tells it: pointers to a name of a package.
type typeName struct {
	pointers   int
	path, name string

	owner    *pkg         // nil: the package is not there, or nobody needs it
	declared *declaration // nil if owner is
}

// typeNamed follows a type to its name, through aliases and imports under any name. What is no name
// has none.
func (p *pkg) typeNamed(file *ast.File, expression ast.Expr) typeName {
	return p.followType(file, expression, map[*declaration]bool{})
}

func (p *pkg) followType(file *ast.File, expression ast.Expr, seen map[*declaration]bool) typeName {
	switch e := expression.(type) {
	case *ast.ParenExpr:
		return p.followType(file, e.X, seen)
	case *ast.StarExpr:
		n := p.followType(file, e.X, seen)
		n.pointers++
		return n
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok {
			if spec := p.importNamed(file, x.Name); spec != nil {
				return p.importedType(importPath(spec), e.Sel.Name, seen)
			}
		}
	case *ast.Ident:
		if p.declared[e.Name] != nil {
			return p.declaredType(e.Name, seen)
		}
		for _, spec := range file.Imports {
			if spec.Name == nil || spec.Name.Name != "." {
				continue
			}
			if owner := p.imported(importPath(spec)); owner != nil && owner.declared[e.Name] != nil {
				return owner.declaredType(e.Name, seen)
			}
		}
	}
	return typeName{}
}

func (p *pkg) importedType(path, name string, seen map[*declaration]bool) typeName {
	if path != pgxPath && path != sqlPath { // whose types need no second look
		if owner := p.imported(path); owner != nil && owner.declared[name] != nil {
			return owner.declaredType(name, seen)
		}
	}
	return typeName{path: path, name: name}
}

func (p *pkg) declaredType(name string, seen map[*declaration]bool) typeName {
	d := p.declared[name]
	if d.spec != nil && d.spec.Assign.IsValid() && !seen[d] {
		seen[d] = true
		if original := p.followType(d.file, d.spec.Type, seen); original.name != "" {
			return original
		}
	}
	return typeName{path: p.path(), name: name, owner: p, declared: d}
}

func (n typeName) is(path, name string) bool {
	return n.pointers == 0 && n.path == path && n.name == name
}
