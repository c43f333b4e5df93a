package backfill

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	maxErrorText = 10_000 // bytes of an error that the database keeps
	cutMark      = " … (cut)"
)

// errorText is what the database keeps of an error: its message as valid UTF-8 without NUL, at most
// 10,000 bytes, never empty.
func errorText(err error) string {
	text, _ := message(err)
	if text = sanitize(text); strings.TrimSpace(text) == "" {
		return fmt.Sprintf("error of type %T without a message", err)
	}
	return text
}

// message returns the error's message. It reports false if the error's method panicked, as that of
// a nil pointer may.
func message(err error) (text string, ok bool) {
	defer func() {
		if recover() != nil {
			text, ok = "", false
		}
	}()
	return err.Error(), true
}

func sanitize(s string) string {
	whole := s
	s = cut(s, maxErrorText)
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
	if len(whole) > maxErrorText || len(s) > maxErrorText {
		s = cut(s, maxErrorText-len(cutMark)) + cutMark
	}
	return s
}

// cut returns at most n bytes of s and does not cut a character in two.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for back := 0; back < utf8.UTFMax && n > 0 && !utf8.RuneStart(s[n]); back++ {
		n--
	}
	return s[:n]
}
