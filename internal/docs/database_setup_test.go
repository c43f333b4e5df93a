package docs_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/testutil/pgtest"
)

const root = "../.."

// scene is where the page's blocks are run: a server on which myapp, wherever the page has it, is a name of this test's, a module
// of a user's, and a copy of the sample for sqlc.
type scene struct {
	t           *testing.T
	page        string
	admin       *pgx.Conn
	server      *url.URL
	myapp       string
	module, sql string // folders
	bin         string // a folder in PATH, with backfill and sqlc
}

// Every block of the page is compiled or run, and its output is that of the page.
func TestDatabaseSetup(t *testing.T) { //nolint:tparallel // each step goes on from the one before
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root, "docs/database-setup.md"))
	if err != nil {
		t.Fatal(err)
	}
	byName, snippets := map[string]block{}, []string(nil)
	for _, b := range readPage(t, string(page)) {
		if b.language == "go" && !strings.Contains(b.text, "\npackage ") {
			snippets = append(snippets, b.text)
		} else {
			byName[b.name] = b
		}
	}
	s := newScene(t, string(page), snippets)
	done := map[string]bool{}
	for _, step := range story {
		b, there := byName[step.block]
		if !there {
			t.Errorf("the page has no block %q", step.block)
			continue
		}
		delete(byName, step.block)
		t.Run(b.name, func(t *testing.T) {
			if step.after != "" && !done[step.after] {
				t.Skipf("it goes on from %q, which was not done", step.after)
			}
			inStep := *s
			inStep.t = t
			step.run(&inStep, b)
			done[b.name] = !t.Failed()
		})
	}
	for name := range byName { //nolint:paralleltest // it takes this for the loop of the steps
		t.Errorf("no test runs the block %q", name)
	}
}

// newScene makes the folders, and compiles the snippets.
func newScene(t *testing.T, page string, snippets []string) *scene {
	t.Helper()
	db := pgtest.Empty(t)
	server, err := url.Parse(db.URL)
	needs.That(t, err == nil && server.Hostname() != "", "URL of the test's server")
	admin, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { admin.Close(context.Background()) })
	s := &scene{
		t: t, page: page, admin: admin, server: server, myapp: "backfill_docs_" + strings.ToLower(rand.Text()[:12]),
		module: t.TempDir(), sql: t.TempDir(), bin: t.TempDir(),
	}
	var super string
	if err := admin.QueryRow(t.Context(), "show is_superuser").Scan(&super); err != nil {
		t.Fatal(err)
	}
	needs.That(t, super == "on", "superuser on the test's server")
	t.Cleanup(s.cleanUp)
	s.writeModule(snippets)
	s.useTool()
	copyFolder(t, filepath.Join(root, "docs/sqlc"), s.sql)
	return s
}

// writeModule writes a module that requires this one, as users do who have no tool of it.
func (s *scene) writeModule(snippets []string) {
	s.t.Helper()
	clone, err := filepath.Abs(root)
	if err != nil {
		s.t.Fatal(err)
	}
	write(s.t, filepath.Join(s.module, "snippets/snippets.go"), asPackage(snippets)+s.methods())
	for _, command := range []string{
		"go mod init example.com/myapp", "go mod edit -require=github.com/backfillhq/go@v0.0.0 -replace=github.com/backfillhq/go=" + clone,
		"go mod tidy", "go build ./...",
	} {
		run(s.t, s.module, command)
	}
}

// methods is Go that compiles if a client has the methods that the page names.
func (s *scene) methods() (text string) {
	s.t.Helper()
	_, list, _ := strings.Cut(s.page, "only through the client (")
	list, _, _ = strings.Cut(list, "…)")
	names := regexp.MustCompile("`(.+?)`").FindAllStringSubmatch(list, -1)
	if len(names) < 5 {
		s.t.Fatalf("the page names the methods %q", names)
	}
	for _, name := range names {
		text += "\nvar _ = (*backfill.Client)." + name[1] + "\n"
	}
	return text
}

// useTool makes the command of consoles the one that the module has as a tool, in the way that the page has.
func (s *scene) useTool() {
	s.t.Helper()
	_, way, _ := strings.Cut(s.page, "In your module, run")
	way, _, _ = strings.Cut(way, " once, and then `go tool backfill …`")
	for _, command := range regexp.MustCompile("`(.+?)`").FindAllStringSubmatch(way, -1) {
		run(s.t, s.module, command[1])
	}
	tool := exec.CommandContext(s.t.Context(), "go", "tool", "-n", "backfill")
	tool.Dir = s.module
	path, err := tool.Output()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.Symlink(strings.TrimSpace(string(path)), filepath.Join(s.bin, "backfill")); err != nil {
		s.t.Fatal(err)
	}
}

