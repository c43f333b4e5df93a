// Package mask hides secrets in texts that are stored, logged or shown. It goes by the forms in
// which secrets get into error texts: URLs, connection strings, headers, dumps of requests.
package mask

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Hidden stands where a secret was.
const Hidden = "***"

// placeholder is the password of URLs that say how to write one.
const placeholder = "password"

// Secrets returns the text without the secrets that it recognises: passwords in URLs, values whose
// names say that they are secret, credentials of an Authorization header, bearer tokens and JSON
// web tokens. Where it cannot tell where a secret ends, more is hidden rather than less.
func Secrets(text string) string {
	if strings.Contains(text, "://") {
		text = inURLs(text)
	}
	if strings.ContainsAny(text, ":=") {
		text = behindNames(text)
	}
	if strings.Contains(text, "earer") || strings.Contains(text, "EARER") {
		text = bearer.ReplaceAllStringFunc(text, hideBearer)
	}
	if strings.Contains(text, "eyJ") {
		text = webToken.ReplaceAllString(text, Hidden)
	}
	return text
}

// IsSecretName reports whether a name says that its value is secret, such as password, api_key or
// accessToken.
func IsSecretName(name string) bool { return kindOf(name) != public }

// inURLs hides what is between the user and the last @ before a space: a password may have any
// characters, also those that it should not have as they are.
func inURLs(text string) string {
	var out strings.Builder
	done, end, at := 0, 0, -1 // end and at are of the word that was looked at last: where it ends, and its last @
	for i := 0; ; {
		next := strings.Index(text[i:], "://")
		if next < 0 {
			break
		}
		scheme := i + next
		i = scheme + len("://")
		if i > end {
			end = i + lengthUntil(text[i:], isSpace)
			at = i + strings.LastIndexByte(text[i:end], '@')
		}
		colon := i + strings.IndexAny(text[i:end]+"/", ":/?#@\"'<>")
		if colon >= at || text[colon] != ':' || text[colon+1:at] == placeholder || isPort(text[:scheme], text[colon+1:at]) {
			continue
		}
		out.WriteString(text[done : colon+1])
		out.WriteString(Hidden)
		done, i = at, at
	}
	out.WriteString(text[done:])
	return out.String()
}

// isPort reports whether what is behind the colon, up to an @, is a port and what follows it. It is
// asked for the schemes of the web, whose paths, and texts around them, have an @ at times.
func isPort(before, after string) bool {
	before = strings.ToLower(before[max(0, len(before)-len("https")):])
	if !strings.HasSuffix(before, "http") && before != "https" && !strings.HasSuffix(before, "ws") && !strings.HasSuffix(before, "wss") {
		return false
	}
	digits := lengthUntil(after, func(r rune) bool { return r < '0' || r > '9' })
	return digits < len(after) && strings.IndexByte("/?#\"'<>,)]}", after[digits]) >= 0
}

// behindNames hides the values of secret names: in connection strings, in parameters of URLs, in
// JSON, in Go structs, in headers.
func behindNames(text string) string {
	var out strings.Builder
	done := 0
	for i := 0; i < len(text); i++ {
		if text[i] != ':' && text[i] != '=' {
			continue
		}
		name := nameBefore(text[done:i])
		kind := kindOf(name.text)
		if kind == public {
			continue
		}
		from, to := valueBehind(text, i, name, kind)
		if from == to {
			continue
		}
		out.WriteString(text[done:from])
		out.WriteString(Hidden)
		done = to
		i = to - 1
	}
	out.WriteString(text[done:])
	return out.String()
}

// name is a name that a value may follow.
type name struct {
	text   string
	quoted bool
	before byte // what is in front of it; 0: nothing
}

