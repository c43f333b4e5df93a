package directive_test

import (
	"go/token"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
)

var at = token.Position{Filename: "a.go", Offset: 100, Line: 7, Column: 1}

func TestParse(t *testing.T) {
	t.Parallel()
	tests := map[string]map[string]string{
		"//backfill:task":                                      {},
		"//backfill:task  \t":                                  {},
		"//backfill:task timeout=30s":                          {"timeout": "30s"},
		"//backfill:task a=1 b=2":                              {"a": "1", "b": "2"},
		`//backfill:task key="user {ID}" x=y`:                  {"key": "user {ID}", "x": "y"},
		`//backfill:task key="a\"b\tc\u00e4"`:                  {"key": "a\"b\tcä"},
		"//backfill:task key=`a\"b\\`":                         {"key": `a"b\`},
		"//backfill:task backoff=exp(1s,10m,1.5)":              {"backoff": "exp(1s,10m,1.5)"},
		"//backfill:task key=a=b":                              {"key": "a=b"},
		"//backfill:task größe=ü":                              {"größe": "ü"},
		"//backfill:task key=\"\"":                             {"key": ""},
		"//backfill:task\u00a0timeout=1s\u2003priority=\"-7\"": {"timeout": "1s", "priority": "-7"},
	}
	for text, want := range tests {
		var problems diag.List
		line := directive.Parse(text, at, &problems)
		got := map[string]string{}
		for _, option := range line.Options {
			got[option.Name] = option.Value
		}
		if diff := cmp.Diff(want, got); diff != "" || line.Verb != "task" || problems.Errors() != 0 {
			t.Errorf("%s: verb %q, problems %v, options (-want +got):\n%s", text, line.Verb, problems.Sorted(), diff)
		}
	}
}

// Every byte of a value has its place in the source, as far as the value is written as it is.
func TestPositions(t *testing.T) {
	t.Parallel()
	text := `//backfill:task timeout=30s key="user {ID}" alias="a\tb"`
	var problems diag.List
	line := directive.Parse(text, at, &problems)
	column := func(part string) int { return strings.Index(text, part) + 1 }
	for name, want := range map[string][2]int{
		"timeout": {column("timeout"), column("30s") + 1},
		"key":     {column("key"), column("user") + 1},
		"alias":   {column("alias"), column(`"a\tb"`)}, // an escape: the quote has to do
	} {
		option, ok := line.Option(name)
		if !ok || option.Pos.Column != want[0] || option.At(1).Column != want[1] || option.Pos.Line != 7 {
			t.Errorf("%s: name at %v, second byte of the value at %v, want columns %v", name, option.Pos, option.At(1), want)
		}
	}
	if _, ok := line.Option("absent"); ok {
		t.Error("there is an option that is absent")
	}
}

// Whatever stands in a comment: it is read to the end, and what is an option stands where its
// position says.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"//backfill:task timeout=30s key=\"a{B}\" x=`y`", "//backfill:task a = b", `//backfill:task "`, "//backfill:", "//backfill:task a=\"b\"c", "//backfill:task =", "//backfill:task \xff=\xfe a=\"\xff\"",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !directive.Is(text) {
			return
		}
		var problems diag.List
		line := directive.Parse(text, at, &problems)
		seen := map[string]bool{}
		for _, option := range line.Options {
			start := option.Pos.Column - at.Column
			end := option.Name + "="
			if option.Bare {
				end = option.Name
			}
			if start < 0 || !strings.HasPrefix(text[start:], end) {
				t.Errorf("option %q is not at column %d of %q", option.Name, option.Pos.Column, text)
			}
			if option.Name == "" || seen[option.Name] {
				t.Errorf("option %q twice, or without a name", option.Name)
			}
			seen[option.Name] = true
			for i := range len(option.Value) {
				if offset := option.At(i).Column - at.Column; offset < 0 || offset > len(text) {
					t.Errorf("byte %d of option %q is outside of the line", i, option.Name)
				}
			}
		}
		// Something that is not an option is reported.
		if rest := strings.TrimSpace(strings.TrimPrefix(text, directive.Prefix+line.Verb)); rest != "" && len(line.Options) == 0 && problems.Errors() == 0 {
			t.Errorf("nothing is said of %q", rest)
		}
		for _, problem := range problems.Sorted() {
			if problem.Pos.Column < 1 || problem.Pos.Column > len(text)+1 {
				t.Errorf("%v is outside of the line", problem)
			}
		}
	})
}
