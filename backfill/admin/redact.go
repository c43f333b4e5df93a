package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/backfillhq/go/internal/mask"
)

// Redacted stands where a value is hidden, as a string of JSON, or in a text.
const Redacted = "[redacted]"

// WithRedaction says which values of payloads are hidden, wherever they are shown: those whose task
// and path hide is true of. The path is a JSON pointer (RFC 6901), such as /customer/cards/0/number,
// and "" is the payload as a whole; all that is below a hidden value is hidden. It is asked often, by
// several goroutines. Default: [DefaultRedaction].
func WithRedaction(hide func(task, path string) bool) Option { return func(a *Admin) { a.hide = hide } }

// DefaultRedaction hides what stands behind names of secrets, such as password, api_key or
// accessToken.
func DefaultRedaction(_, path string) bool {
	return mask.IsSecretName(unescapePointer.Replace(path[strings.LastIndexByte(path, '/')+1:]))
}

var (
	escapePointer   = strings.NewReplacer("~", "~0", "/", "~1")
	unescapePointer = strings.NewReplacer("~1", "/", "~0", "~")
)

const (
	// maxDepth is how deep a payload may be nested to be shown: encoding/json writes 10,000 levels.
	maxDepth = 9_000
	// leastHidden is how long a value has to be to be hidden in texts: shorter ones are everywhere.
	leastHidden = 4
	// mostHidden is how many different values are looked for in texts. If more are hidden, no text is
	// shown.
	mostHidden = 1_000
)

// redaction is a payload as it may be shown, and what that means for texts about its job. This is the
// one place that hides anything: whatever shows something of a job gets it from here.
type redaction struct {
	payload []byte // JSON
	hidden  bool   // something of it is
	texts   []string
	noTexts bool // too much is hidden, or the payload is not known: none is shown
}

// redact hides what the principal may not see of a payload: what the redaction says, or, without the
// right to see values, all values.
func (a *Admin) redact(ctx context.Context, target Target, payload []byte) *redaction {
	values := a.may(ctx, ActionReadValues, target)
	r := &redaction{}
	var out bytes.Buffer
	done, seen := 0, map[string]bool{}
	err := walkJSON(payload, a.hides(target.Task), func(v jsonValue) {
		if v.hidden || !values && !v.container {
			if v.scalar != nil {
				for _, text := range formsOf(v.scalar, payload[v.from:v.to]) {
					seen[text] = true
				}
			}
			if v.within { // of a value that is hidden as a whole
				return
			}
			r.hidden = true
			out.Write(payload[done:v.from])
			out.WriteString(strconv.Quote(Redacted))
			done = v.to
		}
	})
	if err != nil {
		return &redaction{payload: []byte(strconv.Quote(Redacted)), hidden: true, noTexts: true}
	}
	out.Write(payload[done:])
	r.payload = out.Bytes()
	r.noTexts = len(seen) > mostHidden
	for text := range seen {
		if !strings.Contains(Redacted, text) {
			r.texts = append(r.texts, text)
		}
	}
	slices.Sort(r.texts)
	return r
}

// removed is what an edit of a payload means for texts about its job: the values that it has removed
// are hidden.
func removed(before, after []byte) *redaction {
	r := &redaction{}
	values := func(payload []byte) map[string]bool {
		found := map[string]bool{}
		err := walkJSON(payload, func(string) bool { return false }, func(v jsonValue) {
			if v.scalar != nil {
				for _, text := range formsOf(v.scalar, payload[v.from:v.to]) {
					found[text] = true
				}
			}
		})
		r.noTexts = r.noTexts || err != nil || len(found) > mostHidden
		return found
	}
	stay := values(after)
	for text := range values(before) {
		if !stay[text] && !strings.Contains(Redacted, text) {
			r.texts = append(r.texts, text)
		}
	}
	slices.Sort(r.texts)
	return r
}

// redactUnread is for a payload that cannot be read: what is hidden in texts is not known.
func (a *Admin) redactUnread(ctx context.Context, target Target) *redaction {
	return &redaction{noTexts: !a.may(ctx, ActionReadValues, target)}
}

