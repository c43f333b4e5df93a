package directive

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

const (
	separators = ":.;=/|-_,\uff1a" // U+FF1A is the colon of East Asian keyboards

	// The lengths that a misspelt backfill or backfillgen can have.
	minWord, maxWord = len("backfill") - 2, len("backfillgen") + 2
)

// Near reports whether a comment that is no directive was probably meant to be one, and what to
// write then: //backfil:task, // backfill:task and /*backfill:task*/ were. verbs are those that
// there are. A comment that is prose, commented code, or an example in a doc comment, which has a
// space and slashes of its own, is not near.
func Near(comment string, verbs []string) (want string, ok bool) {
	switch {
	case Is(comment):
		return "", false
	case !strings.HasPrefix(comment, "/*"):
		return nearLine(strings.TrimPrefix(comment, "//"), verbs)
	}
	for line := range strings.Lines(strings.TrimSuffix(strings.TrimPrefix(comment, "/*"), "*/")) {
		if starred := strings.TrimLeftFunc(line, unicode.IsSpace); strings.HasPrefix(starred, "*") {
			line = starred
		}
		if want, ok := nearLine(line, verbs); ok {
			return want, true
		}
	}
	return "", false
}

func nearLine(line string, verbs []string) (want string, ok bool) {
	text := strings.TrimLeft(line, "/*!")
	trimmed := strings.TrimLeftFunc(text, unicode.IsSpace)
	spaced := trimmed != text
	trimmed = strings.TrimLeft(strings.TrimPrefix(trimmed, "go:"), "+@#")
	rest, ok := cutTool(trimmed)
	if !ok {
		return "", false
	}
	verbAt := strings.TrimLeftFunc(rest, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(separators, r) })
	separator := rest[:len(rest)-len(verbAt)]
	verb, options := cutLetters(verbAt)
	known := nearest(strings.ToLower(verb), verbs)
	if known == "" || separator == "" {
		return "", false
	}
	next, _ := utf8.DecodeRuneInString(options)
	ends := options == "" || unicode.IsSpace(next)
	switch strict := spaced || strings.ContainsFunc(separator, unicode.IsSpace); {
	case strict && !likeOptions(options):
		return "", false // prose
	case strings.TrimSpace(separator) == "." && (!ends || unicode.IsUpper(rune(verb[0])) && strings.TrimSpace(options) == ""):
		return "", false // commented code, or a link to package backfill
	}
	return Prefix + known, true
}

// cutTool cuts backfill or backfillgen off, as they may be misspelt.
func cutTool(text string) (rest string, ok bool) {
	word, rest := cutLetters(text)
	if strings.EqualFold(word, "back") { // back-fill
		if second, after := cutLetters(strings.TrimLeft(rest, "-_ ")); second != "" && len(rest) > len(after)+len(second) {
			word, rest = word+second, after
		}
	}
	if len(word) < minWord || len(word) > maxWord || !strings.ContainsAny(word, "fFkK") { // as nearly all comments
		return "", false
	}
	return rest, nearest(strings.ToLower(word), []string{"backfill", "backfillgen"}) != ""
}

func cutLetters(text string) (letters, rest string) {
	end := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsLetter(r) })
	if end < 0 {
		end = len(text)
	}
	return text[:end], text[end:]
}

// nearest returns the word that was meant, or "" if none was. Of a long word, two letters may be
// wrong; of a short one, one.
func nearest(written string, words []string) string {
	for _, word := range words {
		if written == word || written == word+"s" {
			return word
		}
	}
	for _, word := range words {
		if len(written) >= len(word)-1 && written != "" && diag.Distance(written, word) <= len(word)/4 {
			return word
		}
	}
	return ""
}

// likeOptions reports whether a text is empty, begins with name=value, or is a crontab line.
func likeOptions(text string) bool {
	text = strings.TrimSpace(text)
	if text == "" || text[0] == '*' || text[0] == '@' || '0' <= text[0] && text[0] <= '9' {
		return true
	}
	_, rest := cutLetters(text)
	for rest != "" && rest[0] == '_' { // max_attempts
		_, rest = cutLetters(rest[1:])
	}
	return len(rest) < len(text) && strings.HasPrefix(strings.TrimLeft(rest, " "), "=")
}
