package pg

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// No statement takes bytes: where its parameters are not described first, as behind a pooler, pgx
// sends them as bytea, which the server does not take for JSON.
func TestStatementsTakeNoBytes(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("query/*.gen.go")
	if err != nil || len(paths) < 10 {
		t.Fatalf("the statements are in %q, %v", paths, err)
	}
	isBytes := func(expression ast.Expr) bool {
		array, ok := expression.(*ast.ArrayType)
		if !ok {
			return false
		}
		if inner, ok := array.Elt.(*ast.ArrayType); ok { // a list of them
			array = inner
		}
		element, ok := array.Elt.(*ast.Ident)
		return ok && element.Name == "byte"
	}
	read := 0
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		check := func(where string, fields *ast.FieldList) {
			for _, field := range fields.List {
				read++
				if isBytes(field.Type) && !strings.HasPrefix(where, "InsertJob") { // whose arguments insertArgs makes
					t.Errorf("%s: %s has a parameter of bytes: take text, as in (@name::text)::json", path, where)
				}
			}
		}
		ast.Inspect(file, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.TypeSpec:
				if fields, ok := node.Type.(*ast.StructType); ok && strings.HasSuffix(node.Name.Name, "Params") {
					check(node.Name.Name, fields.Fields)
				}
			case *ast.FuncDecl:
				check(node.Name.Name, node.Type.Params)
			}
			return true
		})
	}
	if read < 200 {
		t.Errorf("%d parameters were read", read)
	}
}
