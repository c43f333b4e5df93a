// Package diag collects what is wrong with a user's source, so that one run shows all of it.
package diag

import (
	"cmp"
	"fmt"
	"go/token"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// A Diagnostic is one thing that is wrong, and where.
type Diagnostic struct {
	Pos     token.Position // Line 0: the file as a whole
	Message string
	Hint    string // what to do, when the message does not say it; may be empty
	Warning bool   // it does not keep code from being generated
}

// A List collects diagnostics. The zero List is empty.
type List struct{ found []Diagnostic }

// Errorf adds an error.
func (l *List) Errorf(pos token.Position, format string, args ...any) {
	l.Add(Diagnostic{Pos: pos, Message: fmt.Sprintf(format, args...)})
}

// AddHint adds an error with a hint, which may be empty.
func (l *List) AddHint(pos token.Position, hint, format string, args ...any) {
	l.Add(Diagnostic{Pos: pos, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// Add adds d, unless the same was said at this place before: two tasks may share the args that are
// wrong.
func (l *List) Add(d Diagnostic) {
	if !slices.Contains(l.found, d) {
		l.found = append(l.found, d)
	}
}

// Errors counts the diagnostics that are not warnings.
func (l *List) Errors() int {
	count := 0
	for _, d := range l.found {
		if !d.Warning {
			count++
		}
	}
	return count
}

// Empty reports whether there are neither errors nor warnings.
func (l *List) Empty() bool { return len(l.found) == 0 }

// Sorted returns the diagnostics by file, line and column.
func (l *List) Sorted() []Diagnostic {
	return slices.SortedStableFunc(slices.Values(l.found), func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Pos.Filename, b.Pos.Filename), cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column))
	})
}

// WriteText writes the diagnostics for people and editors: file:line:col: message, the hint on an
// indented line of its own, and at the end how many errors there are. Paths are relative to dir
// where they are below it.
func (l *List) WriteText(w io.Writer, dir string) {
	for _, d := range l.Sorted() {
		text := d.Message
		if d.Warning {
			text = "warning: " + text
		}
		if d.Hint != "" {
			text += "\n\t" + d.Hint
		}
		if at := place(d.Pos, dir); at != "" {
			text = at + ": " + text
		}
		fmt.Fprintln(w, text)
	}
	switch n := l.Errors(); n {
	case 0:
	case 1:
		fmt.Fprintln(w, "1 error; nothing was written")
	default:
		fmt.Fprintf(w, "%d errors; nothing was written\n", n)
	}
}

// WriteGitHub writes the diagnostics as workflow commands of GitHub Actions, which shows them
// beside the lines of a change. It wants paths relative to the repository's root; prefix is the
// path from there to dir.
func (l *List) WriteGitHub(w io.Writer, dir, prefix string) {
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	for _, d := range l.Sorted() {
		command := "error"
		if d.Warning {
			command = "warning"
		}
		var at []string
		if d.Pos.Filename != "" {
			at = append(at, "file="+property.Replace(relative(d.Pos.Filename, dir, prefix)))
		}
		if d.Pos.Line > 0 {
			at = append(at, fmt.Sprintf("line=%d,col=%d", d.Pos.Line, d.Pos.Column))
		}
		text := d.Message
		if d.Hint != "" {
			text += "\n" + d.Hint
		}
		fmt.Fprintf(w, "::%s %s::%s\n", command, strings.Join(at, ","), data.Replace(text))
	}
}

func place(pos token.Position, dir string) string {
	pos.Filename = relative(pos.Filename, dir, "")
	if pos.Line == 0 {
		return pos.Filename
	}
	return pos.String()
}

// relative returns a path relative to a folder, if it is below that: the one from which prefix
// leads to dir.
func relative(path, dir, prefix string) string {
	rel, err := filepath.Rel(dir, path)
	if rel = filepath.Join(prefix, rel); err == nil && filepath.IsLocal(rel) {
		return filepath.ToSlash(rel)
	}
	return path
}