// hides is the redaction of a task.
func (a *Admin) hides(task string) func(path string) bool {
	hide := a.hide
	if hide == nil {
		hide = DefaultRedaction
	}
	return func(path string) bool { return hide(task, path) }
}

// formsOf returns how a scalar may stand in a text: as it is, and escaped in the usual ways.
func formsOf(scalar json.Token, raw []byte) []string {
	switch value := scalar.(type) {
	case string:
		forms := []string{value, string(raw[1 : len(raw)-1])}
		quoted, ascii := strconv.Quote(value), strconv.QuoteToASCII(value)
		escaped, _ := json.Marshal(value)
		forms = append(forms, quoted[1:len(quoted)-1], ascii[1:len(ascii)-1], string(escaped[1:len(escaped)-1]),
			url.QueryEscape(value), url.PathEscape(value), strings.TrimSpace(value))
		for line := range strings.Lines(value) { // a log has them apart
			forms = append(forms, strings.TrimSpace(line))
		}
		return slices.DeleteFunc(forms, func(form string) bool { return utf8.RuneCountInString(form) < leastHidden })
	case json.Number:
		if len(raw) >= leastHidden {
			return []string{string(raw)}
		}
	}
	return nil
}

// text hides in an error, a stack, notes or an output what is hidden in the payload, and what looks
// like a secret by itself. A text that was cut may end amid a value.
func (r *redaction) text(text string, cut bool) string {
	if text == "" {
		return ""
	}
	if r.noTexts {
		return Redacted
	}
	var spans [][2]int
	for _, hidden := range r.texts {
		for from := 0; ; {
			at := strings.Index(text[from:], hidden)
			if at < 0 {
				break
			}
			spans = append(spans, [2]int{from + at, from + at + len(hidden)})
			from += at + 1 // they may overlap
		}
		if cut {
			for length := min(len(hidden)-1, len(text)); length > 0; length-- {
				if strings.HasSuffix(text, hidden[:length]) {
					spans = append(spans, [2]int{len(text) - length, len(text)})
					break
				}
			}
		}
	}
	return mask.Secrets(hideSpans(text, spans))
}

// hideSpans hides parts of a text, which may overlap.
func hideSpans(text string, spans [][2]int) string {
	slices.SortFunc(spans, func(a, b [2]int) int { return a[0] - b[0] })
	var out strings.Builder
	done := 0
	for i := 0; i < len(spans); {
		from, to := spans[i][0], spans[i][1]
		for i++; i < len(spans) && spans[i][0] <= to; i++ {
			to = max(to, spans[i][1])
		}
		out.WriteString(text[done:from])
		out.WriteString(Redacted)
		done = to
	}
	out.WriteString(text[done:])
	return out.String()
}

