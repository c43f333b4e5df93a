package admin

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/mask"
	"github.com/backfillhq/go/internal/pg"
)

const (
	// wherePatience is how long a worker's answer is waited for.
	wherePatience = time.Second
	// whereAgain is the time between the two questions: where a handler has been for a second, it
	// hangs, or works.
	whereAgain = 1100 * time.Millisecond
)

// askWhere asks the worker of a job that runs where its handler is, twice. That there is no answer
// is missing, and no error.
func (a *Admin) askWhere(ctx context.Context, x *Explanation, shown *redaction) {
	b := &x.Blocker
	if b.Worker == nil || b.Code != Running && b.Code != Superseded {
		return
	}
	missing := func(err error) {
		x.Missing = append(x.Missing, Missing{What: "where its handler is", Why: mask.Secrets(err.Error())})
	}
	asking, err := pg.Ask(ctx, a.pool)
	if err != nil {
		missing(err)
		return
	}
	defer asking.Close()
	answer, err := asking.Where(ctx, x.JobID, wherePatience)
	if err != nil {
		missing(err)
		return
	}
	if answer.Waits {
		b.Text += " It has not started: it waits for a slot there."
		return
	}
	running := time.Duration(answer.Running) * time.Microsecond
	b.Stack = shown.text(answer.Stack, false)
	again := ""
	if sleep(ctx, whereAgain) {
		later, err := asking.Where(ctx, x.JobID, wherePatience)
		switch {
		case err != nil:
		case top(later.Stack) == top(answer.Stack):
			again = ", and a second later it was there still"
		default:
			again = ", and a second later in " + top(later.Stack)
		}
	}
	b.Text += fmt.Sprintf(" Its handler has run for %s, and is in %s%s.", span(running), top(answer.Stack), again)
}

// top names the innermost function of a stack, and the innermost that is not the standard
// library's, with its place.
func top(stack string) string {
	first := ""
	lines := strings.Split(stack, "\n")
	for i, function := range lines[:len(lines)-1] {
		if function == "" || !strings.HasPrefix(lines[i+1], "\t") {
			continue
		}
		if first == "" {
			first = function
		}
		if isStandard(function) {
			continue
		}
		place := function + " (" + path.Base(strings.TrimSpace(lines[i+1])) + ")"
		if function != first {
			place = first + " ← " + place
		}
		return place
	}
	return cmp.Or(first, "a place that cannot be told")
}

// isStandard reports whether a function is of the standard library: of a package whose path begins
// with one of its folders.
func isStandard(function string) bool {
	folder, _, deep := strings.Cut(function, "/")
	if !deep {
		folder, _, _ = strings.Cut(function, ".")
	}
	return slices.Contains(standardFolders, folder)
}

// standardFolders are those of Go's source that blocking calls come from.
var standardFolders = []string{
	"archive", "bufio", "bytes", "compress", "context", "crypto", "database", "encoding", "fmt", "hash", "image", "internal", "io", "iter", "log",
	"math", "mime", "net", "os", "reflect", "regexp", "runtime", "slices", "sort", "strconv", "strings", "sync", "syscall", "testing", "time", "vendor",
}
