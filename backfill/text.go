package backfill

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/backfillhq/go/internal/mask"
)

const (
	maxErrorText = 10_000               // bytes of an error that the database keeps
	maxErrorRead = maxErrorText + 4_000 // bytes of it that are looked at, so that a secret at the end is whole
	cutMark      = " … (cut)"
)

// errorText is what the database keeps of an error: its message as valid UTF-8 without NUL and
// without secrets that it may quote, at most 10,000 bytes, never empty.
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

// tidy returns an error for observers and the log: err itself, unless its text has to be changed to
// be stored. errors.Is and errors.As find in the result what they find in err.
func tidy(err error) error {
	if err == nil {
		return nil
	}
	text, ok := message(err)
	switch tidied := sanitize(text); {
	case !ok:
		return errors.New(errorText(err)) // loggers and observers should not meet the panic
	case tidied != text:
		return &tidyError{tidied, err}
	}
	return err
}

// tidyError is an error with another text.
type tidyError struct {
	text string
	err  error
}

func (e *tidyError) Error() string { return e.text }
func (e *tidyError) Unwrap() error { return e.err }

func sanitize(s string) string {
	whole := len(s) <= maxErrorRead
	if !whole {
		s = cut(s, maxErrorRead)
		if i := strings.LastIndexFunc(s, unicode.IsSpace); i > maxErrorText { // the last word may be half a secret
			s = s[:i]
		}
	}
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
	s = mask.Secrets(s)
	if !whole || len(s) > maxErrorText {
		s = cut(s, maxErrorText-len(cutMark)) + cutMark
	}
	return s
}

// maskAttr hides secrets in an attribute of a log record.
func maskAttr(attr slog.Attr) slog.Attr {
	switch attr.Value.Kind() {
	case slog.KindString:
		attr.Value = slog.StringValue(mask.Secrets(attr.Value.String()))
	case slog.KindAny:
		if err, ok := attr.Value.Any().(error); ok {
			attr.Value = slog.AnyValue(tidy(err))
		}
	default: // our records have neither groups nor values that say themselves what they are
	}
	return attr
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
