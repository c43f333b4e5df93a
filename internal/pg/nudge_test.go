package pg_test

import (
	"regexp"
	"testing"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Notifications have the contract's form, and survive the loss of the connection that sends them.
func TestNudges(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	l := dbtest.Listen(t, db.URL)
	nudges := pg.NewNudges(pg.SettingsOf(db.Pool(), schemaName))
	t.Cleanup(func() { nudges.Close(t.Context()) })
	send := func(jobs int) {
		t.Helper()
		if err := nudges.Send(t.Context(), jobs); err != nil {
			t.Error(err)
		}
	}
	send(3)
	if got := l.Take(t); len(got) != 1 || !notificationForm.MatchString(got[0]) {
		t.Errorf("notifications %q, want one for 3 jobs", got)
	}
	const notifiers = "from pg_stat_activity where datname = current_database() and query like 'select pg_catalog.set_config%'"
	if n := dbtest.Get[int](t, db.Pool(), "select count(pg_terminate_backend(pid))::int "+notifiers); n != 1 {
		t.Fatalf("terminated %d connections, want the one that notifies", n)
	}
	dbtest.Until(t, func() bool { return dbtest.Get[int](t, db.Pool(), "select count(*)::int "+notifiers) == 0 })
	send(1)
	if got := l.Take(t); len(got) != 1 {
		t.Errorf("after the loss of the connection: notifications %q, want one", got)
	}
}

// notificationForm is how a notification for three jobs looks, channel first (contract section 3).
var notificationForm = regexp.MustCompile(`jobs:insert.*\{"r":0\.[0-9e-]+,"count":3\}`)
