package generate

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
)

// source loads a package of one file, which may be broken, beside a small package context.
func source(tb testing.TB, text string) (*pkg, *diag.List) {
	tb.Helper()
	dir := tb.TempDir()
	listed := func(name, text string) *packages.Package {
		path := filepath.Join(dir, name+".go")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
		return &packages.Package{PkgPath: name, Name: name, Dir: dir, GoFiles: []string{path}, Module: &packages.Module{Main: true}}
	}
	tasks := listed("tasks", text)
	tasks.Imports = map[string]*packages.Package{"context": listed("context", "package context\n\ntype Context interface{ Err() error }\n")}
	l := &loader{fset: token.NewFileSet(), packages: map[*packages.Package]*pkg{}}
	p, err := l.read(tasks, parser.ParseComments)
	var problems diag.List
	if p.broken = err != nil; p.broken && !p.reportSyntax(err, &problems) {
		tb.Fatal(err)
	}
	return p, &problems
}

// Whatever a file holds, it is read to the end, and without an error there is code.
func FuzzSource(f *testing.F) {
	const head = "package tasks\n\nimport (\n\t\"context\"\n\tsql \"database/sql\"\n\t\"missing\"\n\t\"net/http\"\n\n\t\"github.com/jackc/pgx/v5\"\n)\n\n"
	for _, seed := range []string{
		"//backfill:task queue=\"{ID}-{E.X}\" key=a key_mode=replace backoff=B\nfunc (r *R) A(ctx context.Context, a T) error\ntype R struct{ missing.X }\ntype T struct { E; ID int `json:\"id\"` }\ntype E struct{ X string; *E }\nfunc B(int, error) int64",
		"//backfill:task\nfunc () A() error\n//backfill:task\nfunc (r []int) B(a, b context.Context) error\n//backfill:task\nfunc (a, b T) _()\n",
		"type T T\ntype U struct { U }\ntype V[P any] struct { V[V[P]]; a [len(V{}.a)]int }\n//backfill:task key={a}\nfunc A(context.Context, T) error\n//backfill:task\nfunc B(context.Context, U) error\n//backfill:task\nfunc C(context.Context, []V[int]) error",
		"type T = *T\ntype A = []A\n//backfill:task\nfunc X(context.Context, T) error\n//backfill:task\nfunc X(context.Context, A, missing.T) (int, error)\nconst x = iota + len(y)\nvar y [x]T",
		"//backfill:task timeout=1m tx=serializable\nfunc A(context.Context, pgx.Tx, T) error { return a.Do() }\ntype T struct{ ID int }\nvar a, b = b, a\n//backfill:task timeout=1m\nfunc (http *R) B(_ context.Context, tx *sql.Tx) error { c := http.Client; return c.Do(http.Client.Do(a.Get())) }\ntype R struct{ *http.Client }",
		"type A = *B\ntype B = A\ntype C interface { C; pgx.Tx }\n//backfill:task\nfunc X(context.Context, A, B) error\n//backfill:task\nfunc Y(c context.Context, d C) error\n//backfill:task tx=x\nfunc Z(tx *pgx.Tx, _, _ context.Context) error { for range http.Get { var http, c = c } }",
		"type M map[K]M\ntype K struct{ M `json:\",x\"`; c chan int }\nfunc (K) MarshalText() {}\n//backfill:task alias=a,b,a\nfunc X(_ context.Context, k K) error {",
	} {
		f.Add(head + seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, problems := source(t, text)
		p.collect(problems)
		tasks := p.tasks(problems)
		for _, problem := range problems.Sorted() {
			if problem.Message == "" || problem.Pos.Line > strings.Count(text, "\n")+1 {
				t.Errorf("problem %+v", problem)
			}
		}
		if len(tasks) == 0 || problems.Errors() > 0 {
			return
		}
		if code, err := emit(p, tasks); err != nil || !generated(code) {
			t.Errorf("emit: %v\n%s", err, code)
		}
	})
}

// A template that is read, rendered, and read again is the same; one that is not read has a problem inside of the value.
func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{"user:{ID}", "{{a}}{E.X}{{", "{", "}", "{}", "{ID}{}", "}}", "{X}{ID.X}{E}", "ä{E.X}\xff"} {
		f.Add(seed)
	}
	p, problems := source(f, "package tasks\n\nimport \"context\"\n\ntype T struct { E; ID int }\n\ntype E struct{ X string }\n\n//backfill:task\nfunc A(ctx context.Context, args T) error\n")
	p.collect(problems)
	args := p.tasks(problems)[0].args
	f.Fuzz(func(t *testing.T, text string) {
		var problems diag.List
		read := func(text string) *template {
			option := directive.Option{Name: "key", Value: text, ValuePos: token.Position{Line: 1, Column: 1}}
			return p.readTemplate(&task{args: args}, option, &problems)
		}
		parsed := read(text)
		if (parsed == nil) != (problems.Errors() > 0) {
			t.Fatalf("%q: template %v, problems %v", text, parsed, problems.Sorted())
		}
		if parsed == nil {
			return
		}
		if again := read(render(parsed)); again == nil || render(again) != render(parsed) || len(again.parts) != len(parsed.parts) {
			t.Errorf("%q: %+v, then %+v", text, parsed, again)
		}
	})
}

// render writes a template as a directive would.
func render(parsed *template) string {
	var b strings.Builder
	for _, part := range parsed.parts {
		if part.field == nil {
			b.WriteString(strings.NewReplacer("{", "{{", "}", "}}").Replace(part.text))
			continue
		}
		names := make([]string, len(part.field))
		for i, field := range part.field {
			names[i] = field.Name()
		}
		b.WriteString("{" + strings.Join(names, ".") + "}")
	}
	return b.String()
}