// nameBefore returns the name at the end of a text.
func nameBefore(text string) name {
	text = strings.TrimRight(text, " \t")
	bare := strings.TrimRight(text, `"'\`)
	start := len(bare)
	for start > 0 && isOfName(bare[start-1]) {
		start--
	}
	n := name{text: bare[start:], quoted: len(bare) < len(text)}
	if start > 0 {
		n.before = bare[start-1]
	}
	return n
}

func isOfName(c byte) bool {
	return c == '_' || c == '-' || c == '.' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// kind says what a name tells of its value.
type kind int

const (
	public      kind = iota
	secret           // the value is secret
	credentials      // it is, apart from the first of two words
)

// secretEnds are ends of names of secrets, without _ and -, and secretNames are names.
var (
	secretEnds = []string{
		"password", "passwd", "passphrase", "secret", "token", "apikey", "accesskey", "accountkey", "privatekey",
		"secretkey", "signingkey", "signature", "credential", "credentials",
	}
	secretNames = []string{"pwd", "pass", "sig"}
	unsigned    = strings.NewReplacer("_", "", "-", "")
)

func kindOf(text string) kind {
	const longest = 64
	text = strings.ToLower(unsigned.Replace(text[max(0, len(text)-longest):]))
	if strings.HasSuffix(text, "authorization") {
		return credentials
	}
	for _, end := range secretEnds {
		if strings.HasSuffix(text, end) {
			return secret
		}
	}
	if slices.Contains(secretNames, text[strings.LastIndexByte(text, '.')+1:]) {
		return secret
	}
	return public
}

// valueBehind returns where the value of a name begins and ends, whose : or = is at i; the same
// place if there is none that is secret.
func valueBehind(text string, i int, n name, k kind) (from, to int) {
	from = i + 1
	for from < len(text) && (text[from] == ' ' || text[from] == '\t') {
		from++
	}
	rest := text[from:]
	end := lengthUntil(rest, isSpace)
	switch {
	case rest == "" || end == 0:
		return from, from
	case k == credentials:
		from += lengthUntil(rest, func(r rune) bool { return !strings.ContainsRune(`["'\`, r) })
		word := lengthUntil(text[from:], func(r rune) bool { return r > unicode.MaxASCII || !isOfName(byte(r)) })
		if after := text[from+word:]; strings.HasPrefix(after, " ") && len(after) > 1 {
			from += word + 1
		}
		return from, from + lengthUntil(text[from:], func(r rune) bool { return isSpace(r) || strings.ContainsRune(`"'\`, r) })
	case n.before == '?' || n.before == '&':
		return from, from + lengthUntil(rest[:end], func(r rune) bool { return strings.ContainsRune(`&#"'<>`, r) })
	case rest[0] == '"' || rest[0] == '\'':
		return from + 1, from + quotedEnd(rest)
	case text[i] == ':' && from > i+1 && !n.quoted && isWord(rest[:end]):
		return from, from // "invalid token: unexpected"
	}
	return from, from + end
}

// quotedEnd returns where a value in quotes ends: at its closing quote, or at the end of the text.
func quotedEnd(text string) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case text[0]:
			return i
		}
	}
	return len(text)
}

func isWord(text string) bool {
	text = strings.TrimRight(text, ".,;:!?")
	return text != "" && lengthUntil(text, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsLetter(r) }) == len(text)
}

var (
	bearer   = regexp.MustCompile(`(?i)\bbearer\s+[a-z0-9._~+/=-]{8,}`)
	webToken = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`)
)

// hideBearer leaves "bearer authentication": a token has digits, signs or many letters.
func hideBearer(match string) string {
	const many = 20
	token := strings.TrimSpace(match[len("bearer"):])
	if len(token) < many && !strings.ContainsAny(token, "0123456789._~+/=-") {
		return match
	}
	return strings.TrimSuffix(match, token) + Hidden
}

// isSpace reports whether a character ends a word. Others that Unicode counts as spaces may be in a
// password.
func isSpace(r rune) bool { return r == ' ' || '\t' <= r && r <= '\r' }

// lengthUntil returns how long a text is before the first character that is one of these.
func lengthUntil(text string, stop func(rune) bool) int {
	if i := strings.IndexFunc(text, stop); i >= 0 {
		return i
	}
	return len(text)
}
