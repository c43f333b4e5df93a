package generate

import (
	"cmp"
	"go/types"
	"slices"
	"strings"

	"github.com/dave/jennifer/jen"
)

// receiver is a field of Handlers.
type receiver struct {
	named   *types.Named
	pointer bool // a task method has a pointer receiver
}

func (r receiver) name() string { return r.named.Obj().Name() }

// receivers are the types that have task methods, in the order of their names.
func receivers(tasks []*task) []receiver {
	var found []receiver
	for _, t := range tasks {
		if t.receiver == nil {
			continue
		}
		i := slices.IndexFunc(found, func(r receiver) bool { return r.named == t.receiver })
		if i < 0 {
			i = len(found)
			found = append(found, receiver{named: t.receiver})
		}
		found[i].pointer = found[i].pointer || t.pointer
	}
	slices.SortFunc(found, func(a, b receiver) int { return cmp.Compare(a.name(), b.name()) })
	return found
}

// nilable reports whether the field can be nil, and thus be missing.
func (r receiver) nilable() bool {
	if r.pointer {
		return true
	}
	switch r.named.Underlying().(type) {
	case *types.Pointer, *types.Map, *types.Slice, *types.Chan, *types.Signature, *types.Interface:
		return true
	}
	return false
}

// registry emits Handlers and NewRegistry.
func (e *emitter) registry(tasks []*task) {
	fields := receivers(tasks)
	var parameters, bindings []jen.Code
	if len(fields) > 0 {
		e.Line()
		e.Comment(e.handlersName() + " holds the receivers of task methods. Every field is required, unless Only drops its tasks.")
		e.Type().Id(e.handlersName()).StructFunc(func(g *jen.Group) {
			for _, r := range fields {
				if r.pointer {
					g.Id(r.name()).Op("*").Id(r.name())
				} else {
					g.Id(r.name()).Id(r.name())
				}
			}
		})
		parameters = []jen.Code{jen.Id(e.handlers(tasks)).Id(e.handlersName())}
		for _, r := range fields {
			if r.nilable() {
				bindings = append(bindings, e.require(r, tasks))
			}
		}
	}
	for _, t := range tasks {
		arguments := []jen.Code{jen.Id("Task" + t.goName), e.handler(t, tasks, fields)}
		if t.backoff.function != "" {
			arguments = append(arguments, jen.Qual(runtimePath, "BackoffFunc").Call(jen.Id(t.backoff.function)))
		}
		for _, line := range t.line.cron {
			arguments = append(arguments, jen.Qual(runtimePath, "Cron").Call(jen.Lit(strings.TrimSpace(line.text))))
		}
		bindings = append(bindings, jen.Qual(runtimePath, "Handle").Call(arguments...))
	}
	e.Line()
	e.Comment(e.newRegistryName() + " binds every task of this package to its handler.")
	e.Func().Id(e.newRegistryName()).Params(parameters...).Op("*").Qual(runtimePath, "Registry").
		Block(jen.Return(jen.Qual(runtimePath, "NewRegistry").
			Custom(jen.Options{Open: "(", Close: ")", Separator: ",", Multi: true}, bindings...)))
}

// require emits the condition that a receiver is there, for the tasks that are its methods.
func (e *emitter) require(r receiver, tasks []*task) jen.Code {
	arguments := []jen.Code{jen.Lit(e.handlersName() + "." + r.name()), jen.Id(e.handlers(tasks)).Dot(r.name()).Op("!=").Nil()}
	for _, t := range tasks {
		if t.receiver == r.named {
			arguments = append(arguments, jen.Id("Task"+t.goName).Dot("Name"))
		}
	}
	return jen.Qual(runtimePath, "Require").Call(arguments...)
}

// handlers is the parameter of NewRegistry. It must not hide a function that NewRegistry names.
func (e *emitter) handlers(tasks []*task) string {
	return unlike("h", tasks)
}

// unlike makes a name for a parameter that no function named in NewRegistry has.
func unlike(name string, tasks []*task) string {
	for slices.ContainsFunc(tasks, func(t *task) bool { return t.receiver == nil && t.decl.Name.Name == name || t.backoff.function == name }) {
		name += "2"
	}
	return name
}

// handler is the function that is bound to a task.
func (e *emitter) handler(t *task, tasks []*task, fields []receiver) jen.Code {
	function := jen.Id(t.decl.Name.Name)
	if t.receiver != nil {
		function = jen.Id(e.handlers(tasks)).Dot(t.receiver.Obj().Name()).Dot(t.decl.Name.Name)
	}
	ctx, tx, args := unlike("ctx", tasks), unlike("tx", tasks), unlike("args", tasks)
	parameters, arguments := []jen.Code{jen.Id(ctx).Qual(contextPath, "Context")}, []jen.Code{jen.Id(ctx)}
	switch t.line.transaction {
	case pgxTx:
		parameters, arguments = append(parameters, jen.Id(tx).Qual(pgxPath, "Tx")), append(arguments, jen.Id(tx))
	case sqlTx:
		parameters, arguments = append(parameters, jen.Id(tx).Op("*").Qual(sqlPath, "Tx")), append(arguments, jen.Id(tx))
	}
	switch {
	case t.args.object == nil:
		function = e.closure(t, append(parameters, jen.Id("_").Qual(runtimePath, "NoArgs")), function.Call(arguments...))
	case t.receiver != nil && !t.pointer && slices.ContainsFunc(fields, func(r receiver) bool { return r.named == t.receiver && r.pointer }):
		// The method value of a nil pointer would panic here, before Require can report it.
		function = e.closure(t, append(parameters, jen.Id(args).Add(e.argsType(t))), function.Call(append(arguments, jen.Id(args))...))
	}
	if t.result.object != nil {
		return jen.Qual(runtimePath, "Returning").Index(jen.List(e.argsType(t), e.resultType(t))).Call(function)
	}
	return function
}

func (e *emitter) closure(t *task, parameters []jen.Code, call jen.Code) *jen.Statement {
	function := jen.Func().Params(parameters...)
	if t.result.object != nil {
		return function.Params(e.resultType(t), jen.Error()).Block(jen.Return(call))
	}
	return function.Error().Block(jen.Return(call))
}
