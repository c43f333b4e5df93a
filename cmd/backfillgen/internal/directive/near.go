package directive

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

const (
	// brackets and quotes behind a word are of code, such as backfill(task), and separate nothing.
	brackets = "([{\"'`"

	// The lengths that a misspelt backfill or backfillgen can have.
	minWord, maxWord = len("backfill") - 2, len("backfillgen") + 2
)

var (
	// another is a directive of another tool with one of ours behind it, as a part of it.
	another = regexp.MustCompile(`^//[a-z0-9]+:[a-z0-9](?:[^/]|/[^/])* //backfill:([a-z]+)`)
	// suffix is what else the tool might be called, as in backfill-gen or backfill.io.
	suffix = regexp.MustCompile(`^[-_./](gen|go|io)\b`)
	// like matches what may be options: nothing, or the beginning of name=value or of a crontab line.
	like = regexp.MustCompile(`^\s*($|[*@0-9]|\pL[\pL_]* *=)`)
	// strong matches options that no prose has: name=value, or the fields of a crontab line.
	strong = regexp.MustCompile(`^\s+(\w+=\S|([*\d][\d*/,-]*\s+){4}[*\d]|@[a-z]+\s*$)`)
)

// Near reports whether a comment that is no directive was probably meant to be one, and what to
// write then: //backfil:task, // backfill:task and /*backfill:task*/ were. verbs are those that
// there are. A comment that is prose, commented code, or an example in a doc comment, which has a
// space and slashes of its own, is not near.
func Near(comment string, verbs []string) (want string, ok bool) {
	behind := another.FindStringSubmatch(comment)
	switch {
	case Is(comment):
		return "", false
	case behind != nil && slices.Contains(verbs, behind[1]):
		return Prefix + behind[1], true
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
	text := strings.TrimLeft(strings.Map(visible, line), "/*!")
	trimmed := strings.TrimLeftFunc(text, unicode.IsSpace)
	spaced := trimmed != text
	trimmed = strings.TrimLeftFunc(strings.TrimPrefix(trimmed, "go:"), marks)
	rest, ok := cutTool(trimmed, verbs)
	if !ok {
		return "", false
	}
	if !spaced && strings.Contains(rest, "=") && strong.MatchString(rest) {
		return Prefix + verbs[0], true // the verb is missing
	}
	tool := trimmed[:len(trimmed)-len(rest)]
	rest = suffix.ReplaceAllString(rest, "")
	verbAt := strings.TrimLeftFunc(rest, separates)
	separator := rest[:len(rest)-len(verbAt)]
	verb, options := cutLetters(verbAt)
	known := nearest(strings.ToLower(verb), verbs)
	if known == "" {
		return "", false
	}
	next, _ := utf8.DecodeRuneInString(options)
	ends := options == "" || unicode.IsSpace(next)
	// code is commented code, or a link to package backfill.
	code := separator == "." && (!ends || unicode.IsUpper(rune(verb[0])) && strings.TrimSpace(options) == "")
	tight, colon := separator != "" && !strings.ContainsFunc(separator, unicode.IsSpace), strings.ContainsAny(separator, ":\uff1a")
	switch {
	case tight && !spaced, strong.MatchString(options):
		ok = true
	case tight && colon:
		ok = like.MatchString(options)
	default: // prose, unless it has the right words
		ok = tool+verb == "backfill"+known && (colon || !spaced) && !strings.Contains(separator, "=") && like.MatchString(options)
	}
	if code || !ok {
		return "", false
	}
	return Prefix + known, true
}

// visible drops characters that nobody sees, such as the space of no width.
func visible(r rune) rune {
	if unicode.Is(unicode.Cf, r) {
		return -1
	}
	return r
}

func separates(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(brackets, r)
}

// marks reports whether a character in front of a word belongs to it, as in +word, @word or [word].
func marks(r rune) bool {
	return separates(r) && r != '/' && !unicode.IsSpace(r) || r == '[' || r == '"'
}

// cutTool cuts backfill or backfillgen off, as they may be misspelt, or one word with a verb.
func cutTool(text string, verbs []string) (rest string, ok bool) {
	word, rest := cutLetters(text)
	if strings.EqualFold(word, "back") { // back-fill
		if second, after := cutLetters(strings.TrimLeft(rest, "-_ ")); second != "" && len(rest) > len(after)+len(second) {
			word, rest = word+second, after
		}
	}
	if after, glued := strings.CutPrefix(strings.ToLower(word), "backfill"); glued && slices.Contains(verbs, after) {
		return text[len("backfill"):], true
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
