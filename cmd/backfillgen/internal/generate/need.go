package generate

import (
	"go/ast"
	"go/token"
	"path"
	"strconv"
	"strings"
)

// declaration is a package-level declaration, or a method.
type declaration struct {
	file   *ast.File
	decl   ast.Decl       // the whole: a group of constants means something only together
	spec   *ast.TypeSpec  // if it is a type
	pos    token.Pos      // of the name
	body   *ast.BlockStmt // of a function that has a doc comment, and may be a task
	needed bool
	bare   bool // needed for its name and its methods only, as receivers are
}

// codecMethods are the methods that say how encoding/json and templates treat a type.
var codecMethods = map[string]bool{"MarshalJSON": true, "UnmarshalJSON": true, "MarshalText": true, "UnmarshalText": true, "String": true}

// declare notes what a file declares. The first declaration of a name counts.
func (p *pkg) declare(file *ast.File) {
	add := func(name *ast.Ident, d *declaration) {
		if p.declared[name.Name] == nil {
			d.file, d.pos = file, name.Pos()
			p.declared[name.Name] = d
		}
	}
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					add(spec.Name, &declaration{decl: decl, spec: spec})
					if original, ok := ast.Unparen(spec.Type).(*ast.Ident); ok && spec.Assign.IsValid() {
						p.aliases[original.Name] = append(p.aliases[original.Name], spec.Name.Name)
					}
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						add(name, &declaration{decl: decl})
					}
				}
			}
		case *ast.FuncDecl:
			d := &declaration{decl: decl}
			if decl.Doc != nil {
				d.body = decl.Body
			}
			decl.Body = nil
			if receiver := receiverName(decl); receiver != "" {
				d.file, d.pos = file, decl.Name.Pos()
				p.declared[receiver+"."+decl.Name.Name] = d
			} else {
				add(decl.Name, d)
			}
		}
	}
}

// need marks a declaration and all that it mentions, in other packages too, for the type checker.
func (p *pkg) need(name string) {
	d := p.declared[name]
	if d == nil || d.needed {
		return
	}
	d.needed = true
	if d.spec != nil {
		p.needMentioned(d.file, d.spec)
		for method := range codecMethods {
			p.need(name + "." + method)
			for _, alias := range p.aliases[name] {
				p.need(alias + "." + method)
			}
		}
		for _, alias := range p.aliases[name] { // which may have others, with more methods
			p.need(alias)
		}
		return
	}
	switch decl := d.decl.(type) {
	case *ast.GenDecl:
		for _, spec := range decl.Specs { // the constants of a group are checked together, so all that they mention is needed
			p.needMentioned(d.file, spec)
		}
	case *ast.FuncDecl:
		p.needMentioned(d.file, decl.Type)
		p.needBare(receiverName(decl))
	}
}

// needBare marks a type whose fields do not matter: those of a receiver are what its methods work
// with.
func (p *pkg) needBare(name string) {
	if d := p.declared[name]; d != nil && d.spec != nil {
		if _, ok := d.spec.Type.(*ast.StructType); ok {
			d.bare = true
			return
		}
	}
	p.need(name)
}

// needMentioned marks what a piece of syntax mentions.
func (p *pkg) needMentioned(file *ast.File, node ast.Node) {
	p.mentioned(file, node, (*pkg).need)
}

// mentioned visits the package-level names that a piece of syntax mentions, with the packages that
// they may be of.
func (p *pkg) mentioned(file *ast.File, node ast.Node, visit func(owner *pkg, name string)) {
	imported := func(spec *ast.ImportSpec, name string) {
		if owner := p.imported(importPath(spec)); owner != nil {
			visit(owner, name)
		}
	}
	ast.Inspect(node, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field: // its names mean nothing outside
			p.mentioned(file, n.Type, visit)
			return false
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok {
				if spec := p.importNamed(file, x.Name); spec != nil {
					imported(spec, n.Sel.Name)
					return false
				}
			}
		case *ast.Ident:
			if p.declared[n.Name] != nil {
				visit(p, n.Name)
				return false
			}
			for _, spec := range file.Imports {
				if spec.Name != nil && spec.Name.Name == "." {
					imported(spec, n.Name)
				}
			}
		}
		return true
	})
}

