package docs_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// block is a fenced block of a page.
type block struct {
	name     string // its heading, its language, and its number among those
	language string
	text     string
}

// readPage returns the fenced blocks of a page in their order.
func readPage(t *testing.T, page string) []block {
	t.Helper()
	var found []block
	var open *block
	heading, count := "", map[string]int{}
	for line := range strings.Lines(page) {
		fence, fenced := strings.CutPrefix(line, "```")
		switch {
		case fenced && open == nil:
			language := strings.TrimSpace(fence)
			name := heading + ", " + language
			count[name]++
			open = &block{name: fmt.Sprintf("%s %d", name, count[name]), language: language}
		case fenced:
			found = append(found, *open)
			open = nil
		case open != nil:
			open.text += line
		case strings.HasPrefix(line, "#"):
			heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
	}
	if open != nil {
		t.Fatalf("%s has no end", open.name)
	}
	return found
}

// command is a line of a console block, and the output that stands below it.
type command struct {
	line string
	want string // … stands for any text on its line, and alone on a line for any number of lines
}

func commands(t *testing.T, b block) []command {
	t.Helper()
	var list []command
	for line := range strings.Lines(b.text) {
		switch text, prompt := strings.CutPrefix(line, "$ "); {
		case prompt:
			list = append(list, command{line: strings.TrimSpace(text)})
		case len(list) == 0:
			t.Fatalf("%s begins with output", b.name)
		default:
			list[len(list)-1].want += line
		}
	}
	return list
}

// matches reports whether an output is the one that a page has.
func matches(want, got string) bool {
	pattern := regexp.MustCompile(`(?m)^…\n`).ReplaceAllString(regexp.QuoteMeta(want), `(?:.*\n)*`)
	pattern = strings.ReplaceAll(pattern, "…", ".*")
	return regexp.MustCompile(`\A` + pattern + `\z`).MatchString(got)
}

// asPackage makes a Go file of fragments. Paragraphs are alternatives, so each is a function.
func asPackage(fragments []string) string {
	var b strings.Builder
	b.WriteString(`package snippets

import (
	"context"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
)

var _ = os.Getenv
`)
	declared := regexp.MustCompile(`(?m)^(\w+(?:, \w+)*) :=`)
	for _, fragment := range fragments {
		for paragraph := range strings.SplitSeq(strings.TrimSpace(fragment), "\n\n") {
			b.WriteString("\nfunc _(ctx context.Context, pool *pgxpool.Pool, registry *backfill.Registry) {\n" + paragraph + "\n")
			for _, match := range declared.FindAllStringSubmatch(paragraph, -1) {
				for name := range strings.SplitSeq(match[1], ", ") {
					b.WriteString("_ = " + name + "\n")
				}
			}
			b.WriteString("}\n")
		}
	}
	return b.String()
}

// The part of YAML that readYAML takes: lines with an item, a key, or both, and scalars that need no quotes.
var (
	yamlLine   = regexp.MustCompile(`^((?:  )*)(- )?(?:([a-z][a-zA-Z_-]*|[A-Z_]+):(?: |$))?(.*)$`)
	yamlScalar = regexp.MustCompile(`^([^!&*\[\]{}|>@` + "`" + `"'%#,? -]|-[^ ])(:[^ ]|[^: ]| [^#])*$`)
)

// readYAML reads the part of YAML that workflows need, and refuses the rest. The result has each scalar behind its path, as in
// "jobs/check/steps/[0]/uses".
func readYAML(text string) ([][2]string, error) {
	var scalars [][2]string
	var path []string // by level of indentation
	items := map[string]int{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		match := yamlLine.FindStringSubmatch(line)
		level, item, key, value := len(match[1])/2, match[2] != "", match[3], match[4]
		if level > len(path) || key == "" && !item || key == "" && value == "" {
			return nil, fmt.Errorf("line %q: want a key or an item, indented by two spaces a level", line)
		}
		if value != "" && !yamlScalar.MatchString(value) {
			return nil, fmt.Errorf("line %q: want a plain scalar", line)
		}
		path = path[:level]
		if item {
			list := strings.Join(path, "/")
			path = append(path, fmt.Sprintf("[%d]", items[list]))
			items[list]++
		}
		if key != "" {
			path = append(path, key)
		}
		if value != "" {
			scalars = append(scalars, [2]string{strings.Join(path, "/"), value})
			path = path[:len(path)-1]
		}
	}
	return scalars, nil
}
