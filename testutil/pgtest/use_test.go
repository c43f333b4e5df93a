package pgtest_test

import (
	"context"
	"strings"
	"testing"

	"github.com/backfillhq/go/testutil/pgtest"
)

// The server of UseServer comes before all that the environment names, and is left as it was found.
func TestUseServer(t *testing.T) {
	t.Parallel()
	admin := foreign(t)
	out, err := runHelper(t, "TestHelperUse", unreachable, helperUse+"="+admin.Config().ConnString(), "BACKFILL_TEST_PG_MAJOR=none")
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if got := strings.Count(out, "the function was called"); got != 1 {
		t.Errorf("it was called %d times: %s", got, out)
	}
	tests, templates := testDatabases(t, admin)
	if len(tests) != 0 || len(templates) != 1 {
		t.Errorf("left: %v, and the templates %v", tests, templates)
	}
}

func TestUseServerThatFails(t *testing.T) {
	t.Parallel()
	for result, want := range map[string]string{
		"error: no daemon": "pgtest: start the server of UseServer: no daemon",
		"":                 "pgtest: start the server of UseServer: it returned no connection string",
		unreachable:        "pgtest: connect to the test server: ",
	} {
		t.Run(result, func(t *testing.T) {
			t.Parallel()
			out, err := runHelper(t, "TestHelperUse", unreachable, helperUse+"="+result)
			if err == nil || strings.Count(out, want) != 3 {
				t.Errorf("not all three tests failed with %q: %v: %s", want, err, out)
			}
			if got := strings.Count(out, "the function was called"); got != 1 {
				t.Errorf("it was called %d times: %s", got, out)
			}
		})
	}
}

func TestUseServerTooLate(t *testing.T) {
	t.Parallel()
	server := foreign(t).Config().ConnString()
	out, err := runHelper(t, "TestHelperLate", server)
	if err == nil || !strings.Contains(out, "call it in an init function or in TestMain") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := runHelper(t, "TestHelperTakenBack", server, helperUse+"="+unreachable); err != nil {
		t.Errorf("nil does not take it back: %v: %s", err, out)
	}
}

func TestHelperLate(t *testing.T) { //nolint:paralleltest // alone in its process
	isHelper(t)
	pgtest.Empty(t)
	pgtest.UseServer(func(context.Context) (string, error) { return unreachable, nil })
	pgtest.Empty(t)
}

func TestHelperTakenBack(t *testing.T) { //nolint:paralleltest // alone in its process
	isHelper(t)
	pgtest.UseServer(nil)
	pgtest.Empty(t)
}
