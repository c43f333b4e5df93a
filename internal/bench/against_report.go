package main

import (
	"fmt"
	"io"
	"slices"
)

// comparison is what -against measured.
type comparison struct {
	Facts    facts    `json:"facts"` // of this tree
	Revision string   `json:"against"`
	Commit   string   `json:"against_commit"`
	Pairs    int      `json:"pairs"`
	Figures  []figure `json:"figures"`
	Skipped  []string `json:"skipped,omitempty"`
}

// figure is one metric of one shape. The ratios are this tree's by the revision's, pair by pair; a
// pair of which the revision's is 0 has none.
type figure struct {
	Shape  string    `json:"shape"`
	Metric metric    `json:"metric"`
	Base   float64   `json:"against_median"`
	Ours   float64   `json:"ours_median"`
	Ratio  *float64  `json:"ratio,omitempty"` // the median of the ratios
	Least  *float64  `json:"least,omitempty"`
	Most   *float64  `json:"most,omitempty"`
	Ratios []float64 `json:"ratios,omitempty"`
}

// measurement is one run of a shape.
type measurement struct {
	title string
	sample
}

// pairs are the runs of both sides, by shape, in their order.
type pairs struct {
	titles       []string
	theirs, ours map[string]runs
}

func newPairs() *pairs { return &pairs{theirs: map[string]runs{}, ours: map[string]runs{}} }

func (p *pairs) add(ours bool, shapes []measurement) {
	side := p.theirs
	if ours {
		side = p.ours
	}
	for _, m := range shapes {
		if !slices.Contains(p.titles, m.title) {
			p.titles = append(p.titles, m.title)
		}
		side[m.title] = append(side[m.title], m.sample)
	}
}

// add compares the pairs of a group of shapes.
func (c *comparison) add(p *pairs, ourName string) {
	for _, title := range p.titles {
		theirs, ours := p.theirs[title], p.ours[title]
		switch {
		case len(theirs) == 0:
			c.Skipped = append(c.Skipped, fmt.Sprintf("%s lacks the shape %q", c.Revision, title))
			continue
		case len(ours) == 0:
			c.Skipped = append(c.Skipped, fmt.Sprintf("%s lacks the shape %q", ourName, title))
			continue
		}
		for _, m := range allMetrics {
			if f, ok := compareFigure(title, m, theirs, ours); ok {
				c.Figures = append(c.Figures, f)
			}
		}
	}
}

// compareFigure reports false for a metric that one side never measured.
func compareFigure(title string, m metric, theirs, ours runs) (figure, bool) {
	f := figure{Shape: title, Metric: m}
	base, mine := theirs.values(m), ours.values(m)
	if len(base) == 0 || len(mine) == 0 {
		return f, false
	}
	f.Base, f.Ours = median(base), median(mine)
	for i := range min(len(theirs), len(ours)) {
		b, measured := theirs[i][m]
		o, also := ours[i][m]
		if measured && also && b != 0 {
			f.Ratios = append(f.Ratios, o/b)
		}
	}
	if len(f.Ratios) > 0 {
		ratio, least, most := median(f.Ratios), slices.Min(f.Ratios), slices.Max(f.Ratios)
		f.Ratio, f.Least, f.Most = &ratio, &least, &most
	}
	return f, true
}

func (c *comparison) print(out io.Writer) {
	fmt.Fprintf(out, "# backfill beside itself at %s (%s)\n\n%s\n", c.Revision, c.Commit, c.Facts.markdown())
	fmt.Fprintf(out, "| shape | measure | %s | this tree | ratio | least | most |\n|---|---|--:|--:|--:|--:|--:|\n", c.Revision)
	for _, f := range c.Figures {
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s | %s |\n",
			f.Shape, f.Metric, number(f.Base), number(f.Ours), optional(f.Ratio), optional(f.Least), optional(f.Most))
	}
	fmt.Fprintf(out, "\nRatio: the median of the ratios of %d pairs, this tree's by %s's, with the least and the most.\n", c.Pairs, c.Revision)
	for _, what := range c.Skipped {
		fmt.Fprintf(out, "\nSkipped: %s.\n", what)
	}
}

func optional(x *float64) string {
	if x == nil {
		return "–"
	}
	return number(*x)
}
