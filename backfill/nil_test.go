package backfill_test

import (
	"context"
	"database/sql"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Every method of a nil or zero value returns, and says what is wrong if it can return an error. A
// new type or method is tried without anybody's adding it here.
func TestMethodsOfNilValues(t *testing.T) {
	t.Parallel()
	values := map[string][]any{
		"Client":                  {(*backfill.Client)(nil), &backfill.Client{}},
		"Worker":                  {(*backfill.Worker)(nil), &backfill.Worker{}},
		"Registry":                {(*backfill.Registry)(nil), &backfill.Registry{}},
		"Task":                    {(*backfill.Task[mailArgs])(nil), &backfill.Task[mailArgs]{}},
		"PanicError":              {(*backfill.PanicError)(nil), &backfill.PanicError{}},
		"BatchError":              {(*backfill.BatchError)(nil), &backfill.BatchError{}},
		"DecodeError":             {(*backfill.DecodeError)(nil), &backfill.DecodeError{}},
		"DeadLetterConflictError": {(*backfill.DeadLetterConflictError)(nil), &backfill.DeadLetterConflictError{}},
		"OutputTooLargeError":     {(*backfill.OutputTooLargeError)(nil), &backfill.OutputTooLargeError{}},
		"EndError":                {(*backfill.EndError)(nil), &backfill.EndError{}},
		"PendingError":            {(*backfill.PendingError)(nil), &backfill.PendingError{}},
		"Probes":                  {(*backfill.Probes)(nil), &backfill.Probes{}},
		"Verdict":                 {backfill.Verdict{}},
		"Health":                  {backfill.Health{}, (*backfill.Worker)(nil).Health()},
		"Request":                 {&backfill.Request{}},
		"txEnqueuer":              {(*backfill.Client)(nil).WithTx(nil), (&backfill.Client{}).WithSQLTx(nil)},
		"FromContext":             {backfill.FromContext(nil), backfill.FromContext(t.Context())}, //nolint:staticcheck // nil on purpose
	}
	for _, name := range methodOwners(t) {
		if values[name] == nil {
			t.Errorf("the type %s has exported methods: add its nil and zero values to this test", name)
		}
	}
	for name, list := range values {
		for _, value := range list {
			callAll(t, name, reflect.ValueOf(value), reflect.ValueOf(context.Background()), "")
		}
	}
}

// A client that is closed, and one that gets no context, say so in every method.
func TestMethodsOfClosedClient(t *testing.T) {
	t.Parallel()
	client, err := backfill.Open(t.Context(), pgtest.New(t).URL, backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	noContext := reflect.Zero(reflect.TypeFor[context.Context]())
	ctx := reflect.ValueOf(t.Context())
	tx := client.WithTx(nil)
	client.Close()
	client.Close()
	for _, enqueuer := range []any{client, tx, client.WithSQLTx(nil)} {
		callAll(t, "closed", reflect.ValueOf(enqueuer), ctx, "the client was closed")
	}
	open := newClient(t, pgtest.New(t))
	defer func() {
		if value := recover(); value != nil {
			t.Errorf("without a context: panic: %v", value)
		}
	}()
	for _, method := range []string{
		"Enqueue", "CompleteJobs", "FailJobs", "RescheduleJobs", "RemoveJob", "ForceUnlock", "UnlockWorker", "ReleaseStaleLocks", "Cleanup",
		"Job", "Stats", "InTx",
	} {
		results := invoke(reflect.ValueOf(open).MethodByName(method), noContext)
		err, _ := reflect.TypeAssert[error](results[len(results)-1])
		wantError(t, err, "the context is nil")
	}
	for _, tx := range []backfill.Enqueuer{
		open.WithTx(nil), open.WithTx((*pgxpool.Tx)(nil)), open.WithTx(&pgxpool.Tx{}), open.WithSQLTx(nil), open.WithSQLTx(&sql.Tx{}),
	} {
		_, err := tx.Enqueue(t.Context(), backfill.Request{Task: "t"})
		wantError(t, err, "in transaction: ")
	}
	wantError(t, backfill.InTx(t.Context(), open, nil), "the function is nil")
	wantError(t, backfill.Run(nil, nil), "the context is nil") //nolint:staticcheck // nil on purpose
	_, err = backfill.Open(nil, pgtest.New(t).URL)             //nolint:staticcheck // nil on purpose
	wantError(t, err, "the context is nil")
	_, err = backfill.NewClient(nil, pgtest.New(t).Pool()) //nolint:staticcheck // nil on purpose
	wantError(t, err, "the context is nil")
}

// callAll calls every method with zero values.
func callAll(t *testing.T, name string, receiver, ctx reflect.Value, want string) {
	t.Helper()
	for i := range receiver.NumMethod() {
		method := name + "." + receiver.Type().Method(i).Name
		func() {
			defer func() {
				if value := recover(); value != nil {
					t.Errorf("%s of %v: panic: %v", method, receiver.Interface() == nil, value)
				}
			}()
			results := invoke(receiver.Method(i), ctx)
			if len(results) == 0 || receiver.Type().Method(i).Name == "Unwrap" {
				return
			}
			last := results[len(results)-1]
			if last.Type() != reflect.TypeFor[error]() {
				return
			}
			err, _ := reflect.TypeAssert[error](last)
			switch {
			case err == nil:
				t.Errorf("%s: no error", method)
			case !strings.Contains(err.Error(), want):
				t.Errorf("%s: %v, want %q", method, err, want)
			}
		}()
	}
}

func invoke(method, ctx reflect.Value) []reflect.Value {
	var args []reflect.Value
	for i := range method.Type().NumIn() {
		in := method.Type().In(i)
		switch {
		case method.Type().IsVariadic() && i == method.Type().NumIn()-1:
		case in == reflect.TypeFor[context.Context]():
			args = append(args, ctx)
		default:
			args = append(args, reflect.Zero(in))
		}
	}
	return method.Call(args)
}

// methodOwners returns the exported types whose exported methods have pointer receivers.
func methodOwners(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	owners := map[string]bool{}
	note := func(n ast.Node) bool {
		method, ok := n.(*ast.FuncDecl)
		if !ok || method.Recv == nil || !method.Name.IsExported() {
			return true
		}
		receiver := method.Recv.List[0].Type
		if star, ok := receiver.(*ast.StarExpr); ok {
			receiver = star.X
		}
		if index, ok := receiver.(*ast.IndexExpr); ok {
			receiver = index.X
		}
		if name, ok := receiver.(*ast.Ident); ok && name.IsExported() {
			owners[name.Name] = true
		}
		return true
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, note)
	}
	if len(owners) < 5 {
		t.Fatalf("found methods of %v only", owners)
	}
	var names []string
	for name := range owners {
		names = append(names, name)
	}
	return names
}
