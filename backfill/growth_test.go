package backfill_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

// Every public struct with public fields can get more of them: it cannot be written without keys,
// and it cannot be compared, which a field of another type would forbid later.
func TestPublicStructsCanGrow(t *testing.T) {
	t.Parallel()
	const guard = "\t_ [0]func()"
	found := 0
	for _, folder := range []string{".", "../testutil", "../testutil/pgtest"} {
		for name, fields := range publicStructs(t, folder) {
			if !slices.ContainsFunc(fields, ast.IsExported) {
				continue
			}
			if found++; fields[0] != "_" && name != "Database" { // which has unexported fields, and is used by pointer
				t.Errorf("%s.%s: its first field has to be %q", folder, name, guard)
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d structs: the test looks in the wrong place", found)
	}
}

// publicStructs returns the names of the fields of all exported structs of a package.
func publicStructs(t *testing.T, folder string) map[string][]string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	structs := map[string][]string{}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), folder+"/"+entry.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok || !spec.Name.IsExported() {
				return true
			}
			fields, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range fields.Fields.List {
				if field.Names == nil {
					structs[spec.Name.Name] = append(structs[spec.Name.Name], "Embedded")
				}
				for _, name := range field.Names {
					structs[spec.Name.Name] = append(structs[spec.Name.Name], name.Name)
				}
			}
			return false
		})
	}
	return structs
}
