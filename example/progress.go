package main

import (
	"fmt"
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
)

// newProgress returns a function that shows how many of all are done: as a bar on a terminal, as
// some lines elsewhere.
func newProgress(w io.Writer, what string, all int) (show func(done int)) {
	if !isTerminal(w) || all == 0 {
		next := 0
		return func(done int) {
			if done >= next || done == all {
				fmt.Fprintf(w, "%s: %d of %d\n", what, done, all)
				next = done + max(all/10, 1)
			}
		}
	}
	bar := progressbar.NewOptions(all, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what),
		progressbar.OptionSetWidth(30), progressbar.OptionShowCount(), progressbar.OptionSetRenderBlankState(true))
	return func(done int) { _ = bar.Set(done) } // a bar that cannot be drawn stops nothing
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
