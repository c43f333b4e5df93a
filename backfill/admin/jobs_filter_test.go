package admin_test

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/pg"
)

// A field that is not known, empty or given twice is an error, and never means all (X33).
func TestFilterIsStrict(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"task":["a"]}`, `{"Tasks":["a"]}`, `{"tasks":[]}`, `{"tasks":[""]}`, `{"tasks":null}`, `{"tasks":["a"],"tasks":["b"]}`, `{"ids":[0]}`,
		`{"states":["done"]}`, `{"keys":["\u0000"]}`, `{"min_priority":40000}`, `{"min_attempts":3,"max_attempts":2}`, `{"no_queue":true,"queues":["a"]}`,
		`{"run_at_from":"2026-01-02T00:00:00Z","run_at_before":"2026-01-01T00:00:00Z"}`, `{"error_contains":""}`, `{"payload_contains":{}}`,
		`{"payload_contains":{"a":"\u0000"}}`, `{"payload_contains":[]}`, `{"payload_contains":1e99999}`, `{"up_to_id":-1}`, `[]`, `null`, `{"tasks":["a"]} {}`,
	} {
		var f admin.JobFilter
		err := json.Unmarshal([]byte(text), &f)
		if err == nil {
			err = f.Check()
		}
		var syntax *json.SyntaxError
		if !errors.Is(err, admin.ErrInvalid) && !errors.As(err, &syntax) {
			t.Errorf("%s: %v, want ErrInvalid", text, err)
		}
	}
	var f admin.JobFilter
	if err := json.Unmarshal([]byte(`{"tasks":["a"],"payload_contains":{"n":1e400},"run_at_from":"2026-01-02T00:00:00Z"}`), &f); err != nil || f.Check() != nil {
		t.Errorf("a filter is refused: %v, %v", err, f.Check())
	}
	if f.String() != `task "a", and run_at from 2026-01-02T00:00:00Z, and payload with {"n":1e400}` {
		t.Errorf("in words it is %s", &f)
	}
	if f.IsEmpty() || !(&admin.JobFilter{UpToID: 7}).IsEmpty() || (&admin.JobFilter{RunAtFrom: time.Unix(1, 0)}).IsEmpty() {
		t.Error("which filter is empty is not told")
	}
}

// Each statement that selects jobs has the same conditions.
func TestStatementsFilterAlike(t *testing.T) {
	t.Parallel()
	found := regexp.MustCompile(`(?s)-- filter\n(.*?)-- end of filter`)
	var first string
	blocks := 0
	entries, err := os.ReadDir("../../internal/pg/query")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".sql") {
			continue
		}
		text, err := os.ReadFile("../../internal/pg/query/" + entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range found.FindAllStringSubmatch(string(text), -1) {
			if blocks++; first == "" {
				first = block[1]
			}
			if block[1] != first {
				t.Errorf("%s has other conditions:\n%s", entry.Name(), block[1])
			}
		}
	}
	if blocks < 2 {
		t.Errorf("there are %d blocks of conditions", blocks)
	}
}

func TestFitsJSONB(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`"\u0000"`: false, `"\\u0000"`: true, `"\\\u0000"`: false, `"\ud83d\ude00"`: true, `"\ud83d"`: false, `"\ude00\ud83d"`: false, `"\ud83d\\\ude00"`: false,
		`1e400`: true, `1E99999`: false, `1e-20000`: false, strings.Repeat("1", 300): false, `"eÄ"`: true,
	} {
		if got := pg.FitsJSONB([]byte(text)); got != want {
			t.Errorf("%.40s fits: %v, want %v", text, got, want)
		}
	}
}
