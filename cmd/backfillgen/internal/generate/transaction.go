package generate

import (
	"go/ast"
	"go/types"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

// The transactions that a task can take, as signatures have them.
const (
	pgxTx = "pgx.Tx"
	sqlTx = "*sql.Tx"
)

// takeTransaction notes the transaction behind the context, and leaves it out of the function's
// type: for all that follows the task is a plain one. So the packages of drivers, which are large,
// are not looked at, and do not have to be found.
func (p *pkg) takeTransaction(line *taskLine) {
	line.written = line.function.Type
	list := line.written.Params.List
	if len(list) < 2 || len(list[0].Names) > 1 || len(list[1].Names) > 1 {
		return
	}
	line.transaction = p.typeNamed(p.fileOf(line.function.Pos()), list[1].Type).transaction()
	if line.transaction == "" {
		return
	}
	signature, parameters := *line.written, *line.written.Params
	parameters.List = slices.Delete(slices.Clone(list), 1, 2)
	signature.Params = &parameters
	line.function.Type = &signature
}

// reportTransaction reports parameters that are transactions and none that a task can take, or that
// are not in their place.
func (p *pkg) reportTransaction(t *task, problems *diag.List) bool {
	file, list := p.fileOf(t.decl.Pos()), parameterTypes(t.line.written)
	context, transaction := -1, -1
	for i, expression := range list {
		fail := func(format string, args ...any) {
			problems.Errorf(p.position(expression.Pos()), "task "+t.describe()+": "+format, args...)
		}
		n := p.typeNamed(file, expression)
		advice := n.advice()
		if advice == "" && transaction < 0 && n.isLikeTransaction(i == 1 && len(list) == 3) {
			advice = "write pgx.Tx or *sql.Tx, by which the worker knows what to begin"
		}
		switch {
		case n.transaction() != "" && transaction >= 0:
			fail("a task has one transaction: leave %s out", types.ExprString(expression))
			return true
		case n.transaction() != "":
			transaction = i
		case n.is("context", "Context") && context < 0:
			context = i
		case advice != "":
			fail("a task cannot take %s: %s", types.ExprString(expression), advice)
			return true
		}
	}
	if len(list) > 3 || context < 0 || transaction < 0 || context == 0 && transaction == 1 {
		return false
	}
	args := ""
	if len(list) == 3 {
		args = ", T"
	}
	line := taskLine{written: t.line.written, transaction: p.typeNamed(file, list[transaction]).transaction()}
	problems.Errorf(p.position(list[transaction].Pos()), "task %s: the transaction stands behind the context and before the args: want %s; have %s",
		t.describe(), line.shape(args), types.ExprString(t.line.written))
	return true
}

// shape is the function's type without the names of its parameters and with other args, such as
// ", T".
func (l taskLine) shape(args string) string {
	transaction := l.transaction
	if transaction != "" {
		transaction = ", " + transaction
	}
	results := "error"
	if l.written != nil && len(resultTypes(l.written)) == 2 {
		results = "(R, error)"
	}
	return "func(context.Context" + transaction + args + ") " + results
}

// parameterTypes are the types of a function's parameters, one for each.
func parameterTypes(signature *ast.FuncType) (list []ast.Expr) {
	for _, field := range signature.Params.List {
		for range max(1, len(field.Names)) {
			list = append(list, field.Type)
		}
	}
	return list
}

// maxTransaction is the longest timeout of a transactional task. The lock of its job is never
// renewed, and 4 hours after it was taken the job is anybody's again.
const maxTransaction = 3*time.Hour + 30*time.Minute

// checkTransaction checks the options that transactional tasks need, and the one that others cannot
// have.
func (t *task) checkTransaction(problems *diag.List) {
	isolation, isolated := t.line.Option("tx")
	timeout, limited := t.line.Option("timeout")
	switch {
	case t.unsigned:
	case t.line.transaction == "" && isolated:
		problems.Errorf(isolation.Pos, "tx= is the isolation level of a transactional task, and %s takes no transaction: leave tx= out, or take pgx.Tx or *sql.Tx behind the context", t.describe())
	case t.line.transaction == "":
	case !limited && !t.line.Incomplete:
		problems.Errorf(t.line.Pos, "task %s: a transactional task needs timeout=, at most 3h30m: "+
			"while it runs, its transaction holds locks and a connection, and the lock of its job is never renewed", t.describe())
	case t.timeout > maxTransaction:
		problems.Errorf(timeout.ValuePos, "timeout: %s is too long for a transactional task, the lock of whose job is never renewed: at most 3h30m", timeout.Value)
	}
}

// transaction returns which transaction that a task can take a type is, or "".
func (n typeName) transaction() string {
	switch {
	case n.path == pgxPath && n.name == "Tx" && n.pointers == 0:
		return pgxTx
	case n.path == sqlPath && n.name == "Tx" && n.pointers == 1:
		return sqlTx
	}
	return ""
}

// advice says what to write instead of a type that is known for a transaction and none that a task
// can take.
func (n typeName) advice() string {
	const version4 = "github.com/jackc/pgx"
	switch name := n.path + "." + n.name; {
	case n.transaction() != "":
	case name == pgxPath+".Tx":
		return "write pgx.Tx, an interface, which needs no pointer"
	case name == sqlPath+".Tx":
		return "write *sql.Tx, with one pointer"
	case name == pgxPath+"/pgxpool.Tx":
		return "write pgx.Tx, which has the same methods"
	case n.name == "Tx" && (n.path == version4 || strings.HasPrefix(n.path, version4+"/v4")):
		return "write pgx.Tx of " + pgxPath + ", which is the pgx that workers use"
	case name == "github.com/jmoiron/sqlx.Tx":
		return "write *sql.Tx, and make one of it in the handler: &sqlx.Tx{Tx: tx, Mapper: db.Mapper}"
	case name == "github.com/uptrace/bun.Tx" || name == "github.com/uptrace/bun.IDB":
		return "write *sql.Tx, and give it to bun's queries: db.NewSelect().Conn(tx)"
	case name == "gorm.io/gorm.DB":
		return "write *sql.Tx, and give it to a session in the handler: s := db.WithContext(ctx); s.Statement.ConnPool = tx"
	case n.declared != nil && n.declared.spec != nil:
		original := n.owner.typeNamed(n.declared.file, n.declared.spec.Type) // as in type Tx pgx.Tx
		original.pointers += n.pointers
		if kind := original.transaction(); kind != "" {
			return "a type of its own is no " + kind + ": write " + kind + ", or make an alias of the type, with a = in its declaration"
		}
	}
	return ""
}

// isLikeTransaction reports whether somebody meant a transaction by a type, most likely. A struct
// that is passed as a value may be args whatever its methods are, unless others stand behind it.
func (n typeName) isLikeTransaction(beforeArgs bool) bool {
	switch {
	case n.declared == nil:
		return n.name == "Tx"
	case n.declared.spec == nil:
		return false
	}
	methods := func(names ...string) bool {
		return !slices.ContainsFunc(names, func(name string) bool { return n.owner.declared[n.name+"."+name] == nil })
	}
	switch typ := n.declared.spec.Type.(type) {
	case *ast.InterfaceType:
		return n.owner.embedsTransaction(n.declared.file, typ.Methods) || slices.ContainsFunc(typ.Methods.List, func(method *ast.Field) bool {
			return len(method.Names) == 1 && transactionMethods[method.Names[0].Name]
		})
	case *ast.StructType:
		return n.owner.embedsTransaction(n.declared.file, typ.Fields) || (beforeArgs || n.pointers > 0) && methods("Commit", "Rollback")
	}
	return false
}

// transactionMethods are methods of pgx.Tx and *sql.Tx by which an interface is known to be for
// them.
var transactionMethods = map[string]bool{
	"Exec": true, "ExecContext": true, "Query": true, "QueryContext": true, "QueryRow": true, "QueryRowContext": true, "Commit": true, "Rollback": true,
}

// embedsTransaction reports whether a transaction is among the fields of a struct that have no
// name, or among the interfaces that an interface contains.
func (p *pkg) embedsTransaction(file *ast.File, fields *ast.FieldList) bool {
	return slices.ContainsFunc(fields.List, func(field *ast.Field) bool {
		return len(field.Names) == 0 && p.typeNamed(file, field.Type).transaction() != ""
	})
}
