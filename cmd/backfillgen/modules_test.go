package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/backfillhq/go/internal/needs"
)

// listedPackage is what go list says of a package.
type listedPackage struct {
	ImportPath, Name, Dir string
	GoFiles               []string
	Standard              bool
	Module                *struct{ Main bool }
}

// standardPackages are those of the standard library that have many structs.
var standardPackages = []string{
	"archive/tar", "archive/zip", "crypto/tls", "crypto/x509", "database/sql", "encoding/xml", "go/ast", "log/slog", "math/big", "mime/multipart", "net", "net/http",
	"net/mail", "net/netip", "net/url", "os", "os/exec", "reflect", "regexp", "runtime/debug", "sync", "text/template", "time",
}

// The structs of public modules, those that this module depends on, are args that are refused with
// a reason at the right line, or compile.
func TestPublicModules(t *testing.T) {
	t.Parallel()
	if !needs.All() {
		t.Skip("for BACKFILL_TEST_ALL=1: it looks at the structs of many packages")
	}
	dir := t.TempDir()
	tasks := map[string][]string{} // by file: a line each
	count := 0
	for i, p := range publicPackages(t) {
		structs := exportedStructs(t, p)
		if len(structs) == 0 {
			continue
		}
		lines := []string{"package structs", "import context \"context\"", fmt.Sprintf("import p %q", p.ImportPath)}
		for j, name := range structs {
			lines = append(lines, "//backfill:task", fmt.Sprintf("func T%dx%d(ctx context.Context, args p.%s) error { return nil }", i, j, name))
		}
		tasks[fmt.Sprintf("p%d.go", i)] = lines
		count += len(structs)
	}
	write(t, dir, sources(tasks))
	refused := refusedFiles(t, dir, `^(p\d+\.go:\d+):`)
	t.Logf("%d of %d structs of %d packages are refused", len(refused), count, len(tasks))
	if count < 500 || len(refused) == 0 || len(refused) == count {
		t.Fatalf("of %d structs, %d are refused: the test shows nothing", count, len(refused))
	}
	for file, lines := range tasks {
		left := slices.Clone(lines[:3])
		for i := 4; i < len(lines); i += 2 {
			if !refused[fmt.Sprintf("%s:%d", file, i+1)] {
				left = append(left, lines[i-1], lines[i])
			}
		}
		if len(left) == 3 {
			left = left[:1]
		}
		tasks[file] = left
	}
	write(t, dir, sources(tasks))
	backfillgen(t, 0, "-C", dir)
	goCommand(t, dir, "build", ".")
}

func sources(tasks map[string][]string) (files []txtar.File) {
	for name, lines := range tasks {
		files = append(files, txtar.File{Name: name, Data: []byte(strings.Join(lines, "\n") + "\n")})
	}
	return files
}

// publicPackages are the packages that anybody may import, of which this module depends.
func publicPackages(t *testing.T) (public []listedPackage) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-test", "-json=ImportPath,Name,Dir,GoFiles,Standard,Module", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); decoder.More(); {
		var p listedPackage
		if err := decoder.Decode(&p); err != nil {
			t.Fatal(err)
		}
		hidden := slices.ContainsFunc(strings.Split(p.ImportPath, "/"), func(part string) bool { return part == "internal" || part == "vendor" })
		switch {
		case hidden || p.Name == "main" || strings.Contains(p.ImportPath, " ") || p.Module != nil && p.Module.Main:
		case !p.Standard || slices.Contains(standardPackages, p.ImportPath):
			public = append(public, p)
		}
	}
	return public
}

// exportedStructs are the names of a package's exported structs without type parameters.
func exportedStructs(t *testing.T, p listedPackage) (names []string) {
	t.Helper()
	for _, name := range p.GoFiles {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range group.Specs {
				if typ, ok := spec.(*ast.TypeSpec); ok && typ.Name.IsExported() && typ.TypeParams == nil {
					if _, ok := typ.Type.(*ast.StructType); ok {
						names = append(names, typ.Name.Name)
					}
				}
			}
		}
	}
	return names
}
