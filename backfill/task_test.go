package backfill_test

import (
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/backfillhq/go/backfill"
)

func fullTask() *backfill.Task[mailArgs] {
	return &backfill.Task[mailArgs]{
		Name:        "send_email",
		Queue:       func(a mailArgs) string { return "user:" + a.Template },
		Key:         func(a mailArgs) string { return "welcome:" + a.Template },
		KeyMode:     backfill.PreserveRunAt,
		Priority:    backfill.PriorityFastHigh,
		MaxAttempts: 5,
		Delay:       time.Minute,
		Timeout:     30 * time.Second,
		Flags:       []string{"mail"},
		Backoff:     backfill.FastBackoff(),
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	at := time.Date(2030, 1, 2, 3, 4, 5, 6000, time.UTC)
	plain := &backfill.Task[mailArgs]{Name: "plain"}
	args := mailArgs{UserID: 7, Template: "x"}
	const json7 = `{"user_id":7,"template":"x"}`
	full := backfill.Request{
		Task: "send_email", Args: raw(json7), Queue: "user:x", Key: "welcome:x", KeyMode: backfill.PreserveRunAt,
		Priority: -10, MaxAttempts: 5, Delay: time.Minute, Flags: []string{"mail"},
	}
	with := func(change func(*backfill.Request)) backfill.Request {
		r := full
		change(&r)
		return r
	}
	preset := func(b backfill.Backoff) backfill.Request {
		return (&backfill.Task[mailArgs]{Name: "plain", Backoff: b}).Request(args)
	}
	tests := map[string]struct {
		got, want backfill.Request
	}{
		"nothing set":              {plain.Request(args), backfill.Request{Task: "plain", Args: raw(json7)}},
		"descriptor":               {fullTask().Request(args), full},
		"nil option":               {fullTask().Request(args, nil), full},
		"delay":                    {fullTask().Request(args, backfill.Delay(0)), with(func(r *backfill.Request) { r.Delay = 0 })},
		"run at":                   {fullTask().Request(args, backfill.RunAt(at)), with(func(r *backfill.Request) { r.RunAt, r.Delay = at, 0 })},
		"run at now":               {fullTask().Request(args, backfill.RunAt(time.Time{})), with(func(r *backfill.Request) { r.Delay = 0 })},
		"last wins":                {fullTask().Request(args, backfill.RunAt(at), backfill.Delay(time.Hour)), with(func(r *backfill.Request) { r.Delay = time.Hour })},
		"queue":                    {fullTask().Request(args, backfill.Queue("q")), with(func(r *backfill.Request) { r.Queue = "q" })},
		"no queue":                 {fullTask().Request(args, backfill.Queue("")), with(func(r *backfill.Request) { r.Queue = "" })},
		"key":                      {fullTask().Request(args, backfill.Key("k")), with(func(r *backfill.Request) { r.Key = "k" })},
		"key mode":                 {fullTask().Request(args, backfill.UnsafeDedupe), with(func(r *backfill.Request) { r.KeyMode = backfill.UnsafeDedupe })},
		"priority":                 {fullTask().Request(args, backfill.PriorityBulkDefault), with(func(r *backfill.Request) { r.Priority = 0 })},
		"any priority":             {fullTask().Request(args, backfill.Priority(-7)), with(func(r *backfill.Request) { r.Priority = -7 })},
		"max attempts":             {fullTask().Request(args, backfill.MaxAttempts(1)), with(func(r *backfill.Request) { r.MaxAttempts = 1 })},
		"flags":                    {fullTask().Request(args, backfill.Flags("a", "b")), with(func(r *backfill.Request) { r.Flags = []string{"a", "b"} })},
		"no flags":                 {fullTask().Request(args, backfill.Flags()), with(func(r *backfill.Request) { r.Flags = nil })},
		"attempts of fast":         {preset(backfill.FastBackoff()), backfill.Request{Task: "plain", Args: raw(json7), MaxAttempts: 3}},
		"attempts of aggressive":   {preset(backfill.AggressiveBackoff()), backfill.Request{Task: "plain", Args: raw(json7), MaxAttempts: 12}},
		"attempts of conservative": {preset(backfill.ConservativeBackoff()), backfill.Request{Task: "plain", Args: raw(json7), MaxAttempts: 5}},
		"key mode of a task without keys": {
			(&backfill.Task[mailArgs]{Name: "plain", KeyMode: backfill.UnsafeDedupe}).Request(args),
			backfill.Request{Task: "plain", Args: raw(json7)},
		},
		"key mode of the task for an optional key": {
			(&backfill.Task[mailArgs]{Name: "plain", KeyMode: backfill.UnsafeDedupe}).Request(args, backfill.Key("k")),
			backfill.Request{Task: "plain", Args: raw(json7), Key: "k", KeyMode: backfill.UnsafeDedupe},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, test.got, cmpopts.IgnoreUnexported(backfill.Request{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
			if err := test.got.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRequestProblems(t *testing.T) {
	t.Parallel()
	var none *backfill.Task[mailArgs]
	unkeyed := &backfill.Task[mailArgs]{Name: "t", Key: func(mailArgs) string { return "" }}
	tests := map[string]struct {
		request backfill.Request
		want    string // "": no problem
	}{
		"nil task":             {none.Request(mailArgs{}), "the *Task is nil"},
		"args":                 {(&backfill.Task[chan int]{Name: "t"}).Request(make(chan int)), "encode args: json: unsupported type: chan int"},
		"empty key":            {unkeyed.Request(mailArgs{}), "key is empty: want 1 to 512 characters"},
		"empty key mended":     {unkeyed.Request(mailArgs{}, backfill.Key("k")), ""},
		"empty key by option":  {fullTask().Request(mailArgs{}, backfill.Key("")), "key is empty: want 1 to 512 characters"},
		"key mode by option":   {(&backfill.Task[mailArgs]{Name: "t"}).Request(mailArgs{}, backfill.Replace), "key mode replace without a key"},
		"max attempts":         {fullTask().Request(mailArgs{}, backfill.MaxAttempts(0)), "max_attempts is 0: want 1 to 32767"},
		"unknown key mode":     {fullTask().Request(mailArgs{}, backfill.KeyMode("dedupe")), `unknown key mode "dedupe": want replace, preserve_run_at or unsafe_dedupe`},
		"negative delay":       {fullTask().Request(mailArgs{}, backfill.Delay(-time.Second)), "delay -1s is negative: use RunAt"},
		"negative max attempt": {fullTask().Request(mailArgs{}, backfill.MaxAttempts(-1)), "max_attempts is -1: want 1 to 32767"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantError(t, test.request.Validate(), test.want)
		})
	}
}

func TestRequestEncodesArgs(t *testing.T) {
	t.Parallel()
	type pair struct {
		A int `json:"a"`
	}
	check := func(name string, got backfill.Request, want string) {
		t.Helper()
		if err := got.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if string(got.Args) != want {
			t.Errorf("%s: got %s, want %s", name, got.Args, want)
		}
	}
	check("no args", requestOf(backfill.NoArgs{}), `{}`)
	check("struct", requestOf(pair{1}), `{"a":1}`)
	check("slice", requestOf([]pair{{1}, {2}}), `[{"a":1},{"a":2}]`)
	check("empty slice", requestOf([]pair{}), `[]`)
	check("nil slice", requestOf([]pair(nil)), `[]`)
	check("methods of pointers", requestOf(struct{ N big.Int }{*big.NewInt(1 << 60)}), `{"N":1152921504606846976}`)
	check("nil map", requestOf(map[string]int(nil)), `{}`)
	check("nil pointer", requestOf((*pair)(nil)), `{}`)
	check("nil interface", requestOf[any](nil), `{}`)
	check("nil raw", requestOf(json.RawMessage(nil)), `{}`)
	check("raw", requestOf(raw(`[1]`)), `[1]`)
	check("null on purpose", requestOf(raw(`null`)), `null`)
}

func requestOf[T any](args T) backfill.Request {
	return (&backfill.Task[T]{Name: "t"}).Request(args)
}

// wantError checks that err contains want, or is nil if want is empty.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("unexpected error: %v", err)
	case want != "" && err == nil:
		t.Errorf("no error, want %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("got error %q\nwant one with %q", err, want)
	}
}

func TestPriorities(t *testing.T) {
	t.Parallel()
	got := []backfill.Priority{
		backfill.PriorityEmergency, backfill.PriorityFastHigh, backfill.PriorityFastDefault,
		backfill.PriorityBulkDefault, backfill.PriorityBulkLow, backfill.PriorityBulkLowest,
	}
	if diff := cmp.Diff([]backfill.Priority{-20, -10, -5, 0, 5, 10}, got); diff != "" {
		t.Error(diff)
	}
}