// importNamed returns the import that a name stands for in a file.
func (p *pkg) importNamed(file *ast.File, name string) *ast.ImportSpec {
	for _, spec := range file.Imports {
		local := ""
		if spec.Name != nil {
			local = spec.Name.Name
		} else if listed := p.listed.Imports[importPath(spec)]; listed != nil && listed.Name != "" {
			local = listed.Name
		} else {
			local = likelyName(importPath(spec))
		}
		if local == name {
			return spec
		}
	}
	return nil
}

// likelyName is the name that the package of an import path most likely has, if it is not there to
// tell.
func likelyName(importPath string) string {
	dir, base := path.Split(importPath)
	if number, ok := strings.CutPrefix(base, "v"); ok && dir != "" && strings.Trim(number, "0123456789") == "" {
		return path.Base(dir)
	}
	return base
}

// fileOf returns the file of p in which pos is, or nil.
func (p *pkg) fileOf(pos token.Pos) *ast.File {
	for _, file := range p.files {
		if file.FileStart <= pos && pos <= file.FileEnd {
			return file
		}
	}
	return nil
}

// fieldType returns the type of a field as it is written, and the package in which it is.
func (l *loader) fieldType(pos token.Pos) (owner *pkg, expression ast.Expr) {
	for _, p := range l.packages {
		if file := p.fileOf(pos); file != nil {
			owner = p
			ast.Inspect(file, func(n ast.Node) bool {
				if field, ok := n.(*ast.Field); ok && field.Pos() <= pos && pos < field.End() {
					expression = field.Type
				}
				return true
			})
		}
	}
	return owner, expression
}

func importPath(spec *ast.ImportSpec) string {
	text, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		return ""
	}
	return text
}

// neededFiles are the files of a package without what is not needed.
func (p *pkg) neededFiles() []*ast.File {
	var files []*ast.File
	for _, file := range p.files {
		lean := *file
		lean.Decls, lean.Imports = nil, nil
		used := map[*ast.ImportSpec]bool{}
		for _, decl := range p.neededDecls(file) {
			lean.Decls = append(lean.Decls, decl)
			p.markImports(file, decl, used)
		}
		var imports []ast.Spec
		for _, spec := range file.Imports {
			if used[spec] || spec.Name != nil && spec.Name.Name == "." {
				imports = append(imports, spec)
				lean.Imports = append(lean.Imports, spec)
			}
		}
		if len(imports) > 0 {
			lean.Decls = append([]ast.Decl{&ast.GenDecl{Tok: token.IMPORT, TokPos: imports[0].Pos(), Specs: imports}}, lean.Decls...)
		}
		files = append(files, &lean)
	}
	return files
}

// neededDecls are the declarations of a file that are marked, in the order of the file.
func (p *pkg) neededDecls(file *ast.File) []ast.Decl {
	needed := map[ast.Node]ast.Spec{} // by what becomes of it
	for _, d := range p.declared {
		switch {
		case d.file != file || !d.needed && !d.bare:
		case d.spec == nil:
			needed[d.decl] = nil
		case d.needed:
			needed[d.spec] = d.spec
		default:
			bare := *d.spec
			bare.Type = &ast.StructType{Struct: d.spec.Type.Pos(), Fields: &ast.FieldList{}}
			needed[d.spec] = &bare
		}
	}
	var decls []ast.Decl
	for _, decl := range file.Decls {
		if _, ok := needed[decl]; ok {
			decls = append(decls, decl)
			continue
		}
		if group, ok := decl.(*ast.GenDecl); ok {
			lean := *group
			lean.Specs = nil
			for _, spec := range group.Specs {
				if becomes := needed[spec]; becomes != nil {
					lean.Specs = append(lean.Specs, becomes)
				}
			}
			if len(lean.Specs) > 0 {
				decls = append(decls, &lean)
			}
		}
	}
	return decls
}

// markImports notes the imports that a declaration uses.
func (p *pkg) markImports(file *ast.File, decl ast.Decl, used map[*ast.ImportSpec]bool) {
	ast.Inspect(decl, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := selector.X.(*ast.Ident); ok {
				if spec := p.importNamed(file, x.Name); spec != nil {
					used[spec] = true
				}
			}
		}
		return true
	})
}
