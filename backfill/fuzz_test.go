package backfill_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/worker"
)

// Whatever a line of a crontab and the task say: a worker starts only if the database takes the
// jobs.
func FuzzCron(f *testing.F) {
	for _, line := range []string{
		`* * * * *`, `0 4 * * * ?id=a&fill=1d&max=3&queue=q&jobKey=k&jobKeyMode=replace&priority=-1 {key: "k", queue: "q"}`,
		`* * * * * {key: "` + strings.Repeat("x", 513) + `"}`, `* * * * * {queue: "` + strings.Repeat("x", 129) + `"}`,
		`* * * * * {key: "\0"}`, `* * * * * {key: "a\ud800"}`, `* * * * * ?jobKey=%00 {key: []}`, `* * * * * ?max=32768 {"_cron": 1}`,
	} {
		f.Add(line, false)
		f.Add(line, true)
	}
	f.Fuzz(func(t *testing.T, line string, keyed bool) {
		type args struct{ Key, Queue string }
		task := &backfill.Task[args]{Name: "t", Queue: func(a args) string { return a.Queue }}
		if keyed {
			task.Key = func(a args) string { return a.Key }
		}
		handle := func(context.Context, args) error { return nil }
		registry := backfill.NewRegistry(backfill.Handle(task, handle, backfill.Cron(line)))
		if err := backfill.Problems(registry); err != nil {
			wantReadable(t, err)
			return
		}
		entries, err := backfill.Schedule(registry)
		if err != nil || len(entries) != 1 {
			t.Fatalf("%q: %d entries, %v", line, len(entries), err)
		}
		e := entries[0]
		r := backfill.Request{
			Task: e.Task, Args: e.Payload, Queue: e.Queue, Key: e.Key, KeyMode: backfill.KeyMode(e.KeyMode), MaxAttempts: int(e.MaxAttempts), Flags: e.Flags,
		}
		if err := r.Validate(); err != nil || keyed && r.Key == "" {
			t.Errorf("%q gives a job that cannot be enqueued: %v", line, cmp.Or(err, errors.New("without a key")))
		}
	})
}

// Whatever a batch and its errors are: the job keeps the elements that failed, byte for byte and in
// their order, or all of them.
func FuzzBatch(f *testing.F) {
	for _, seed := range []struct{ payload, indexes, text string }{
		{`[1, {"a" : 2},"\u0000",[ ]]`, "\x00\x02\x02", "a\nb"},
		{`[1]`, "\x01", "\x00"},
		{`[]`, "\xff", "\xff"},
		{`{"a":1}`, "\x00", strings.Repeat("x\r\n", 4_000)},
		{`[1,2]`, "\x00\x01", ""},
		{`null`, "\x00", "x"},
		{`[1,`, "\x00", "x"},
	} {
		f.Add(seed.payload, []byte(seed.indexes), seed.text)
	}
	f.Fuzz(func(t *testing.T, payload string, indexes []byte, text string) {
		batch := &backfill.BatchError{Errs: map[int]error{}}
		for _, i := range indexes {
			batch.Errs[int(int8(i))] = errors.New(text)
		}
		task := &backfill.Task[json.RawMessage]{Name: "t"}
		got := execute(t.Context(), task, payload, func(context.Context, json.RawMessage) error { return fmt.Errorf("send: %w", batch) })
		if len(indexes) == 0 || !json.Valid([]byte(payload)) {
			return // no failure, and no batch
		}
		if got.Kind != worker.OutcomeFailed || got.Text == "" || !utf8.ValidString(got.Text) || strings.ContainsRune(got.Text, 0) || len(got.Text) > backfill.MaxErrorText {
			t.Errorf("outcome %+v", got)
		}
		want, err := keptOf(payload, batch)
		if string(got.Payload) != want {
			t.Errorf("%s without those that succeeded is %s, want %q", payload, got.Payload, want)
		}
		if err != nil && !strings.Contains(got.Text, "all of them are kept") {
			t.Errorf("%v: but the error says %q", err, got.Text)
		}
	})
}

// keptOf is the rule, spelled out: "" keeps everything.
func keptOf(payload string, batch *backfill.BatchError) (string, error) {
	var elements []json.RawMessage
	if err := json.Unmarshal([]byte(payload), &elements); err != nil || elements == nil {
		return "", cmp.Or(err, errors.New("no array"))
	}
	var kept []string
	for i, element := range elements {
		if batch.Errs[i] != nil {
			kept = append(kept, string(element))
		}
	}
	switch {
	case len(kept) < len(batch.Errs):
		return "", errors.New("no such element")
	case len(kept) == len(elements):
		return "", nil
	}
	return "[" + strings.Join(kept, ",") + "]", nil
}