func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// cleanUp removes what does not end with a server that is not ours.
func (s *scene) cleanUp() {
	for _, statement := range []string{"drop database if exists myapp", "drop role if exists myapp_web, myapp_jobs, myapp_stats, myapp"} {
		if _, err := s.admin.Exec(context.Background(), s.named(statement)); err != nil {
			s.t.Error(err)
		}
	}
}

func (s *scene) named(text string) string { return strings.ReplaceAll(text, "myapp", s.myapp) }

// url connects to the database myapp; as the administrator, if the role is "".
func (s *scene) url(role string) string {
	u := *s.server
	u.Path = "/" + s.myapp
	if role != "" {
		u.User = url.UserPassword(s.named(role), "secret")
	}
	return u.String()
}

// exec runs statements in the database myapp.
func (s *scene) exec(role, sql string) {
	s.t.Helper()
	s.within(role, func(conn *pgx.Conn) { s.execOn(conn, sql) })
}

func (s *scene) execOn(conn *pgx.Conn, sql string) {
	s.t.Helper()
	if _, err := conn.PgConn().Exec(s.t.Context(), s.named(sql)).ReadAll(); err != nil {
		s.t.Fatalf("%v: %s", err, sql)
	}
}

// value returns the only value of a query's result in the database myapp.
func (s *scene) value(sql string) (value string) {
	s.t.Helper()
	s.within("", func(conn *pgx.Conn) {
		if err := conn.QueryRow(s.t.Context(), sql, pgx.QueryExecModeSimpleProtocol).Scan(&value); err != nil {
			s.t.Fatalf("%v: %s", err, sql)
		}
	})
	return value
}

func (s *scene) within(role string, do func(*pgx.Conn)) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.url(role))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	do(conn)
}

// console runs the commands of a block with this DATABASE_URL and compares what they write. It runs
// all of them or none, so that a step that is skipped changes nothing.
func (s *scene) console(dir, databaseURL string, b block) {
	s.t.Helper()
	list := commands(s.t, b)
	for _, c := range list {
		if strings.HasPrefix(c.line, "psql ") {
			needs.Program(s.t, "psql")
		}
	}
	for _, c := range list {
		cmd := exec.CommandContext(s.t.Context(), "sh", "-c", strings.ReplaceAll(s.named(c.line), "localhost:5432", s.server.Host))
		cmd.Dir = dir
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PG") }) // their database
		cmd.Env = append(cmd.Env, "PATH="+s.bin+string(filepath.ListSeparator)+os.Getenv("PATH"), "DATABASE_URL="+databaseURL)
		output, err := cmd.CombinedOutput()
		got := s.asOnPage(string(output))
		if !matches(c.want, got) {
			s.t.Errorf("%s: it writes\n%sthe page has\n%s", c.line, got, c.want)
		}
		if refusal := regexp.MustCompile(`(?m)^(backfill|query\.sql):`).MatchString(c.want); refusal != (err != nil) {
			s.t.Errorf("%s: %v\n%s", c.line, err, got)
		}
	}
}

// asOnPage puts the page's names in the place of those of this test.
func (s *scene) asOnPage(output string) string {
	return strings.NewReplacer(s.myapp, "myapp", s.server.Host, "localhost:5432",
		"-h "+s.server.Hostname()+" -p "+s.server.Port(), "-h localhost -p 5432").Replace(output)
}

// sqlc puts the sqlc of make tools into the PATH of consoles.
func (s *scene) sqlc() {
	s.t.Helper()
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		s.t.Fatal(err)
	}
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		cache = filepath.Join(os.Getenv("HOME"), ".cache")
	}
	built, err := filepath.Glob(filepath.Join(cache, "backfill-ci", "*", sqlcVersion(string(makefile)), "sqlc"))
	needs.That(s.t, err == nil && len(built) > 0, "sqlc: run make tools")
	if err := os.Symlink(built[0], filepath.Join(s.bin, "sqlc")); err != nil && !errors.Is(err, fs.ErrExist) {
		s.t.Fatal(err)
	}
}

// sqlcVersion returns what stands for sqlc in a text, as in sqlc@v1.31.1.
func sqlcVersion(text string) string {
	return regexp.MustCompile(`sqlc@v[0-9.]+[0-9]`).FindString(text)
}
