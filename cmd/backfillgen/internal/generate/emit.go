package generate

import (
	"bytes"
	"fmt"
	"go/doc"
	"go/format"
	"go/types"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dave/jennifer/jen"
)

// The packages that generated code may import, by path.
const (
	contextPath = "context"
	sqlPath     = "database/sql"
	strconvPath = "strconv"
	timePath    = "time"
	pgxPath     = "github.com/jackc/pgx/v5"
)

// emit writes the generated file of a package.
func emit(p *pkg, tasks []*task) ([]byte, error) {
	e := &emitter{pkg: p, File: jen.NewFilePathName(p.path(), p.name())}
	e.HeaderComment(header)
	e.importNames(tasks)
	e.handshake()
	for _, t := range tasks {
		e.descriptor(t)
	}
	e.client(tasks)
	for _, t := range tasks {
		e.packageFunction(t)
	}
	e.registry(tasks)
	var out bytes.Buffer
	if err := e.Render(&out); err != nil {
		return nil, err
	}
	return format.Source(groupImports(out.Bytes()))
}

// groupImports puts the standard library before the others, as goimports and gofumpt do; jennifer
// writes one block.
func groupImports(source []byte) []byte {
	const start, end = "import (\n", ")\n"
	before, rest, found := strings.Cut(string(source), start)
	imports, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		return source
	}
	var standard, others strings.Builder
	for line := range strings.Lines(imports) {
		_, path, _ := strings.Cut(line, `"`)
		if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") {
			others.WriteString(line)
		} else {
			standard.WriteString(line)
		}
	}
	return []byte(before + start + standard.String() + "\n" + others.String() + end + after)
}

type emitter struct {
	*pkg
	*jen.File
}

// importNames tells jennifer the names of packages, so that it renames none without need, and
// renames those that the user's package has declared for something else.
func (e *emitter) importNames(tasks []*task) {
	names := map[string]string{
		contextPath: "context", sqlPath: "sql", strconvPath: "strconv", timePath: "time", pgxPath: "pgx", runtimePath: "backfill",
	}
	paths := slices.Sorted(maps.Keys(names)) // they have the first choice
	var others []string
	for _, t := range tasks {
		for _, object := range []*types.TypeName{t.args.object, t.result.object} {
			if object != nil && object.Pkg() != e.types && names[object.Pkg().Path()] == "" {
				names[object.Pkg().Path()] = object.Pkg().Name()
				others = append(others, object.Pkg().Path())
			}
		}
	}
	slices.Sort(others)
	taken := map[string]bool{e.handlers(tasks): true}
	for _, importPath := range append(paths, others...) {
		name := names[importPath]
		alias := name
		for i := 2; taken[alias] || e.declares(alias) || types.Universe.Lookup(alias) != nil; i++ {
			alias = fmt.Sprint(name, i)
		}
		taken[alias] = true
		if alias == name {
			e.ImportName(importPath, name)
		} else {
			e.ImportAlias(importPath, alias)
		}
	}
}

func (e *emitter) handshake() {
	e.Comment("If this does not compile, backfillgen is newer than the backfill module: run")
	e.Comment("\"go get github.com/backfillhq/go@latest\", or generate again with the module's own backfillgen.")
	e.Const().Id("_").Op("=").Qual(runtimePath, "GeneratedCodeVersion1")
}

// descriptor emits the variable that describes a task.
func (e *emitter) descriptor(t *task) {
	e.Line()
	e.doc(t, fmt.Sprintf("Task%s describes the task %q, handled by [%s].", t.goName, t.name, t.describe()))
	fields := []jen.Code{jen.Id("Name").Op(":").Lit(t.name)}
	add := func(given bool, name string, value jen.Code) {
		if given {
			fields = append(fields, jen.Id(name).Op(":").Add(value))
		}
	}
	add(t.queue != nil, "Queue", e.template(t, t.queue))
	add(t.key != nil, "Key", e.template(t, t.key))
	add(t.keyMode != "", "KeyMode", jen.Qual(runtimePath, t.keyMode))
	add(t.priority != 0, "Priority", jen.Lit(t.priority))
	add(t.maxAttempts != 0, "MaxAttempts", jen.Lit(t.maxAttempts))
	add(t.delay != 0, "Delay", duration(t.delay))
	add(t.timeout != 0, "Timeout", duration(t.timeout))
	add(t.history != 0, "History", duration(t.history))
	add(t.isolation != "", "Isolation", jen.Qual(runtimePath, t.isolation))
	add(t.flags != nil, "Flags", stringList(t.flags))
	add(t.aliases != nil, "Aliases", stringList(t.aliases))
	backoff := t.backoff.value()
	add(backoff != nil, "Backoff", backoff)
	e.Var().Id("Task"+t.goName).Op("=").Op("&").Qual(runtimePath, "Task").Index(e.argsType(t)).
		Custom(jen.Options{Open: "{", Close: "}", Separator: ",", Multi: len(fields) > 1}, fields...)
}

