package generate

import (
	"bytes"
	"go/scanner"
	"go/token"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/tools/go/packages"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
)

// reportNear reports the comments of a file that are no directives and were meant to be: nothing
// else would tell that a task is missing. It returns whether a directive of the file is indented,
// which a look at the beginnings of lines does not find.
func reportNear(p *packages.Package, path string, content []byte, problems *diag.List) (indented bool) {
	if isTest(path) || !maybeNear(content) {
		return false
	}
	for comment, pos := range comments(path, content) {
		switch want, near := directive.Near(comment, verbs); {
		case near && strings.HasPrefix(comment, "// backfill:"):
			problems.Errorf(pos, "a directive has no space after the slashes: write %s", want)
		case near:
			problems.Errorf(pos, "this is no directive, so it has no effect: write %s at the beginning of a line comment", want)
		case directive.Is(comment):
			indented = indented || pos.Column > 1 && slices.Contains(p.GoFiles, path)
		}
	}
	return indented
}

// enough bytes of a comment tell whether it may be near; the whole of it is looked at after that.
const enough = 100

// maybeNear looks behind everything that may begin a comment, strings included. It is fast because
// few files go on from here.
func maybeNear(content []byte) bool {
	for rest := content; ; {
		i := bytes.IndexByte(rest, '/')
		if i < 0 || i+1 >= len(rest) {
			return false
		}
		rest = rest[i:]
		if rest[1] != '/' && rest[1] != '*' {
			rest = rest[1:]
			continue
		}
		text := rest
		if rest[1] == '/' {
			text = rest[:min(len(rest), enough)]
			if end := bytes.IndexByte(text, '\n'); end >= 0 {
				text = text[:end]
			}
		} else if end := bytes.Index(rest, []byte("*/")); end >= 0 {
			text = rest[:end+2]
		}
		if rest = rest[2:]; text[1] == '/' && prosaic(text) {
			continue
		}
		if _, near := directive.Near(string(text), verbs); near || directive.Is(string(text)) {
			return true
		}
	}
}

// prosaic reports whether the first word of a comment is nothing like backfill, as that of nearly
// all comments.
func prosaic(comment []byte) bool {
	word := bytes.TrimLeftFunc(comment, func(r rune) bool { return r < utf8.RuneSelf && !unicode.IsLetter(r) })
	length, letters := 0, 0
	for length < len(word) && (word[length]|0x20 >= 'a' && word[length]|0x20 <= 'z' || word[length] >= utf8.RuneSelf) {
		if c := word[length] | 0x20; c == 'k' || c == 'f' {
			letters++
		}
		length++
	}
	return letters == 0 && !bytes.HasPrefix(word, []byte("go:")) && !bytes.Contains(comment, []byte(" "+directive.Prefix))
}

// comments are the comments of a file, whatever else is wrong with it.
func comments(path string, content []byte) func(yield func(string, token.Position) bool) {
	return func(yield func(string, token.Position) bool) {
		fset := token.NewFileSet()
		file := fset.AddFile(path, -1, len(content))
		var s scanner.Scanner
		s.Init(file, content, func(token.Position, string) {}, scanner.ScanComments)
		for {
			pos, kind, text := s.Scan()
			if kind == token.EOF || kind == token.COMMENT && !yield(text, fset.PositionFor(pos, false)) {
				return
			}
		}
	}
}
