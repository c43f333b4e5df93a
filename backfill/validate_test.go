package backfill_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/wire"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	chars := func(n int) string { return strings.Repeat("é", n) } // two bytes each: lengths are in characters
	deep := raw(strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000))
	type request = backfill.Request
	tests := map[string]struct {
		request request
		want    string // "": valid
	}{
		"name empty":          {request{}, `task name is empty: want 1 to 128 characters`},
		"name 1":              {request{Task: "t"}, ""},
		"name 128":            {request{Task: chars(128)}, ""},
		"name 129":            {request{Task: chars(129)}, "task name has 129 characters: at most 128"},
		"name NUL":            {request{Task: "a\x00b"}, `task name "a\x00b" contains a NUL`},
		"name UTF-8":          {request{Task: "a\xff"}, `task name "a\xff" is not valid UTF-8`},
		"queue 128":           {request{Task: "t", Queue: chars(128)}, ""},
		"queue 129":           {request{Task: "t", Queue: chars(129)}, "queue has 129 characters: at most 128"},
		"queue NUL":           {request{Task: "t", Queue: "\x00"}, "queue"},
		"queue UTF-8":         {request{Task: "t", Queue: "\xc0"}, "queue"},
		"key 512":             {request{Task: "t", Key: chars(512)}, ""},
		"key 513":             {request{Task: "t", Key: chars(513)}, "key has 513 characters: at most 512"},
		"key NUL":             {request{Task: "t", Key: "k\x00"}, "key"},
		"key UTF-8":           {request{Task: "t", Key: "k\xed\xa0\x80"}, "key"},
		"key mode":            {request{Task: "t", Key: "k", KeyMode: "x"}, "unknown key mode"},
		"key mode alone":      {request{Task: "t", KeyMode: backfill.UnsafeDedupe}, "key mode unsafe_dedupe without a key"},
		"max_attempts 1":      {request{Task: "t", MaxAttempts: 1}, ""},
		"max_attempts 32767":  {request{Task: "t", MaxAttempts: 32767}, ""},
		"max_attempts 32768":  {request{Task: "t", MaxAttempts: 32768}, "max_attempts is 32768: want 1 to 32767"},
		"priority":            {request{Task: "t", Priority: -32768}, ""},
		"flags":               {request{Task: "t", Flags: []string{"a", "a"}}, ""},
		"flag empty":          {request{Task: "t", Flags: []string{"a", ""}}, "flag 1 is empty"},
		"flag NUL":            {request{Task: "t", Flags: []string{"\x00"}}, "NUL"},
		"flag UTF-8":          {request{Task: "t", Flags: []string{"\xff"}}, "UTF-8"},
		"delay and run at":    {request{Task: "t", Delay: 1, RunAt: time.Now()}, "both run_at and delay are set"},
		"delay negative":      {request{Task: "t", Delay: -1}, "delay -1ns is negative"},
		"run at first":        {request{Task: "t", RunAt: time.Date(-4713, 11, 24, 0, 0, 0, 0, time.UTC)}, ""},
		"run at before":       {request{Task: "t", RunAt: time.Date(-4713, 11, 23, 23, 59, 59, 999999999, time.UTC)}, "run_at in the year -4713"},
		"run at last":         {request{Task: "t", RunAt: time.Date(294276, 12, 31, 23, 59, 59, 999999000, time.UTC)}, ""},
		"run at after":        {request{Task: "t", RunAt: time.Date(294277, 1, 1, 0, 0, 0, 0, time.UTC)}, "run_at in the year 294277"},
		"args null":           {request{Task: "t", Args: raw("null")}, ""},
		"args array":          {request{Task: "t", Args: raw(" [1, 2]\n")}, ""},
		"args not JSON":       {request{Task: "t", Args: raw("{a:1}")}, "args are not valid JSON"},
		"args two values":     {request{Task: "t", Args: raw("{}{}")}, "args are not valid JSON"},
		"args blank":          {request{Task: "t", Args: raw(" ")}, "args are not valid JSON"},
		"args UTF-8":          {request{Task: "t", Args: raw("\"\xff\"")}, "args are not valid UTF-8"},
		"args too deep":       {request{Task: "t", Args: deep}, "args are not valid JSON"},
		"args too long":       {request{Task: "t", Args: make(json.RawMessage, backfill.MaxArgsBytes+1)}, "args have 268435457 bytes: at most 268435456 (256 MiB)"},
		"args NUL":            {request{Task: "t", Args: raw(`["\u0000"]`)}, ""},
		"args NUL keyed":      {request{Task: "t", Key: "k", Args: raw(` ["\\\u0000"]`)}, `args contain \u0000`},
		"args backslash":      {request{Task: "t", Key: "k", Args: raw(`["\\u0000"]`)}, ""},
		"args half a pair":    {request{Task: "t", Key: "k", Args: raw(`["\ud83d"]`)}, "half a surrogate pair"},
		"args pair":           {request{Task: "t", Key: "k", Args: raw(`["\ud83d\ude00"]`)}, ""},
		"args number":         {request{Task: "t", Key: "k", Args: raw(`[1e131072]`)}, "too many digits"},
		"args NUL keyed once": {request{Task: "t", Key: "k", Args: raw(`{"a":"\u0000"}`)}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantError(t, test.request.Validate(), test.want)
		})
	}
}

