package docs_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/backfillhq/go/testutil/pgtest"
)

// consoles are the console blocks of the pages, and who runs them. A block without an entry fails.
var consoles = map[string]string{
	"docs/dead-letters.md: Listing, console 1":           "TestDeadLettersPage",
	"docs/dead-letters.md: Requeuing, console 1":         "TestDeadLettersPage",
	"docs/dead-letters.md: Deleting, console 1":          "TestDeadLettersPage",
	"docs/why.md: Why a job does not run, console 1":     "TestOperatorPages",
	"docs/operating.md: Looking into a queue, console 1": "TestOperatorPages",
	"docs/doctor.md: What the doctor finds, console 1":   "TestOperatorPages",
	"README.md: Try it, console 1":                       "not run: it clones over the network; CI runs the commands, and tests start both programs",
	"README.md: A first task, console 1":                 "TestReadmeQuickstart",
	"docs/measured.md: Measured, console 1":              "not run: it takes an hour; CI builds the benchmark",

	"docs/node-teams.md: The first day, console 1":                "TestNodeTeamsPage, and TestNodeTeamRunsTheModule of internal/interop",
	"docs/node-teams.md: What `backfill migrate` adds, console 1": "TestNodeTeamsPage",
	"docs/operations.md: 3 a.m., console 1":                       "TestOperationsPage",
	"docs/operations.md: A worker is stuck, console 1":            "TestOperationsPage",
	"docs/operations.md: A task goes mad, console 1":              "TestOperationsPage",
	"docs/operations.md: Sizing, console 1":                       "TestOperationsPage",
	"SKILL.md: Ask before you act, console 1":                     "TestSkill",
	"SKILL.md: Ask before you act, console 2":                     "TestSkill",
	"SKILL.md: Ask before you act, console 3":                     "TestSkill",
	"SKILL.md: Ask before you act, console 4":                     "TestSkill",
	"SKILL.md: Change, with the leave of a person, console 1":     "TestSkill",
	"docs/http-api.md: The HTTP API, console 1":                   "TestHTTPAPIPage",
}

// sqlElsewhere are SQL blocks that other tests run, because they change more than their own database, or what other blocks need.
var sqlElsewhere = []string{"docs/node-teams.md: The first day, sql 1", "docs/node-teams.md: What `backfill migrate` adds, sql 1"}

// pages returns the README, SKILL.md and the pages of docs. The page database-setup.md has a test of its own.
func pages(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil || len(paths) < 3 {
		t.Fatalf("docs has the pages %q, %v", paths, err)
	}
	texts := map[string]string{}
	for _, path := range append(paths, filepath.Join(root, "README.md"), filepath.Join(root, "SKILL.md")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.ToSlash(name)] = string(text)
	}
	return texts
}

// blocksOf returns the blocks of all pages but database-setup.md, each named after its page too.
func blocksOf(t *testing.T, language string) []block {
	t.Helper()
	var found []block
	for page, text := range pages(t) {
		if page == "docs/database-setup.md" {
			continue
		}
		for _, b := range readPage(t, text) {
			b.name = page + ": " + b.name
			if !slices.Contains([]string{"go", "console", "sql", "yaml", "text"}, b.language) {
				t.Errorf("%s: no test runs this language: write go, console, sql or yaml, or text for what nobody can run", b.name)
			}
			if b.language == language {
				found = append(found, b)
			}
		}
	}
	slices.SortFunc(found, func(a, b block) int { return strings.Compare(a.name, b.name) })
	return found
}

// testedElsewhere are blocks that need modules which this one does not have. internal/programs
// compares them with its own source, which it runs.
var testedElsewhere = []string{"docs/enqueuing.md: Transactions of ORMs, go 1"}

