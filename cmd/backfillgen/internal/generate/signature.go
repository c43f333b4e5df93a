package generate

import (
	"go/ast"
	"go/types"
	"strings"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

// wantShape lists the shapes of tasks.
const wantShape = "func(context.Context, T) error, func(context.Context, pgx.Tx, T) error or func(context.Context, *sql.Tx, T) error, each with T or without, and with (R, error) instead of error if it returns a result"

// readSignature checks that the function has the shape of a task, and finds its args and its
// receiver.
func (p *pkg) readSignature(t *task, problems *diag.List) bool {
	before := problems.Errors()
	object := p.function(t)
	switch {
	case t.decl.Type.TypeParams != nil:
		problems.Errorf(t.pos, "task %s: a task cannot have type parameters: write a function for each type", t.decl.Name.Name)
		return false
	case t.decl.Recv == nil && (t.decl.Name.Name == "init" || t.decl.Name.Name == "main" && p.name() == "main"):
		problems.Errorf(t.pos, "task %s: Go calls %s itself, without arguments: write another function for the task", t.decl.Name.Name, t.decl.Name.Name)
		return false
	case p.reportReceiver(t, problems) || t.decl.Name.Name == "_":
		return false
	case object == nil:
		problems.Errorf(t.pos, "task %s: the compiler does not see this function: is it declared twice?", t.decl.Name.Name)
		return false
	}
	signature := object.Signature()
	if t.decl.Recv != nil {
		p.readReceiver(t, signature, problems)
	}
	p.readResults(t, signature, problems)
	p.readParameters(t, signature, problems)
	return problems.Errors() == before && !t.args.endless
}

// reportReceiver reports what the type checker said about the function's receiver and name.
func (p *pkg) reportReceiver(t *task, problems *diag.List) bool {
	for _, problem := range p.typeErrors {
		if t.decl.Pos() <= problem.Pos && problem.Pos < t.decl.Type.Params.Pos() {
			problems.Errorf(p.position(problem.Pos), "task %s: %s", t.decl.Name.Name, problem.Msg)
			return true
		}
	}
	return false
}

// function finds what the type checker made of the task's function. It is nil if the name stands
// for something else.
func (p *pkg) function(t *task) *types.Func {
	if t.decl.Recv == nil {
		function, _ := p.types.Scope().Lookup(t.decl.Name.Name).(*types.Func)
		if function == nil || function.Pos() != t.decl.Name.Pos() {
			return nil
		}
		return function
	}
	typeName, _ := p.types.Scope().Lookup(receiverName(t.decl)).(*types.TypeName)
	if typeName == nil {
		return nil
	}
	named, _ := types.Unalias(typeName.Type()).(*types.Named)
	if named == nil {
		return nil
	}
	for method := range named.Methods() {
		if method.Pos() == t.decl.Name.Pos() {
			return method
		}
	}
	return nil
}

// receiverName is T in methods of T, *T, T[P] and *T[P]; else it is empty.
func receiverName(decl *ast.FuncDecl) string {
	if decl.Recv == nil || len(decl.Recv.List) == 0 {
		return ""
	}
	for expression := decl.Recv.List[0].Type; ; {
		switch e := expression.(type) {
		case *ast.Ident:
			return e.Name
		case *ast.StarExpr:
			expression = e.X
		case *ast.ParenExpr:
			expression = e.X
		case *ast.IndexExpr:
			expression = e.X
		case *ast.IndexListExpr:
			expression = e.X
		default:
			return ""
		}
	}
}

func (p *pkg) readReceiver(t *task, signature *types.Signature, problems *diag.List) {
	receiver := types.Unalias(signature.Recv().Type())
	if pointer, ok := receiver.(*types.Pointer); ok {
		t.pointer = true
		receiver = types.Unalias(pointer.Elem())
	}
	named, ok := receiver.(*types.Named)
	if !ok {
		return // the type checker has complained, and will to the user
	}
	t.receiver = named
	pos := p.position(t.decl.Recv.List[0].Type.Pos())
	name := named.Obj().Name()
	if named.TypeParams().Len() > 0 {
		problems.Errorf(pos, "task %s: its receiver %s cannot have type parameters", t.decl.Name.Name, name)
	}
}

func (p *pkg) readResults(t *task, signature *types.Signature, problems *diag.List) {
	results := signature.Results()
	isError := func(i int) bool { return types.Identical(results.At(i).Type(), types.Universe.Lookup("error").Type()) }
	switch {
	case results.Len() == 1 && isError(0):
	case results.Len() == 2 && isError(1):
		p.readResult(t, resultTypes(t.decl.Type)[0], results.At(0).Type(), problems)
	default:
		p.shapeProblem(t, problems)
	}
}

func (p *pkg) readParameters(t *task, signature *types.Signature, problems *diag.List) {
	parameters := signature.Params()
	count := parameters.Len()
	switch {
	case p.reportTransaction(t, problems):
		return
	case count == 0 || count > 2 || signature.Variadic():
		p.shapeProblem(t, problems)
		return
	case types.TypeString(types.Unalias(parameters.At(0).Type()), nil) != "context.Context":
		if invalid(parameters.At(0).Type()) {
			p.reportInvalid("", t.decl.Type.Params.List[0].Type, problems)
		} else {
			p.shapeProblem(t, problems)
		}
		return
	}
	if count == 2 {
		p.readArgs(t, parameterTypes(t.decl.Type)[1], parameters.At(1).Type(), problems)
	}
}

// readArgs checks that the parameter is an exported named struct, or a slice of one, which
// encoding/json can store.
func (p *pkg) readArgs(t *task, expression ast.Expr, typ types.Type, problems *diag.List) {
	pos := p.position(expression.Pos())
	fail := func(format string, args ...any) {
		problems.Errorf(pos, "task "+t.describe()+": "+format, args...)
	}
	element := typ
	if slice, ok := types.Unalias(typ).(*types.Slice); ok {
		t.args.batch, element = true, slice.Elem()
	}
	if invalid(element) {
		p.reportInvalid("", expression, problems)
		return
	}
	have := types.ExprString(expression)
	if alias, ok := element.(*types.Alias); ok && types.TypeString(alias, nil) == runtimePath+".NoArgs" {
		fail("leave %s out: a task without args is %s", have, t.line.shape(""))
		return
	}
	switch named := types.Unalias(element).(type) {
	case *types.Pointer:
		value := types.TypeString(named.Elem(), p.qualifier)
		if t.args.batch {
			value = "[]" + value
		}
		fail("args are values: take %s instead of %s", value, have)
		return
	case *types.Struct:
		fail("give this struct a name, so that those who enqueue can name it: type %sArgs struct", t.goName)
		return
	case *types.Named:
		if _, ok := named.Underlying().(*types.Struct); !ok {
			hint := "wrap it in a struct"
			if _, ok := named.Underlying().(*types.Slice); ok {
				hint = "for a batch of many elements, take a slice of a struct"
			}
			fail("args are an exported struct or a slice of one, so that they can grow; %s is neither: %s", have, hint)
			return
		}
		if named.TypeArgs().Len() > 0 {
			fail("args cannot have type parameters: declare a type without them")
			return
		}
	default:
		fail("args are an exported struct or a slice of one, so that they can grow; %s is neither: wrap it in a struct", have)
		return
	}
	object := element.(interface{ Obj() *types.TypeName }).Obj()
	if alias, ok := element.(*types.Alias); ok && alias.TypeArgs().Len() > 0 {
		object = types.Unalias(alias).(*types.Named).Obj() // which is shorter
	}
	switch {
	case !object.Exported():
		fail("its args type %s is not exported, so nobody else could enqueue it: export it", object.Name())
	case object.Parent() != object.Pkg().Scope():
		fail("its args type %s is declared inside a function: declare it at the package's level", object.Name())
	default:
		t.args.object = object
		p.checkPayload(t, "args", pos, element, problems)
	}
}

// readResult checks that the result is an exported named struct, or a pointer to one, which
// encoding/json can store.
func (p *pkg) readResult(t *task, expression ast.Expr, typ types.Type, problems *diag.List) {
	pos := p.position(expression.Pos())
	fail := func(format string, args ...any) {
		problems.Errorf(pos, "task "+t.describe()+": "+format, args...)
	}
	element := typ
	if pointer, ok := types.Unalias(typ).(*types.Pointer); ok {
		t.result.pointer, element = true, pointer.Elem()
	}
	if invalid(element) {
		p.reportInvalid("", expression, problems)
		return
	}
	have := types.ExprString(expression)
	named, ok := types.Unalias(element).(*types.Named)
	if !ok || !isStruct(named) {
		fail("its result is an exported struct or a pointer to one, so that it can grow; %s is neither: wrap it in a struct", have)
		return
	}
	object := element.(interface{ Obj() *types.TypeName }).Obj()
	switch {
	case named.TypeArgs().Len() > 0:
		fail("its result cannot have type parameters: declare a type without them")
	case !object.Exported():
		fail("its result type %s is not exported, so nobody else could await it: export it", object.Name())
	case object.Parent() != object.Pkg().Scope():
		fail("its result type %s is declared inside a function: declare it at the package's level", object.Name())
	default:
		t.result.object = object
		p.checkPayload(t, "result", pos, element, problems)
	}
}

func isStruct(named *types.Named) bool {
	_, ok := named.Underlying().(*types.Struct)
	return ok
}

// resultTypes are the types of a function's results, one for each.
func resultTypes(signature *ast.FuncType) (list []ast.Expr) {
	for _, field := range signature.Results.List {
		for range max(1, len(field.Names)) {
			list = append(list, field.Type)
		}
	}
	return list
}

// checkResult checks what only tasks that return a result need.
func (t *task) checkResult(problems *diag.List) {
	if t.result.object == nil {
		return
	}
	if t.args.batch {
		problems.Errorf(t.pos, "task %s: a batch task cannot return a result, which would be of the elements of its last attempt alone: return an error only", t.describe())
	}
	if _, kept := t.line.Option("history"); !kept && !t.line.Incomplete {
		problems.Errorf(t.line.Pos, "task %s: what it returns is kept with its history: add history= with how long, an hour to 400 days", t.describe())
	}
}

// shapeProblem says which shapes a task may have.
func (p *pkg) shapeProblem(t *task, problems *diag.List) {
	problems.Errorf(t.pos, "task %s: want %s; have %s", t.describe(), wantShape, types.ExprString(t.line.written))
}

// reportInvalid reports a type that could not be found out, with what the type checker said about
// it.
func (p *pkg) reportInvalid(what string, expression ast.Expr, problems *diag.List) {
	for _, problem := range p.typeErrors {
		if expression.Pos() <= problem.Pos && problem.Pos < expression.End() {
			problems.Add(diag.Diagnostic{Pos: p.position(problem.Pos), Message: what + problem.Msg, Hint: p.importHint(expression)})
			return
		}
	}
	if problem, ok := p.cause(expression, map[*declaration]bool{}); ok {
		problems.Add(diag.Diagnostic{Pos: p.position(problem.Pos), Message: what + problem.Msg})
		return
	}
	problems.Add(diag.Diagnostic{
		Pos: p.position(expression.Pos()), Message: what + "cannot find out what type " + types.ExprString(expression) + " is", Hint: p.importHint(expression),
	})
}

// cause finds what the type checker said about a type that an expression mentions, or about what
// that type consists of.
func (p *pkg) cause(node ast.Node, seen map[*declaration]bool) (cause types.Error, found bool) {
	p.mentioned(p.fileOf(node.Pos()), node, func(owner *pkg, name string) {
		d := owner.declared[name]
		if found || d == nil || d.spec == nil || seen[d] {
			return
		}
		seen[d] = true
		for i, problem := range owner.typeErrors {
			if d.spec.Pos() <= problem.Pos && problem.Pos < d.spec.End() {
				cause, found = withDetails(owner.typeErrors[i:]), true
				return
			}
		}
		cause, found = owner.cause(d.spec.Type, seen)
	})
	return cause, found
}

// withDetails is the first of some errors with those that only continue it, which the type checker
// indents.
func withDetails(problems []types.Error) types.Error {
	first := problems[0]
	separator := ": "
	for _, problem := range problems[1:] {
		detail, ok := strings.CutPrefix(problem.Msg, "\t")
		if !ok {
			break
		}
		first.Msg += separator + detail
		separator = ", "
	}
	return first
}

// invalid reports whether a type, or what it points to or consists of, is unknown.
func invalid(typ types.Type) bool {
	switch t := types.Unalias(typ).(type) {
	case *types.Basic:
		return t.Kind() == types.Invalid
	case *types.Pointer:
		return invalid(t.Elem())
	case *types.Slice:
		return invalid(t.Elem())
	case *types.Array:
		return invalid(t.Elem())
	case *types.Map:
		return invalid(t.Key()) || invalid(t.Elem())
	case *types.Named:
		basic, ok := t.Underlying().(*types.Basic)
		return ok && basic.Kind() == types.Invalid
	}
	return false
}

// importHint says which import of those that an expression mentions is missing.
func (p *pkg) importHint(expression ast.Expr) (hint string) {
	file := p.fileOf(expression.Pos())
	ast.Inspect(expression, func(n ast.Node) bool {
		if name, ok := n.(*ast.Ident); ok {
			if spec := p.importNamed(file, name.Name); spec != nil && p.imported(importPath(spec)) == nil {
				hint = p.importProblem(importPath(spec))
			}
		}
		return true
	})
	return hint
}
