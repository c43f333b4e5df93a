package backfill

import (
	"context"
	"strings"

	"github.com/backfillhq/go/internal/mask"
	"github.com/backfillhq/go/internal/worker"
)

// maxNote is how many bytes of a note are kept.
const maxNote = 500

// Progress says how far the job is whose handler was given ctx: done of total, in whatever unit; a
// total of 0 says that nobody knows. The note, of which the first 500 bytes are kept, says what it is
// doing, for people. Admin.Progress of package admin reads it, and so may anybody, from the table
// backfill_progress.
//
// It returns at once. The worker writes down what its handlers have said last once a second, for all of
// them in one statement, which never touches the rows of the jobs. A new attempt starts without any, and
// when the job's handler has returned, its progress is gone a second later. In a context that is not of a
// handler, and in testutil's runs without a worker, it does nothing.
func Progress(ctx context.Context, done, total int64, note string) {
	carried, ok := jobContextOf(ctx)
	if !ok || carried.report == nil {
		return
	}
	note = mask.Secrets(strings.ReplaceAll(strings.ToValidUTF8(cut(note, 2*maxNote), "\uFFFD"), "\x00", ""))
	carried.report(worker.Progress{Lease: carried.lease, Done: done, Total: total, Note: cut(note, maxNote)})
}