// Every Go block of every page compiles, in a module with the quickstart's files.
func TestSnippets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeSnippetModule(t, dir)
	elsewhere := 0
	for i, b := range blocksOf(t, "go") {
		if slices.Contains(testedElsewhere, b.name) {
			elsewhere++
			continue
		}
		if path, ok := goFile(b); ok {
			write(t, filepath.Join(dir, path), b.text)
			continue
		}
		write(t, filepath.Join(dir, fmt.Sprintf("snippet%02d/snippet.go", i)), asFile(b))
		t.Logf("snippet%02d is %s", i, b.name)
	}
	if elsewhere != len(testedElsewhere) {
		t.Errorf("%d of the blocks %q are there", elsewhere, testedElsewhere)
	}
	run(t, dir, "go tool backfillgen ./...")
	run(t, dir, "go vet ./...")
}

// writeSnippetModule writes a module with this one's dependencies, and with the fixtures of
// testdata.
func writeSnippetModule(t *testing.T, dir string) {
	t.Helper()
	clone, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/backfillhq/go"
	write(t, filepath.Join(dir, "go.sum"), string(sum))
	write(t, filepath.Join(dir, "go.mod"), strings.Replace(string(mod), "module "+module, "module example.com/signup", 1)+
		"\nrequire "+module+" v0.0.0\nreplace "+module+" => "+clone+"\ntool "+module+"/cmd/backfillgen\n")
	copyFolder(t, "testdata/billing", filepath.Join(dir, "billing"))
}

// goFile returns the path of a block that is a whole file: its first line is a comment with the
// path.
func goFile(b block) (path string, ok bool) {
	first, _, _ := strings.Cut(b.text, "\n")
	path, ok = strings.CutPrefix(first, "// ")
	return path, ok && filepath.Ext(path) == ".go" && !strings.Contains(path, " ")
}

// asFile makes a Go file of a fragment: of declarations as they are, or of statements. Paragraphs
// of statements are alternatives, so each is a function, whose parameters are what the pages take
// as given.
func asFile(b block) string {
	var body strings.Builder
	if regexp.MustCompile(`(?m)^(func|type|var) `).MatchString(b.text) {
		body.WriteString(b.text)
	} else {
		for paragraph := range strings.SplitSeq(strings.TrimSpace(b.text), "\n\n") {
			body.WriteString("\nfunc _(ctx context.Context, t *testing.T, pool *pgxpool.Pool, tx pgx.Tx, sqlTx *sql.Tx,\n" +
				"\tclient *backfill.Client, registry *backfill.Registry, gateway *billing.Gateway,\n" +
				"\targs tasks.WelcomeArgs, list []tasks.WelcomeArgs, charge billing.ChargeArgs, lockedBy string, id int64) {\n\t{\n" +
				paragraph + "\n")
			for _, match := range regexp.MustCompile(`(?m)^(\w+(?:, \w+)*) :=`).FindAllStringSubmatch(paragraph, -1) {
				for name := range strings.SplitSeq(match[1], ", ") {
					if name != "_" {
						body.WriteString("_ = " + name + "\n")
					}
				}
			}
			body.WriteString("\t}\n}\n")
		}
	}
	return "// Package snippet is the block " + b.name + ".\npackage snippet\n\n" + imports(body.String()) + body.String()
}

// imports imports the packages that a file uses.
func imports(body string) string {
	code := regexp.MustCompile(`//.*`).ReplaceAllString(body, "")
	var b strings.Builder
	for _, path := range []string{
		"context", "database/sql", "encoding/json", "errors", "expvar", "fmt", "log", "log/slog", "net/http", "os", "testing", "time",
		"github.com/jackc/pgx/v5", "github.com/jackc/pgx/v5/pgxpool",
		"github.com/backfillhq/go/backfill", "github.com/backfillhq/go/backfill/admin", "github.com/backfillhq/go/backfill/backfillotel", "github.com/backfillhq/go/testutil", "github.com/backfillhq/go/testutil/pgtest",
		"example.com/signup/tasks", "example.com/signup/billing",
	} {
		name := filepath.Base(strings.TrimSuffix(path, "/v5"))
		if regexp.MustCompile(`\b` + name + `\.[A-Z]`).MatchString(code) {
			fmt.Fprintf(&b, "import %q\n", path)
		}
	}
	return b.String()
}

