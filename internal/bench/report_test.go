package main

import (
	"strings"
	"testing"
)

// A peer that did not finish is said to, and columns are those that were measured.
func TestReportOfAPeerThatDidNotFinish(t *testing.T) {
	t.Parallel()
	r := report{Shapes: []result{{
		Title: "serial jobs", Systems: []string{oursName, "peer"},
		Samples: map[string]runs{
			oursName: {{rate: 2000, share: 0.5}, {rate: 3000, share: 0.4}, {rate: 2000, share: 0.5}},
			"peer":   {{rate: 20, share: 0.1, leftOver: 1234, gaveUp: 15}},
		},
		goals: []goal{{share, "", atLeast, 0.45}},
	}}}
	var b strings.Builder
	r.print(&b)
	_, got, _ := strings.Cut(b.String(), "| shape | measure |")
	for _, want := range []string{
		"| serial jobs | share_of_unhindered |  |  | 0.50 [0.40–0.50] |  | ≥ 0.45 | ✓ |\n",
		"| shape | system | jobs_per_second | share_of_unhindered | unfinished_jobs |\n",
		"| serial jobs | backfill | 2,000 | 0.50 | – |\n",
		"| serial jobs | peer | 20.0 | 0.10 | 1,234 |\n",
		"\npeer did not finish in 15.0 s: serial jobs; 1,234 jobs were left.\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the report lacks %q:\n%s", want, got)
		}
	}
}