func TestNewSpecs(t *testing.T) {
	t.Parallel()
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	got, err := backfill.NewSpecs([]backfill.Request{
		{Task: "a"},
		{
			Task: "b", Args: raw(`[1, 2]`), Queue: "q", Key: "k", KeyMode: backfill.PreserveRunAt, Priority: -32768,
			MaxAttempts: 32767, RunAt: at, Flags: []string{"f"},
		},
		{Task: "c", Key: "k", KeyMode: backfill.UnsafeDedupe, Delay: time.Hour},
		{Task: "d", Key: "k", KeyMode: backfill.Replace},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []wire.Spec{
		{Task: "a", Payload: []byte(`{}`), MaxAttempts: 25},
		{
			Task: "b", Payload: []byte(`[1, 2]`), Queue: "q", Key: "k", KeyMode: wire.KeyPreserveRunAt, Priority: -32768,
			MaxAttempts: 32767, RunAt: at, Flags: []string{"f"},
		},
		{Task: "c", Payload: []byte(`{}`), Key: "k", KeyMode: wire.KeyUnsafeDedupe, MaxAttempts: 25, Delay: time.Hour},
		{Task: "d", Payload: []byte(`{}`), Key: "k", KeyMode: wire.KeyReplace, MaxAttempts: 25},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("specs (-want +got):\n%s", diff)
	}
}

// All problems of all requests are reported at once, with task and index, and nothing is converted.
func TestNewSpecsReportsEverything(t *testing.T) {
	t.Parallel()
	specs, err := backfill.NewSpecs([]backfill.Request{
		{Task: "fine"},
		{Task: "bad", MaxAttempts: -1, Flags: []string{""}},
		{Task: "worse", Args: raw("{")},
	})
	if specs != nil {
		t.Errorf("got specs %v", specs)
	}
	want := `enqueue: request 1 (task "bad"): max_attempts is -1: want 1 to 32767
request 1 (task "bad"): flag 0 is empty
request 2 (task "worse"): args are not valid JSON`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}

func TestNewSpecsBoundsTheReport(t *testing.T) {
	t.Parallel()
	requests := make([]backfill.Request, 1_000)
	for i := range requests {
		requests[i] = backfill.Request{Task: strings.Repeat("x", 1_000), Delay: -1}
	}
	_, err := backfill.NewSpecs(requests)
	wantError(t, err, "and 1950 more problems")
	if lines := strings.Count(err.Error(), "\n") + 1; lines != 51 || len(err.Error()) > 20_000 {
		t.Errorf("%d lines, %d bytes", lines, len(err.Error()))
	}
}
