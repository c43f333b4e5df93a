package diag_test

import (
	"go/token"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

func TestWriteText(t *testing.T) {
	t.Parallel()
	var list diag.List
	list.Errorf(token.Position{Filename: "/src/b.go", Line: 1, Column: 2}, "second %d", 2)
	list.Errorf(token.Position{Filename: "/src/a.go", Line: 10, Column: 1}, "first")
	list.Errorf(token.Position{Filename: "/src/a.go", Line: 9, Column: 30}, "zeroth")
	list.Errorf(token.Position{Filename: "/src/a.go", Line: 9, Column: 30}, "zeroth")
	list.Errorf(token.Position{Filename: "/elsewhere/c.go", Line: 1, Column: 1}, "outside")
	list.Add(diag.Diagnostic{Pos: token.Position{Filename: "/src/c.go"}, Message: "whole file", Hint: "do that", Warning: true})
	list.Add(diag.Diagnostic{Message: "nowhere"})
	var out strings.Builder
	list.WriteText(&out, "/src")
	want := `nowhere
/elsewhere/c.go:1:1: outside
a.go:9:30: zeroth
a.go:10:1: first
b.go:1:2: second 2
c.go: warning: whole file
	do that
5 errors; nothing was written
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What GitHub would take for a part of the command is escaped.
func TestWriteGitHub(t *testing.T) {
	t.Parallel()
	var list diag.List
	list.Add(diag.Diagnostic{Pos: token.Position{Filename: "/src/a,b:c.go", Line: 9, Column: 3}, Message: "100%", Hint: "do\nthat"})
	list.Add(diag.Diagnostic{Pos: token.Position{Filename: "/src/z.go"}, Message: "file", Warning: true})
	list.Add(diag.Diagnostic{Message: "nowhere"})
	var out strings.Builder
	list.WriteGitHub(&out, "/src", "")
	want := "::error ::nowhere\n::error file=a%2Cb%3Ac.go,line=9,col=3::100%25%0Ado%0Athat\n::warning file=z.go::file\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Paths start at the repository's root, wherever the folder is in it.
func TestWriteGitHubPrefix(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/src/app/sub/a.go": "app/sub/a.go", "/src/app/other/b.go": "app/other/b.go", "/src/c.go": "c.go", "/elsewhere/d.go": "/elsewhere/d.go",
	} {
		var list diag.List
		list.Errorf(token.Position{Filename: path, Line: 2, Column: 1}, "x")
		var out strings.Builder
		list.WriteGitHub(&out, "/src/app/sub", "app/sub")
		if got, want := out.String(), "::error file="+want+",line=2,col=1::x\n"; got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	t.Parallel()
	names := []string{"key", "key_mode", "max_attempts", "timeout"}
	for written, want := range map[string]string{
		"max_attemps": "max_attempts", "maxAttempts": "max_attempts", "MAX-ATTEMPTS": "max_attempts", "tiemout": "timeout", "kye": "key",
		"keymode": "key_mode", "retries": "", "": "", "x": "",
	} {
		if want != "" {
			want = "; did you mean " + want + "?"
		}
		if got := diag.DidYouMean(written, names); got != want {
			t.Errorf("%q: %q, want %q", written, got, want)
		}
	}
}
