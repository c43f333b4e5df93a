package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"
	"testing"
)

// shown redacts for somebody who may see values.
func shown(a *Admin, payload string) *redaction {
	return a.redact(context.Background(), Target{Kind: KindJob, Task: "t"}, []byte(payload))
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for payload, want := range map[string]string{
		`{"user": "ada", "password" : "hunter22"}`:               `{"user": "ada", "password" : "[redacted]"}`,
		`{"a":[{"api_key":{"x":[1,2]},"b":1e400}]}`:              `{"a":[{"api_key":"[redacted]","b":1e400}]}`,
		"{\"n\":12345678901234567890.000 ,\n \"b\":\"\\ud800\"}": "{\"n\":12345678901234567890.000 ,\n \"b\":\"\\ud800\"}",
		`{"token":null,"tokens":1,"a/b~c":{"secret":[]}}`:        `{"token":"[redacted]","tokens":1,"a/b~c":{"secret":"[redacted]"}}`,
		`{"password":"one1","password":"two2"}`:                  `{"password":"[redacted]","password":"[redacted]"}`,
		`"text"`:                                                 `"text"`,
		`[]`:                                                     `[]`,
		`{`:                                                      `"[redacted]"`,
		``:                                                       `"[redacted]"`,
		`1 2`:                                                    `"[redacted]"`,
	} {
		r := shown(&Admin{}, payload)
		if string(r.payload) != want || r.hidden != (payload != want) {
			t.Errorf("%s is shown as %s (hidden %v), want %s", payload, r.payload, r.hidden, want)
		}
	}
}

// Without the right to values only the structure is shown.
func TestRedactValues(t *testing.T) {
	t.Parallel()
	a := &Admin{authorize: func(_ context.Context, _ Principal, action Action, _ Target) bool { return action == ActionRead }}
	r := shown(a, `{"a": [1, true, null, "four"], "b": {}, "password": {"c": 1}}`)
	const want = `{"a": ["[redacted]", "[redacted]", "[redacted]", "[redacted]"], "b": {}, "password": "[redacted]"}`
	if string(r.payload) != want {
		t.Errorf("it is shown as %s, want %s", r.payload, want)
	}
	if got := r.text("no four, but tru", false); got != "no [redacted], but tru" {
		t.Errorf("the text is %q", got)
	}
}

// What is hidden in a payload is hidden in texts, however it is written there.
func TestRedactTexts(t *testing.T) {
	t.Parallel()
	r := shown(&Admin{}, `{"password": "p\"ä/ss", "secret": {"deep": ["overlap", "lapping"], "short": "abc", "number": 123456}, "private_key": "-----BEGIN\nabcdefgh\n-----END"}`)
	for text, want := range map[string]string{
		`refused p"ä/ss here`:             `refused [redacted] here`,
		`refused p\"ä/ss here`:            `refused [redacted] here`,
		`refused p\"\u00e4/ss here`:       `refused [redacted] here`,
		`GET /?q=p%22%C3%A4%2Fss`:         `GET /?q=[redacted]`,
		`overlapping`:                     `[redacted]`,
		`abc 123456.`:                     `abc [redacted].`,
		`line abcdefgh, line`:             `line [redacted], line`,
		`postgres://u:secretpw@h/d fails`: `postgres://u:***@h/d fails`,
	} {
		if got := r.text(text, false); got != want {
			t.Errorf("%s is shown as %s, want %s", text, got, want)
		}
	}
	if got := r.text("cut amid overl", true); got != "cut amid [redacted]" {
		t.Errorf("a text that was cut is %q", got)
	}
	if got := r.text("not cut amid overl", false); got != "not cut amid overl" {
		t.Errorf("a text that was not cut is %q", got)
	}
	var many []string
	for i := range mostHidden + 1 {
		many = append(many, fmt.Sprintf("value %d", i))
	}
	list, _ := json.Marshal(map[string]any{"secret": many})
	if got := shown(&Admin{}, string(list)).text("anything", false); got != Redacted {
		t.Errorf("with too many hidden values a text is %q", got)
	}
	if got := shown(&Admin{}, "no JSON").text("anything", false); got != Redacted {
		t.Errorf("with an unknown payload a text is %q", got)
	}
}