// argsType is T.
func (e *emitter) argsType(t *task) *jen.Statement {
	switch {
	case t.args.object == nil:
		return jen.Qual(runtimePath, "NoArgs")
	case t.args.batch:
		return jen.Index().Qual(t.args.object.Pkg().Path(), t.args.object.Name())
	}
	return jen.Qual(t.args.object.Pkg().Path(), t.args.object.Name())
}

// resultType is R.
func (e *emitter) resultType(t *task) *jen.Statement {
	result := jen.Qual(t.result.object.Pkg().Path(), t.result.object.Name())
	if t.result.pointer {
		return jen.Op("*").Add(result)
	}
	return result
}

// template emits the function of a queue or a key.
func (e *emitter) template(t *task, text *template) jen.Code {
	if text == nil {
		return nil
	}
	parameter := e.argsType(t)
	var sum *jen.Statement
	for _, part := range text.parts {
		operand := jen.Lit(part.text)
		if part.field != nil {
			parameter = jen.Id("a").Add(e.argsType(t))
			operand = fieldText(part.field)
		}
		if sum == nil {
			sum = operand
		} else {
			sum = sum.Op("+").Add(operand)
		}
	}
	return jen.Func().Params(parameter).String().Custom(jen.Options{Open: "{ ", Close: " }"}, jen.Return(sum)) // gofmt breaks long ones
}

// fieldText formats a field of the args a as text.
func fieldText(field []*types.Var) *jen.Statement {
	value := jen.Id("a")
	for _, step := range field {
		value = value.Dot(step.Name())
	}
	typ := field[len(field)-1].Type()
	if textual(typ) {
		if !hasMethod(typ, false, "MarshalText") {
			value = jen.Op("&").Add(value)
		}
		return jen.Qual(runtimePath, "TemplateText").Call(value)
	}
	_, plain := types.Unalias(typ).(*types.Basic)
	basic := typ.Underlying().(*types.Basic)
	// to converts the value, unless it is of this type already.
	to := func(kind types.BasicKind) *jen.Statement {
		if plain && basic.Kind() == kind {
			return value
		}
		return jen.Id(types.Typ[kind].Name()).Call(value)
	}
	switch info := basic.Info(); {
	case info&types.IsString != 0:
		return to(types.String)
	case info&types.IsBoolean != 0:
		return jen.Qual(strconvPath, "FormatBool").Call(to(types.Bool))
	case info&types.IsUnsigned != 0:
		return jen.Qual(strconvPath, "FormatUint").Call(to(types.Uint64), jen.Lit(10))
	case basic.Kind() == types.Int:
		return jen.Qual(strconvPath, "Itoa").Call(to(types.Int))
	default:
		return jen.Qual(strconvPath, "FormatInt").Call(to(types.Int64), jen.Lit(10))
	}
}

// value is what the descriptor says about retries; a function is bound in the registry.
func (b backoff) value() jen.Code {
	switch {
	case b.preset != "":
		return jen.Qual(runtimePath, b.preset).Call()
	case b.factor != 0:
		return jen.Qual(runtimePath, "ExponentialBackoff").Call(duration(b.base), duration(b.limit), number(b.factor))
	case b.base != 0:
		return jen.Qual(runtimePath, "FixedBackoff").Call(duration(b.base))
	}
	return nil
}

// number writes 2 for 2.0.
func number(f float64) jen.Code {
	if f == math.Trunc(f) && f < math.MaxInt32 {
		return jen.Lit(int(f))
	}
	return jen.Lit(f)
}

