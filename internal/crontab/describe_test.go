package crontab_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/backfillhq/go/internal/crontab"
)

// What a worker's row says of an entry is the entry, whatever its fields are.
func TestDescription(t *testing.T) {
	t.Parallel()
	part := rapid.OneOf(
		rapid.StringMatching(`[1-6]`), rapid.StringMatching(`[1-3]-[4-6]`), rapid.Just("*"), rapid.StringMatching(`\*/[1-6]`), rapid.StringMatching(`\*/[1-2][0-9]`),
	)
	rapid.Check(t, func(t *rapid.T) {
		line := ""
		for range 5 {
			word := part.Draw(t, "part")
			for range rapid.IntRange(0, 3).Draw(t, "more parts") {
				word += "," + part.Draw(t, "part")
			}
			line += word + " "
		}
		line += rapid.SampledFrom([]string{
			"", "?id=x", "?tz=Europe/Berlin", "?fill=4w3d&priority=-5", "?queue=q&max=3&id=y", "?jobKey=k&jobKeyMode=preserve_run_at",
		}).Draw(t, "options")
		line += rapid.SampledFrom([]string{"", " {a: [1, 2]}"}).Draw(t, "payload")
		e, problems := crontab.ParseSchedule(line, "a", crontab.Position{Line: 1, Column: 1})
		if len(problems) > 0 {
			t.Fatalf("%q: %v", line, problems)
		}
		data, err := json.Marshal(e.Describe([]string{"flag"}))
		if err != nil {
			t.Fatal(err)
		}
		var d crontab.Description
		if err := json.Unmarshal(data, &d); err != nil {
			t.Fatal(err)
		}
		got, err := d.Entry()
		if err != nil {
			t.Fatalf("%s of %q: %v", data, line, err)
		}
		e.Pos, e.ZonePos, got.Pos = crontab.Position{}, crontab.Position{}, crontab.Position{}
		if diff := cmp.Diff(e, got, byName); diff != "" {
			t.Fatalf("%q as %s:\n%s", line, data, diff)
		}
		if len(d.Flags) != 1 {
			t.Fatalf("%s has no flags", data)
		}
	})
}

func TestSchedule(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"* * * * *":               "* * * * *",
		"*/15 9-17 * * 1-5":       "*/15 9-17 * * 1-5",
		"0 4 1,15 */3 7":          "0 4 1,15 */3 0",
		"1,2,3,5 0,1 */2 1 */2":   "1-3,5 0,1 */2 1 0,2,4,6",
		"*/45 0-23 29-31 12 0,6":  "*/45 * 29-31 12 0,6",
		"59 23 31 12 6":           "59 23 31 12 6",
		"0-58 * * * *":            "0-58 * * * *",
		"*/59 */23 */30 */11 */6": "*/59 */23 */30 */11 0,6",
	} {
		e, problems := crontab.ParseSchedule(in, "a", crontab.Position{Line: 1, Column: 1})
		if len(problems) > 0 {
			t.Fatal(in, problems)
		}
		if got := e.Schedule(); got != want {
			t.Errorf("%q is written as %q, want %q", in, got, want)
		}
	}
}
