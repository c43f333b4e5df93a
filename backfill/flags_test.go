package backfill_test

import (
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

func TestWithForbiddenFlags(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, registry := taskOf("send_email", ignore)
	left := func(opts ...backfill.WorkerOption) int {
		t.Helper()
		for _, flags := range [][]string{nil, {"slow"}, {"fast"}} {
			enqueue(t, client, task, mailArgs{}, backfill.Flags(flags...))
		}
		runOnce(t, client, registry, opts...)
		rows := jobRows(t, db)
		for _, row := range rows {
			if row.Flags != `{"slow": true}` {
				t.Errorf("left %+v", row)
			}
		}
		return len(rows)
	}
	if n := left(backfill.WithForbiddenFlags("slow", "other")); n != 1 {
		t.Errorf("%d jobs are left, want the slow one", n)
	}
	calls := 0
	if n := left(backfill.WithForbiddenFlagsFunc(func() []string { calls++; return []string{"slow"} })); n != 2 || calls == 0 {
		t.Errorf("%d jobs are left after %d calls, want the slow ones", n, calls)
	}
	if n := left(backfill.WithForbiddenFlags("other"), backfill.WithForbiddenFlags("slow")); n != 3 {
		t.Errorf("given twice: %d jobs are left, want the slow ones", n)
	}
	if n := left(backfill.WithForbiddenFlags()); n != 0 {
		t.Errorf("%d jobs are left, and nothing is forbidden", n)
	}
}

func TestForbiddenFlagsProblems(t *testing.T) {
	t.Parallel()
	client := newClient(t, pgtest.New(t))
	_, registry := taskOf("send_email", ignore)
	fixed, asked := backfill.WithForbiddenFlags("a"), backfill.WithForbiddenFlagsFunc(func() []string { return nil })
	for want, options := range map[string][]backfill.WorkerOption{
		"WithForbiddenFlags: flag 1 is empty":                              {backfill.WithForbiddenFlags("a", "")},
		"WithForbiddenFlagsFunc: the function is nil: leave":               {backfill.WithForbiddenFlagsFunc(nil)},
		"WithForbiddenFlags and WithForbiddenFlagsFunc: give one of them":  {fixed, asked},
		"WithForbiddenFlags and WithForbiddenFlagsFunc: give one of them;": {asked, fixed},
		"WithForbiddenFlagsFunc: given twice":                              {asked, asked},
	} {
		if _, err := client.NewWorker(registry, options...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
