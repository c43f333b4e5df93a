package backfill_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
)

// nilError has a method that panics on a nil pointer, as many do.
type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

func TestErrorText(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		err  error
		want string
	}{
		"plain":         {errors.New("no such user"), "no such user"},
		"wrapped":       {fmt.Errorf("send: %w", errors.New("refused")), "send: refused"},
		"NUL":           {errors.New("a\x00b\x00"), "ab"},
		"not UTF-8":     {errors.New("a\xff\xfeb"), "a\uFFFDb"},
		"empty":         {errors.New(""), "error of type *errors.errorString without a message"},
		"blank":         {errors.New(" \t"), "error of type *errors.errorString without a message"},
		"only NUL":      {errors.New("\x00"), "error of type *errors.errorString without a message"},
		"nil pointer":   {(*nilError)(nil), "error of type *backfill_test.nilError without a message"},
		"lines":         {errors.New("a\n\tb"), "a\n\tb"},
		"password":      {errors.New("dial postgres://app:s3cr3t@db/shop"), "dial postgres://app:***@db/shop"},
		"cut password":  {errors.New(strings.Repeat("x", 9_980) + " postgres://app:s3cr3t@db/shop"), strings.Repeat("x", 9_980) + " postgres: … (cut)"},
		"cut long":      {errors.New(strings.Repeat("x", 9_900) + " u://app:" + strings.Repeat("s3cr3t", 400) + "@db y"), strings.Repeat("x", 9_900) + " u://app:***@db y"},
		"half a word":   {errors.New(strings.Repeat("token="+strings.Repeat("s3cr3t", 100)+" ", 22) + " u://app:" + strings.Repeat("s3cr3t", 400)), strings.Repeat("token=*** ", 22) + " … (cut)"},
		"as long as":    {errors.New(strings.Repeat("x", 10_000)), strings.Repeat("x", 10_000)},
		"longer":        {errors.New(strings.Repeat("x", 10_001)), strings.Repeat("x", 9_990) + " … (cut)"},
		"not in two":    {errors.New(strings.Repeat("€", 4_000)), strings.Repeat("€", 3_330) + " … (cut)"},
		"grows by that": {errors.New(strings.Repeat("a\xff", 5_000)), strings.Repeat("a\uFFFD", 2_497) + "a … (cut)"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, backfill.ErrorText(test.err)); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
		})
	}
}

// What is recorded of an error can be stored: valid UTF-8, no NUL, bounded, not empty.
func FuzzErrorText(f *testing.F) {
	f.Add("x", 1)
	f.Add("a\x00\xff\xed\xa0\x80€", 3000)
	f.Add("\xe2\x82", 9_999)
	f.Fuzz(func(t *testing.T, part string, times int) {
		text := strings.Repeat(part, max(0, min(times, 20_000/(len(part)+1))))
		got := backfill.ErrorText(errors.New(text))
		if got == "" || !utf8.ValidString(got) || strings.ContainsRune(got, 0) || len(got) > backfill.MaxErrorText {
			t.Errorf("%d bytes: %q", len(got), got)
		}
		if fine := len(text) <= backfill.MaxErrorText && utf8.ValidString(text) && !strings.ContainsRune(text, 0); fine &&
			strings.TrimSpace(text) != "" && got != text {
			t.Errorf("changed %q to %q", text, got)
		}
	})
}