// duration writes 90 * time.Second.
func duration(d time.Duration) *jen.Statement {
	units := []struct {
		name string
		unit time.Duration
	}{{"Hour", time.Hour}, {"Minute", time.Minute}, {"Second", time.Second}, {"Millisecond", time.Millisecond}, {"Microsecond", time.Microsecond}, {"Nanosecond", 1}}
	for _, u := range units {
		if d%u.unit != 0 {
			continue
		}
		if d == u.unit {
			return jen.Qual(timePath, u.name)
		}
		return jen.Lit(int(d/u.unit)).Op("*").Qual(timePath, u.name)
	}
	return nil // a duration is a number of nanoseconds
}

func stringList(items []string) jen.Code {
	return jen.Index().String().ValuesFunc(func(g *jen.Group) {
		for _, item := range items {
			g.Lit(item)
		}
	})
}

// client emits the type that enqueues.
func (e *emitter) client(tasks []*task) {
	e.Line()
	e.Comment(e.clientName() + " enqueues the tasks of this package.")
	e.Type().Id(e.clientName()).Struct(jen.Id("enqueuer").Qual(runtimePath, "Enqueuer"))
	e.Line()
	e.Commentf("%s returns a %s that enqueues with enqueuer: a [*backfill.Client], or testutil's Recorder.", e.newClientName(), e.clientName())
	e.Func().Id(e.newClientName()).Params(jen.Id("enqueuer").Qual(runtimePath, "Enqueuer")).Id(e.clientName()).
		Block(jen.Return(jen.Id(e.clientName()).Values(jen.Dict{jen.Id("enqueuer"): jen.Id("enqueuer")})))
	e.bound("WithTx", jen.Qual(pgxPath, "Tx"))
	e.bound("WithSQLTx", jen.Op("*").Qual(sqlPath, "Tx"))
	e.Line()
	e.Comment("Enqueue enqueues jobs of several tasks, all or none, and returns them in the order of requests: c.Enqueue(ctx, TaskX.Request(args), …).")
	e.Func().Params(jen.Id("c").Id(e.clientName())).Id("Enqueue").
		Params(jen.Id("ctx").Qual(contextPath, "Context"), jen.Id("requests").Op("...").Qual(runtimePath, "Request")).
		Params(jen.Index().Op("*").Qual(runtimePath, "Job"), jen.Error()).
		Block(jen.Return(e.enqueuer().Dot("Enqueue").Call(jen.Id("ctx"), jen.Id("requests").Op("..."))))
	for _, t := range tasks {
		e.enqueue(t)
	}
}

// enqueuer is that of the Client c, and not nil if c is the zero Client.
func (e *emitter) enqueuer() *jen.Statement {
	return jen.Qual(runtimePath, "OrNoClient").Call(jen.Id("c").Dot("enqueuer"))
}

func (e *emitter) bound(method string, transaction jen.Code) {
	e.Line()
	e.Commentf("%s returns a %s whose jobs are inserted in tx: they exist once it commits.", method, e.clientName())
	e.Func().Params(jen.Id("c").Id(e.clientName())).Id(method).Params(jen.Id("tx").Add(transaction)).Id(e.clientName()).
		Block(jen.Return(jen.Id(e.newClientName()).Call(e.enqueuer().Dot(method).Call(jen.Id("tx")))))
}

// parameters are (ctx context.Context, args T, opts ...backfill.EnqueueOption); without args where
// there are none.
func (e *emitter) parameters(args jen.Code) []jen.Code {
	list := []jen.Code{jen.Id("ctx").Qual(contextPath, "Context")}
	if args != nil {
		list = append(list, jen.Id("args").Add(args))
	}
	return append(list, jen.Id("opts").Op("...").Qual(runtimePath, "EnqueueOption"))
}

// enqueue emits Client.EnqueueX, and EnqueueXMany.
func (e *emitter) enqueue(t *task) {
	parameter, value := jen.Code(nil), jen.Qual(runtimePath, "NoArgs").Values()
	if t.args.object != nil {
		parameter, value = e.argsType(t), jen.Id("args")
	}
	e.method(t, "", t.summary(), parameter, value, jen.Op("*").Qual(runtimePath, "Job"))
	if t.many() {
		comment := fmt.Sprintf("Enqueue%sMany enqueues a job of [%s] for each of args, all or none, and returns them in this order.", t.goName, t.describe())
		e.method(t, "Many", comment, jen.Index().Add(e.argsType(t)), value, jen.Index().Op("*").Qual(runtimePath, "Job"))
	}
	if t.result.object != nil {
		e.await(t)
	}
}