func TestUnredact(t *testing.T) {
	t.Parallel()
	const stored = `{"password":"hunter22","list":[{"token":"t1","n":1},{"token":"t2","n":2}],"note":"say [redacted]","big":1e400}`
	a := &Admin{}
	target := Target{Kind: KindJob, Task: "t"}
	for edited, want := range map[string]string{
		`{"password":"[redacted]","list":[{"token":"[redacted]","n":7},{"token":"[redacted]","n":2}],"note":"say [redacted]","big":1e400}`: `{"password":"hunter22","list":[{"token":"t1","n":7},{"token":"t2","n":2}],"note":"say [redacted]","big":1e400}`,
		`{"password":"new one"}`:                            `{"password":"new one"}`,
		`{"list":[{"n":1}]}`:                                `{"list":[{"n":1}]}`,
		`{"user":"[redacted]"}`:                             "",
		`{"password":"Bearer [redacted]"}`:                  "",
		`{"note":"[redacted]","password":1}`:                "",
		`{"list":[{"token":"[redacted]"}]}`:                 "",
		`{"password":"[redacted]","password":"[redacted]"}`: "",
		`{"password":`:                                      "",
	} {
		got, err := a.unredact(context.Background(), target, json.RawMessage(stored), json.RawMessage(edited))
		if string(got) != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s becomes %s, %v, want %s", edited, got, err, want)
		}
	}
}

// TestRedactDepth goes deeper than any payload that encoding/json writes.
func TestRedactDepth(t *testing.T) {
	t.Parallel()
	for levels, want := range map[int]bool{1_000: true, maxDepth: true, maxDepth + 1: false} {
		payload := strings.Repeat("[", levels) + strings.Repeat("]", levels)
		if got := string(shown(&Admin{}, payload).payload) == payload; got != want {
			t.Errorf("%d levels are shown: %v, want %v", levels, got, want)
		}
	}
}

// Whatever is hidden: the rest stays as it is, byte for byte; nothing of the hidden values is left in the payload or in a
// text; and an edit that changes nothing gives back what is stored.
func FuzzRedact(f *testing.F) {
	f.Add(`{"a":{"b":[1,"text",null]},"c":"\u0000"}`, uint64(3), "a text with text", true)
	f.Add(`[[["[redacted]"]],{"a/b":1.50,"a/b":2}]`, uint64(77), "1.50", false)
	f.Add(` {"x" : [ ] , "y":{"z":"0123"}} `, uint64(5), "0123", true)
	seed := maphash.MakeSeed()
	f.Fuzz(func(t *testing.T, payload string, salt uint64, text string, values bool) {
		a := &Admin{
			hide: func(_, path string) bool { return maphash.String(seed, path+strconv.FormatUint(salt, 10))%4 == 0 },
			authorize: func(_ context.Context, _ Principal, action Action, _ Target) bool {
				return values || action == ActionRead
			},
		}
		r := shown(a, payload)
		valid := json.Valid([]byte(payload))
		if !json.Valid(r.payload) {
			t.Fatalf("%q is shown as %q, which is no JSON", payload, r.payload)
		}
		if !valid {
			if string(r.payload) != strconv.Quote(Redacted) {
				t.Fatalf("%q is no JSON, and is shown as %q", payload, r.payload)
			}
			return
		}
		var hidden []string
		masked := map[string]bool{}
		whole := 0
		if err := walkJSON([]byte(payload), a.hides("t"), func(v jsonValue) {
			if v.hidden || !values && !v.container {
				if !v.within {
					whole++
				}
				if v.scalar != nil {
					hidden = append(hidden, formsOf(v.scalar, []byte(payload)[v.from:v.to])...)
				}
			} else if holdsMask(v.scalar) {
				masked[v.path] = true
			}
		}); err != nil {
			t.Fatal(err)
		}
		if (whole > 0) != r.hidden || whole == 0 && string(r.payload) != payload {
			t.Fatalf("%d values of %q are hidden, and it is shown as %q", whole, payload, r.payload)
		}
		if masks := bytes.Count(r.payload, []byte(Redacted)); masks < whole {
			t.Fatalf("%d values of %q are hidden, and %q has %d masks", whole, payload, r.payload, masks)
		}
		if !r.noTexts {
			clear := strings.ReplaceAll(r.text(text, false), Redacted, "\x00")
			for _, value := range hidden {
				if strings.Contains(clear, value) && !strings.Contains(Redacted, value) && !strings.Contains(value, "*") {
					t.Fatalf("%q is hidden in %q, and in the text as %q", value, payload, clear)
				}
			}
		}
		back, err := a.unredact(context.Background(), Target{Task: "t"}, json.RawMessage(payload), r.payload)
		if err != nil || string(back) != payload {
			t.Fatalf("%q is shown as %q, and becomes %q, %v", payload, r.payload, back, err)
		}
	})
}