// Every console block is run by a test, or has a reason why it is not.
func TestConsoles(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, b := range blocksOf(t, "console") {
		known[b.name] = true
		if consoles[b.name] == "" {
			t.Errorf("no test runs the block %q: run it, or give a reason in consoles", b.name)
		}
	}
	for name := range consoles {
		if !known[name] {
			t.Errorf("consoles names the block %q, which no page has", name)
		}
	}
}

// Every SQL block runs, in a database with the queue's tables.
func TestSQL(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	for _, b := range blocksOf(t, "sql") {
		if slices.Contains(sqlElsewhere, b.name) {
			continue
		}
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Conn().PgConn().Exec(t.Context(), b.text).ReadAll(); err != nil {
			t.Errorf("%s: %v", b.name, err)
		}
		conn.Release()
	}
}

// Every link between the pages leads to a file and, with a #, to a heading in it.
func TestLinks(t *testing.T) {
	t.Parallel()
	texts := pages(t)
	for _, name := range []string{"CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(text)
	}
	for page, text := range texts {
		for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(text, -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			path, heading, _ := strings.Cut(link[1], "#")
			target := page
			if path != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(page), path))
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s links to %s: %v", page, link[1], err)
			}
			if heading != "" && !slices.Contains(anchors(texts[target]), heading) {
				t.Errorf("%s links to %s, and %s has no such heading: %q", page, link[1], target, anchors(texts[target]))
			}
		}
	}
}

// anchors returns the anchors that GitHub gives the headings of a page.
func anchors(page string) (names []string) {
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

// Every name of this API that the pages have in code spans exists, as in `backfill.Open` or
// `client.Cleanup`.
func TestNames(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for qualifier, folder := range map[string]string{
		"backfill": "backfill", "testutil": "testutil", "pgtest": "testutil/pgtest",
	} {
		exported(t, filepath.Join(root, folder), qualifier, known)
	}
	for page, text := range pages(t) {
		if page == "docs/design.md" { // It speaks of names that were given up, too.
			continue
		}
		spans := regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(text, -1)
		for _, span := range spans {
			name := regexp.MustCompile(`\b(?:backfill|testutil|pgtest|client|worker|registry)\.[A-Z]\w*`)
			for _, found := range name.FindAllString(span[1], -1) {
				if !known[found] {
					t.Errorf("%s has `%s`, and there is no %s", page, span[1], found)
				}
			}
		}
	}
}

// The overview of package backfill has every option.
func TestOverview(t *testing.T) {
	t.Parallel()
	overview, err := os.ReadFile(filepath.Join(root, "backfill/doc.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	exported(t, filepath.Join(root, "backfill"), "backfill", names)
	options := 0
	for name := range names {
		if name, ok := strings.CutPrefix(name, "backfill.With"); ok {
			options++
			if !strings.Contains(string(overview), "[With"+name+"]") {
				t.Errorf("the overview lacks With%s", name)
			}
		}
	}
	if options < 10 {
		t.Errorf("the package has %d options", options)
	}
}

// exported adds the exported names of a package, with its qualifier: those of methods of the
// client as client.Name, and so on.
func exported(t *testing.T, folder, qualifier string, names map[string]bool) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has the files %q, %v", folder, files, err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.FuncDecl:
				names[receiver(n, qualifier)+"."+n.Name.Name] = true
				return false
			case *ast.TypeSpec:
				names[qualifier+"."+n.Name.Name] = true
				return false
			case *ast.ValueSpec:
				for _, name := range n.Names {
					names[qualifier+"."+name.Name] = true
				}
			}
			return true
		})
	}
}

// receiver returns how the pages name the receiver of a method, as in client, and the package of a
// function.
func receiver(function *ast.FuncDecl, qualifier string) string {
	if function.Recv == nil {
		return qualifier
	}
	kind := function.Recv.List[0].Type
	if pointer, ok := kind.(*ast.StarExpr); ok {
		kind = pointer.X
	}
	if name, ok := kind.(*ast.Ident); ok {
		return strings.ToLower(name.Name)
	}
	return ""
}
