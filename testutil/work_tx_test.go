package testutil_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
)

// A Recorder has no transaction for a transactional task, and says what has one.
func TestWorkHasNoTransaction(t *testing.T) {
	t.Parallel()
	task := &backfill.Task[SendEmailArgs]{Name: "transactional", Timeout: time.Minute}
	rec := testutil.NewRecorder()
	mustEnqueue(t, rec, task.Request(SendEmailArgs{1, "a"}))
	tb := &failing{TB: t}
	report := rec.Work(tb, backfill.NewRegistry(backfill.Handle(task, func(context.Context, pgx.Tx, SendEmailArgs) error {
		t.Error("the handler ran")
		return nil
	})), backfill.WithScheduled())
	if report.Failed != 1 || report.Exhausted != 1 {
		t.Errorf("report: %+v", report)
	}
	if log := tb.log.String(); !strings.Contains(log, "test it with a worker on a database of package pgtest") {
		t.Errorf("log: %s", log)
	}
}
