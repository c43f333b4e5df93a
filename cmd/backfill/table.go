package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// tableWidth is how many columns of a terminal a table has at most, where its cells can be cut.
	tableWidth = 100
	// leastCell is what is left of a cell at least.
	leastCell = 8
)

// table is rows of cells below a header. What does not fit is cut.
type table struct {
	header []string
	rows   [][]string
	whole  []string // headers of columns that are not cut: what can be copied
	// colour says which colour a cell has on a terminal; "" is none.
	colour func(header, cell string) string
}

// write writes a table whose cells cannot control the terminal.
func (t *table) write(w io.Writer) error {
	widths := make([]int, len(t.header))
	rows := append([][]string{t.header}, t.rows...)
	for i, row := range rows {
		clean := make([]string, len(row))
		for j, text := range row {
			clean[j] = strings.Map(printable, text)
			widths[j] = max(widths[j], utf8.RuneCountInString(clean[j]))
		}
		rows[i] = clean
	}
	t.fit(widths)
	var out strings.Builder
	for i, row := range rows {
		var line strings.Builder
		for j, text := range row {
			colour := ""
			if t.colour != nil && i > 0 {
				colour = t.colour(t.header[j], text)
			}
			if length := utf8.RuneCountInString(text); length > widths[j] {
				text = string([]rune(text)[:widths[j]-1]) + "…"
			} else if j < len(row)-1 {
				text += strings.Repeat(" ", widths[j]-length)
			}
			line.WriteString(paint(w, colour, text))
			line.WriteString("  ")
		}
		fmt.Fprintln(&out, strings.TrimRight(line.String(), " "))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// fit makes the widest columns smaller until the table is small enough.
func (t *table) fit(widths []int) {
	for {
		total, widest := 2*(len(widths)-1), -1
		for j, width := range widths {
			total += width
			if !slices.Contains(t.whole, t.header[j]) && width > leastCell && (widest < 0 || width > widths[widest]) {
				widest = j
			}
		}
		if total <= tableWidth || widest < 0 {
			return
		}
		widths[widest]--
	}
}

// writeJSON writes a line of JSON in which nothing can control a terminal.
func writeJSON(w io.Writer, value any) error {
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err
	}
	var out strings.Builder
	for _, r := range strings.TrimSuffix(text.String(), "\n") {
		switch {
		case unicode.IsPrint(r):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := surrogates(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r) // outside of texts all is printable
		}
	}
	_, err := fmt.Fprintln(w, out.String())
	return err
}

func surrogates(r rune) (high, low rune) {
	r -= 0x10000
	return 0xd800 + r>>10, 0xdc00 + r&0x3ff
}