// unredact returns an edited payload with the values that were hidden in it when it was shown to this
// principal: a hidden field that still holds [Redacted] is what is stored, and one that was changed is
// what it was changed to. The mask anywhere else is ErrInvalid, as it would become a value. Elements
// cannot be added to an array, or removed, while something in it is hidden.
func (a *Admin) unredact(ctx context.Context, target Target, stored, edited json.RawMessage) (json.RawMessage, error) {
	values := a.may(ctx, ActionReadValues, target)
	hidden, plain, lengths := map[string][]json.RawMessage{}, map[string]json.Token{}, map[string]int{}
	err := walkJSON(stored, a.hides(target.Task), func(v jsonValue) {
		switch {
		case v.within:
		case v.hidden || !values && !v.container:
			hidden[v.path] = append(hidden[v.path], stored[v.from:v.to])
		case v.array:
			lengths[v.path] = v.length
		case holdsMask(v.scalar):
			plain[v.path] = v.scalar
		}
	})
	if err != nil {
		return nil, fmt.Errorf("the payload that is stored cannot be edited: %w", err)
	}
	var out bytes.Buffer
	var problems []error
	restored, done, editedLengths := map[string]int{}, 0, map[string]int{}
	err = walkJSON(edited, func(string) bool { return false }, func(v jsonValue) {
		if v.array {
			editedLengths[v.path] = v.length
		}
		if !holdsMask(v.scalar) {
			return
		}
		nth := restored[v.path]
		switch {
		case v.scalar == json.Token(Redacted) && nth < len(hidden[v.path]):
			restored[v.path]++
			out.Write(edited[done:v.from])
			out.Write(hidden[v.path][nth])
			done = v.to
		case v.scalar != plain[v.path]:
			problems = append(problems, fmt.Errorf("the value at %q holds %s, which stands for a hidden value, and would be stored: write the value", v.path, Redacted))
		}
	})
	if err != nil {
		return nil, invalid(fmt.Errorf("the payload: %w", err))
	}
	for path := range restored {
		for at := strings.LastIndexByte(path, '/'); at >= 0; at = strings.LastIndexByte(path[:at], '/') {
			if length, isArray := lengths[path[:at]]; isArray && editedLengths[path[:at]] != length {
				problems = append(problems, fmt.Errorf("the array at %q had %d elements, and has %d: while a value in it is hidden, none can be added or removed",
					path[:at], length, editedLengths[path[:at]]))
			}
		}
	}
	if len(problems) > 0 {
		return nil, invalid(errors.Join(problems[:min(len(problems), 10)]...))
	}
	out.Write(edited[done:])
	return out.Bytes(), nil
}

func holdsMask(scalar json.Token) bool {
	text, ok := scalar.(string)
	return ok && strings.Contains(text, Redacted)
}

// jsonValue is a value of a JSON text. Containers come behind what is in them.
type jsonValue struct {
	path      string
	from, to  int
	scalar    json.Token // nil for null and for containers
	container bool
	array     bool
	length    int  // of an array
	hidden    bool // it, or what it is in
	within    bool // what it is in is hidden
}

// jsonFrame is a container that is open.
type jsonFrame struct {
	value jsonValue
	key   bool // the next token is a name
	base  int  // the length of the path
}

var errTooDeep = fmt.Errorf("it is nested more than %d deep", maxDepth)

// walkJSON visits each value of a JSON text, of which it copies no number into a float. Hide is asked
// for each that is in no hidden one.
func walkJSON(data []byte, hide func(path string) bool, visit func(jsonValue)) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var open []jsonFrame
	var path []byte
	for {
		from := int(decoder.InputOffset())
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) && len(open) == 0 && from > 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("it is no JSON: %w", err)
		}
		to := int(decoder.InputOffset())
		for strings.IndexByte(" \t\r\n,:", data[from]) >= 0 {
			from++
		}
		var in *jsonFrame
		if len(open) > 0 {
			in = &open[len(open)-1]
		} else if from > 0 && len(bytes.Trim(data[:from], " \t\r\n")) > 0 {
			return errors.New("it is more than one value of JSON")
		}
		if token == json.Delim('}') || token == json.Delim(']') {
			closed := in.value
			closed.to = to
			open = open[:len(open)-1]
			visit(closed)
			continue
		}
		if in != nil && in.key {
			name, _ := token.(string)
			path = append(append(path[:in.base], '/'), escapePointer.Replace(name)...)
			in.key = false
			continue
		}
		v := jsonValue{from: from, to: to}
		if in != nil {
			if in.value.array {
				path = strconv.AppendInt(append(path[:in.base], '/'), int64(in.value.length), 10)
				in.value.length++
			} else {
				in.key = true
			}
			v.within = in.value.hidden
		}
		v.path = string(path)
		v.hidden = v.within || hide(v.path)
		if delim, opens := token.(json.Delim); opens {
			if len(open) == maxDepth {
				return errTooDeep
			}
			v.container, v.array = true, delim == '['
			open = append(open, jsonFrame{value: v, key: delim == '{', base: len(path)})
			continue
		}
		v.scalar = token
		visit(v)
	}
}
