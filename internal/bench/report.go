package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
)

// report is everything that was measured.
type report struct {
	Facts  facts    `json:"facts"`
	Shapes []result `json:"shapes"`
	Goals  []row    `json:"goals"`
}

// row compares one metric of ours with a floor's.
type row struct {
	Shape  string  `json:"shape"`
	Metric metric  `json:"metric"`
	Floor  string  `json:"floor,omitempty"`
	Base   float64 `json:"floor_median,omitempty"`
	Ours   float64 `json:"ours_median"`
	Ratio  float64 `json:"ratio,omitempty"` // of the medians
	Goal   string  `json:"goal,omitempty"`
	Pass   *bool   `json:"pass,omitempty"`
	spans  [3]string
}

// rows compares all shapes.
func (r *report) rows() []row {
	var rows []row
	for _, shape := range r.Shapes {
		for _, g := range shape.goals {
			if row, ok := shape.compare(g); ok {
				rows = append(rows, row)
			}
		}
	}
	return rows
}

// compare is one row of the table; none if something was not measured, such as the server's CPU on another machine.
func (r result) compare(g goal) (row, bool) {
	mine := r.Samples[oursName].values(g.metric)
	if len(mine) == 0 {
		return row{}, false
	}
	c := row{Shape: r.Title, Metric: g.metric, Floor: g.floor, Ours: median(mine)}
	c.spans[1] = span(mine)
	value := c.Ours
	if g.floor != "" {
		base := r.Samples[g.floor].values(g.metric)
		if len(base) == 0 {
			return row{}, false
		}
		c.Base = median(base)
		c.Ratio = c.Ours / c.Base
		value = c.Ratio
		// Of the pairs that ran one after the other.
		pairs := make([]float64, min(len(mine), len(base)))
		for i := range pairs {
			pairs[i] = mine[i] / base[i]
		}
		c.spans[0], c.spans[2] = span(base), span(pairs)
	}
	if g.sense != "" {
		pass := g.sense == atLeast && value >= g.value || g.sense == atMost && value <= g.value
		c.Pass = &pass
		c.Goal = string(g.sense) + " " + number(g.value)
		if g.floor != "" {
			c.Goal += " ×"
		}
	}
	return c, true
}

func span(values []float64) string {
	return fmt.Sprintf(" [%s–%s]", number(slices.Min(values)), number(slices.Max(values)))
}

func (r *report) print(out io.Writer) {
	fmt.Fprintf(out, "# backfill beside bare SQL\n\n%s\n", r.Facts.markdown())
	fmt.Fprint(out, "| shape | measure | beside | floor | ours | ratio | goal | |\n|---|---|---|--:|--:|--:|--:|---|\n")
	for _, c := range r.rows() {
		mark, base, ratio := "", "", ""
		if c.Pass != nil {
			mark = map[bool]string{true: "✓", false: "✗ MISSED"}[*c.Pass]
		}
		if c.Floor != "" {
			base, ratio = number(c.Base)+c.spans[0], number(c.Ratio)+c.spans[2]
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s | %s | %s |\n",
			c.Shape, c.Metric, c.Floor, base, number(c.Ours)+c.spans[1], ratio, c.Goal, mark)
	}
	fmt.Fprint(out, "\nFloor and ours: median [least–most]. Ratio: of the medians [of the pairs that ran one after the other].\n\n")
	r.printAll(out)
	r.printUnfinished(out)
}

// allMetrics in the order of columns.
var allMetrics = []metric{
	rate, p50, p99, allDone, slowest, share, unhindered, lastQueuedShare, lastQueued, queuedRate, freeRate, leftOver, cpu, serverCPU, wal, allocs, allocated, peakRSS, rss,
}

// printAll prints the medians of every system, and so of peers, which have no goals: of what was measured at all.
func (r *report) printAll(out io.Writer) {
	metrics := slices.DeleteFunc(slices.Clone(allMetrics), func(m metric) bool {
		return !slices.ContainsFunc(r.Shapes, func(shape result) bool {
			return slices.ContainsFunc(shape.Systems, func(name string) bool { return len(shape.Samples[name].values(m)) > 0 })
		})
	})
	fmt.Fprint(out, "| shape | system |")
	for _, m := range metrics {
		fmt.Fprintf(out, " %s |", m)
	}
	fmt.Fprint(out, "\n|---|---|")
	for range metrics {
		fmt.Fprint(out, "--:|")
	}
	fmt.Fprintln(out)
	for _, shape := range r.Shapes {
		for _, name := range shape.Systems {
			fmt.Fprintf(out, "| %s | %s |", shape.Title, name)
			for _, m := range metrics {
				fmt.Fprintf(out, " %s |", number(median(shape.Samples[name].values(m))))
			}
			fmt.Fprintln(out)
		}
	}
}

// printUnfinished says what a system did not finish.
func (r *report) printUnfinished(out io.Writer) {
	for _, shape := range r.Shapes {
		for _, name := range shape.Systems {
			if left := shape.Samples[name].values(leftOver); len(left) > 0 {
				fmt.Fprintf(out, "\n%s did not finish in %s s: %s; %s jobs were left.\n",
					name, number(median(shape.Samples[name].values(gaveUp))), shape.Title, number(median(left)))
			}
		}
	}
}

// write writes all numbers of all runs.
func (r *report) write(path string) error {
	r.Goals = r.rows()
	return writeJSON(path, r)
}

func writeJSON(path string, numbers any) error {
	content, err := json.MarshalIndent(numbers, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(content, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write numbers: %w", err)
	}
	return nil
}
