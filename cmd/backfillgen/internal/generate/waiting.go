package generate

import (
	"go/ast"
	"go/token"
	"go/types"
	"slices"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

const httpPath = "net/http"

// The calls of net/http, of its functions and of a Client's methods, that wait for a server.
var (
	httpFunctions = []string{"Get", "Head", "Post", "PostForm"}
	httpMethods   = append([]string{"Do"}, httpFunctions...)
)

// reportWaiting warns of the first call by which a transactional task waits for another server
// while its transaction is open. It looks at the function's own body, without goroutines, and knows
// package net/http and a Client that the function, its receiver's type or the package declares. So
// it misses calls, but what it finds is one.
func (p *pkg) reportWaiting(t *task, problems *diag.List) {
	d := p.declared[declaredName(t.decl)]
	if t.line.transaction == "" || d == nil || d.decl != t.decl || d.body == nil {
		return
	}
	b := p.body(t, d)
	var found *ast.CallExpr
	ast.Inspect(d.body, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && found == nil && b.waits(call) {
			found = call
		}
		_, concurrent := n.(*ast.GoStmt)
		return found == nil && !concurrent
	})
	if found == nil {
		return
	}
	problems.Add(diag.Diagnostic{
		Warning: true, Pos: p.position(found.Pos()),
		Message: "task " + t.describe() + ": " + types.ExprString(found.Fun) + " waits for another server, and meanwhile the transaction holds its locks and a connection",
		Hint:    "make the call in a plain task, and let that enqueue this one with the result",
	})
}

// body is that of a function, with what its names stand for.
type body struct {
	*pkg
	file     *ast.File
	receiver *ast.Field // nil: the function has none
	// locals are the names that the function declares, and whether each is a Client wherever it is
	// declared. They are nil for what stands outside of it.
	locals map[string]bool
}

func (p *pkg) body(t *task, d *declaration) *body {
	b := &body{pkg: p, file: d.file, locals: map[string]bool{}}
	declare := func(name ast.Expr, client bool) {
		if name, ok := name.(*ast.Ident); ok {
			known, again := b.locals[name.Name]
			b.locals[name.Name] = client && (known || !again)
		}
	}
	fields := func(list *ast.FieldList) {
		if list == nil {
			return
		}
		for _, field := range list.List {
			for _, name := range field.Names {
				declare(name, b.isClientType(b.file, field.Type))
			}
		}
	}
	ast.Inspect(&ast.FuncLit{Type: t.line.written, Body: d.body}, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncType:
			fields(n.Params)
			fields(n.Results)
		case *ast.AssignStmt:
			for i, name := range n.Lhs {
				if n.Tok == token.DEFINE {
					declare(name, len(n.Lhs) == len(n.Rhs) && b.isClient(n.Rhs[i]))
				}
			}
		case *ast.RangeStmt:
			if n.Tok == token.DEFINE {
				declare(n.Key, false)
				declare(n.Value, false)
			}
		case *ast.ValueSpec:
			for i := range n.Names {
				declare(n.Names[i], b.declaresClient(b.file, n, i))
			}
		}
		return true
	})
	if t.decl.Recv != nil && len(t.decl.Recv.List[0].Names) == 1 {
		b.receiver = t.decl.Recv.List[0]
	}
	return b
}

// waits reports whether a call is one of net/http for whose answer it waits.
func (b *body) waits(call *ast.CallExpr) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	if b.isHTTP(selector.X) {
		return slices.Contains(httpFunctions, selector.Sel.Name)
	}
	return slices.Contains(httpMethods, selector.Sel.Name) && b.isClient(selector.X)
}

// isHTTP reports whether an expression is the name of package net/http.
func (b *body) isHTTP(expression ast.Expr) bool {
	name, ok := expression.(*ast.Ident)
	if !ok {
		return false
	}
	_, local := b.locals[name.Name]
	spec := b.importNamed(b.file, name.Name)
	return !local && !b.isReceiver(name) && spec != nil && importPath(spec) == httpPath
}

// isClient reports whether an expression is an http.Client, or a pointer to one.
func (b *body) isClient(expression ast.Expr) bool {
	switch e := expression.(type) {
	case *ast.ParenExpr:
		return b.isClient(e.X)
	case *ast.UnaryExpr:
		return e.Op == token.AND && b.isClient(e.X)
	case *ast.CompositeLit:
		return e.Type != nil && b.isClientType(b.file, e.Type)
	case *ast.Ident:
		client, local := b.locals[e.Name]
		return client || !local && b.locals != nil && b.isClientVariable(e.Name)
	case *ast.SelectorExpr:
		if b.isHTTP(e.X) {
			return e.Sel.Name == "DefaultClient"
		}
		return b.isClientField(e)
	}
	return false
}

func (p *pkg) isClientType(file *ast.File, expression ast.Expr) bool {
	n := p.typeNamed(file, expression)
	return n.pointers <= 1 && n.path == httpPath && n.name == "Client"
}

// declaresClient reports whether the i-th name of a var is a Client.
func (b *body) declaresClient(file *ast.File, spec *ast.ValueSpec, i int) bool {
	if spec.Type != nil {
		return b.isClientType(file, spec.Type)
	}
	return len(spec.Names) == len(spec.Values) && b.isClient(spec.Values[i])
}

// isClientVariable reports whether a name is a variable of the package that is a Client.
func (b *body) isClientVariable(name string) bool {
	d := b.declared[name]
	if d == nil {
		return false
	}
	group, ok := d.decl.(*ast.GenDecl)
	if !ok || group.Tok != token.VAR {
		return false
	}
	there := &body{pkg: b.pkg, file: d.file} // where the locals of this function mean nothing
	for _, spec := range group.Specs {
		if spec, ok := spec.(*ast.ValueSpec); ok {
			for i := range spec.Names {
				if spec.Names[i].Name == name {
					return there.declaresClient(d.file, spec, i)
				}
			}
		}
	}
	return false
}

// isClientField reports whether a selector is a field of the receiver that is a Client.
func (b *body) isClientField(selector *ast.SelectorExpr) bool {
	if x, ok := selector.X.(*ast.Ident); !ok || !b.isReceiver(x) {
		return false
	}
	n := b.typeNamed(b.file, b.receiver.Type)
	if n.declared == nil || n.declared.spec == nil {
		return false
	}
	structure, ok := n.declared.spec.Type.(*ast.StructType)
	return ok && slices.ContainsFunc(structure.Fields.List, func(field *ast.Field) bool {
		named := slices.ContainsFunc(field.Names, func(name *ast.Ident) bool { return name.Name == selector.Sel.Name })
		return (named || field.Names == nil && selector.Sel.Name == "Client") && n.owner.isClientType(n.declared.file, field.Type)
	})
}

// isReceiver reports whether a name is the function's receiver, and never anything else in it.
func (b *body) isReceiver(name *ast.Ident) bool {
	_, hidden := b.locals[name.Name]
	return b.receiver != nil && !hidden && name.Name == b.receiver.Names[0].Name
}