// await emits Client.AwaitX, and AwaitX.
func (e *emitter) await(t *task) {
	parameters := []jen.Code{jen.Id("ctx").Qual(contextPath, "Context"), jen.Id("job").Op("*").Qual(runtimePath, "Job")}
	e.Line()
	e.doc(t, fmt.Sprintf("Await%s waits until a job of [%s] has ended, and returns its result. See [backfill.Await] for errors.", t.goName, t.describe()))
	e.Func().Params(jen.Id("c").Id(e.clientName())).Id("Await"+t.goName).Params(parameters...).Params(e.resultType(t), jen.Error()).
		Block(jen.Return(jen.Qual(runtimePath, "Await").Index(e.resultType(t)).
			Call(jen.Id("ctx"), jen.Id("c").Dot("enqueuer"), jen.Id("Task"+t.goName), jen.Id("job"))))
	e.Line()
	e.doc(t, fmt.Sprintf("Await%s is [%s.Await%[1]s] with the Enqueuer that ctx carries.", t.goName, e.clientName()))
	e.Func().Id("Await"+t.goName).Params(parameters...).Params(e.resultType(t), jen.Error()).
		Block(jen.Return(jen.Id(e.newClientName()).Call(jen.Qual(runtimePath, "FromContext").Call(jen.Id("ctx"))).Dot("Await"+t.goName).
			Call(jen.Id("ctx"), jen.Id("job"))))
}

// method emits a method of Client that calls the function Enqueue of the runtime, or EnqueueMany.
func (e *emitter) method(t *task, suffix, comment string, parameter, value, result jen.Code) {
	e.Line()
	e.doc(t, comment)
	e.Func().Params(jen.Id("c").Id(e.clientName())).Id("Enqueue"+t.goName+suffix).Params(e.parameters(parameter)...).Params(result, jen.Error()).
		Block(jen.Return(jen.Qual(runtimePath, "Enqueue"+suffix).
			Call(jen.Id("ctx"), jen.Id("c").Dot("enqueuer"), jen.Id("Task"+t.goName), value, jen.Id("opts").Op("..."))))
}

// summary is the comment of EnqueueX: the first sentence of the task's own.
func (t *task) summary() string {
	lead := fmt.Sprintf("Enqueue%s enqueues [%s]", t.goName, t.describe())
	if t.args.batch {
		lead = fmt.Sprintf("Enqueue%s enqueues one job of many elements for [%s]", t.goName, t.describe())
	}
	if synopsis := new(doc.Package).Synopsis(t.decl.Doc.Text()); synopsis != "" && !strings.HasPrefix(synopsis, deprecatedMark) {
		lead += ": " + synopsis
	}
	if !strings.HasSuffix(lead, ".") {
		lead += "."
	}
	return lead
}

const deprecatedMark = "Deprecated: "

// doc emits the comment of what is generated for a task. If the task's own comment deprecates it,
// so does this one: linters look at what is called.
func (e *emitter) doc(t *task, text string) {
	e.Comment(text)
	for paragraph := range strings.SplitSeq(t.decl.Doc.Text(), "\n\n") {
		if strings.HasPrefix(paragraph, deprecatedMark) {
			e.Comment("//")
			for line := range strings.Lines(strings.TrimSpace(paragraph)) {
				// jennifer takes a text that begins with // or /* for a whole comment
				e.Comment("// " + strings.TrimSpace(line))
			}
		}
	}
}

// packageFunction emits the EnqueueX that handlers call.
func (e *emitter) packageFunction(t *task) {
	e.Line()
	e.doc(t, fmt.Sprintf("Enqueue%s is [%s.Enqueue%[1]s] with the Enqueuer that ctx carries, as in handlers.", t.goName, e.clientName()))
	var parameter jen.Code
	arguments := []jen.Code{jen.Id("ctx")}
	if t.args.object != nil {
		parameter = e.argsType(t)
		arguments = append(arguments, jen.Id("args"))
	}
	arguments = append(arguments, jen.Id("opts").Op("..."))
	e.Func().Id("Enqueue"+t.goName).Params(e.parameters(parameter)...).Params(jen.Op("*").Qual(runtimePath, "Job"), jen.Error()).
		Block(jen.Return(jen.Id(e.newClientName()).Call(jen.Qual(runtimePath, "FromContext").Call(jen.Id("ctx"))).Dot("Enqueue" + t.goName).Call(arguments...)))
}
