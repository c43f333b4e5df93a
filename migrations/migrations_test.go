package migrations_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/migrations"
)

// The number of a file is in its name, and the files come in the order of their numbers.
func TestFiles(t *testing.T) {
	t.Parallel()
	for folder, list := range map[string][]migrations.Migration{"wire": migrations.Wire(), "own": migrations.Own()} {
		last := -1
		for _, m := range list {
			text, err := os.ReadFile(m.Path)
			if err != nil {
				t.Fatal(err)
			}
			if string(text) != m.SQL || m.ID <= last || !strings.HasPrefix(m.Path, fmt.Sprintf("%s/%04d", folder, m.ID)) {
				t.Errorf("%s has the ID %d after %d, and %d bytes", m.Path, m.ID, last, len(m.SQL))
			}
			last = m.ID
		}
		if last < 1 {
			t.Errorf("there are no files in %s", folder)
		}
	}
}

func TestFilesFollowTheRules(t *testing.T) {
	t.Parallel()
	bare := regexp.MustCompile(`(?:^|[^.\w])graphile_worker(?:[^.;\w]|$)`)
	literal := regexp.MustCompile(`'[^'\n]*graphile_worker[^'\n]*'`)
	quoted := regexp.MustCompile(`"graphile_worker"`)
	for _, m := range migrations.All() {
		for line := range strings.SplitSeq(m.SQL, "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "--") {
				continue
			}
			if literal.MatchString(line) || quoted.MatchString(line) || bare.MatchString(line) {
				t.Errorf("%s names the schema in a way that Render does not replace: %s", m.Path, line)
			}
		}
		if m.Transactional() != (m.Path != "own/0002_queue_index.sql") {
			t.Errorf("%s: Transactional is %t", m.Path, m.Transactional())
		}
		if m.Wire() != strings.HasPrefix(m.Path, "wire") {
			t.Errorf("%s: Wire is %t", m.Path, m.Wire())
		}
	}
}

func TestStatements(t *testing.T) {
	t.Parallel()
	statements := migrations.Migration{SQL: "-- no-transaction\nselect 1;\n\n-- Then.\nselect\n2;\n"}.Statements()
	if diff := cmp.Diff([]string{"-- no-transaction\nselect 1", "\n-- Then.\nselect\n2"}, statements); diff != "" {
		t.Errorf("Statements (-want +got):\n%s", diff)
	}
}

func TestHash(t *testing.T) {
	t.Parallel()
	if hash := migrations.Hash(); hash != migrations.Hash() || !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(hash) {
		t.Errorf("Hash = %q, want the same SHA-256 each time", hash)
	}
}

func TestBreaking(t *testing.T) {
	t.Parallel()
	var breaking []int
	for id := range 30 {
		if migrations.Breaking(id) {
			breaking = append(breaking, id)
		}
	}
	if diff := cmp.Diff([]int{1, 3, 11, 13, 14, 16, 19}, breaking); diff != "" {
		t.Errorf("breaking revisions (-want +got):\n%s", diff)
	}
}

func TestRender(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ sql, schema, want string }{
		{"select * from graphile_worker.jobs", "graphile_worker", `select * from "graphile_worker".jobs`},
		{"create schema graphile_worker;", `a"b`, `create schema "a""b";`},
		{"graphile_worker.a graphile_worker.b", "graphile_worker.c", `"graphile_worker.c".a "graphile_worker.c".b`},
		{"my_graphile_worker.a, graphile_worker2.b, Graphile_Worker.c", "x", "my_graphile_worker.a, graphile_worker2.b, Graphile_Worker.c"},
		{"-- it's graphile_worker.x\ngraphile_worker.y", "x", "-- it's graphile_worker.x\n\"x\".y"},
		{"/* graphile_worker\n'*/graphile_worker.y", "x", "/* graphile_worker\n'*/\"x\".y"},
		{"'a''graphile_worker.x', graphile_worker.y", "x", `'a''graphile_worker.x', "x".y`},
		{`"graphile_worker".x, "a""graphile_worker", graphile_worker.y`, "x", `"graphile_worker".x, "a""graphile_worker", "x".y`},
		{"$fn$ graphile_worker.x $fn$", "x", `$fn$ "x".x $fn$`},
		{"$fn$ graphile_worker.x $fn$", "$fn$", `$fn_0$ "$fn$".x $fn_0$`},
		{"$fn$ graphile_worker.x $fn$", "$fn$$fn_0$", `$fn_1$ "$fn$$fn_0$".x $fn_1$`},
		{"$fn$ graphile_worker.x $$ $fn_0$ $$ $fn$", "$fn$", `$fn_1$ "$fn$".x $$ $fn_0$ $$ $fn_1$`},
		{"$$ graphile_worker.x $$", "$$", `$_0$ "$$".x $_0$`},
		{"select $1, $2 from graphile_worker.x", "$1", `select $1, $2 from "$1".x`},
	} {
		if got := migrations.Render(test.sql, test.schema); got != test.want {
			t.Errorf("Render(%q, %q) = %q, want %q", test.sql, test.schema, got, test.want)
		}
	}
}

func TestCheckSchemaName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"graphile_worker", "PG_x", "pg", " ", strings.Repeat("x", 63), "ü", "\n"} {
		if err := migrations.CheckSchemaName(name); err != nil {
			t.Errorf("CheckSchemaName(%q): %v", name, err)
		}
	}
	for _, name := range []string{"", "pg_x", "pg_", strings.Repeat("x", 64), strings.Repeat("ü", 32), "a\x00", "\xff"} {
		if migrations.CheckSchemaName(name) == nil {
			t.Errorf("CheckSchemaName(%q) accepts it", name)
		}
	}
}
