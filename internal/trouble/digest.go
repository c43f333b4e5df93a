package trouble

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Digest logs what happens to many things at once: one line for all of a second. It is safe for
// concurrent use.
type Digest struct {
	Message string
	What    string // names the things in the line
	Level   slog.Level

	mu   sync.Mutex
	list []string
}

// Add notes things. They are logged within a second.
func (d *Digest) Add(log *slog.Logger, things ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.list) == 0 && len(things) > 0 {
		time.AfterFunc(leastWait, func() { d.Say(log) })
	}
	d.list = append(d.list, things...)
}

// Say logs now what was noted since the last line.
func (d *Digest) Say(log *slog.Logger) {
	d.mu.Lock()
	list := d.list
	d.list = nil
	d.mu.Unlock()
	if len(list) > 0 {
		log.LogAttrs(context.Background(), d.Level, d.Message, //nolint:sloglint // a constant of the caller
			slog.Int("count", len(list)), slog.String(d.What, Names(list)))
	}
}

// mostNames is how many things a line or an error names.
const mostNames = 10

// Names lists the first things of a list, and says how many more there are.
func Names[T any](list []T) string {
	var text strings.Builder
	for i, one := range list[:min(len(list), mostNames)] {
		if i > 0 {
			text.WriteString(", ")
		}
		fmt.Fprint(&text, one)
	}
	if more := len(list) - mostNames; more > 0 {
		fmt.Fprintf(&text, " and %d more", more)
	}
	return text.String()
}
