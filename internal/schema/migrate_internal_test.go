package schema

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestServerVersion is internal: there is no such server to run against.
func TestServerVersion(t *testing.T) {
	t.Parallel()
	m := newMigrator(nil, Options{})
	for version, want := range map[int]string{110022: "PostgreSQL 11.22", 90624: "PostgreSQL 9.6.24"} {
		_, err := m.plan(&schemaState{version: version})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "PostgreSQL 12 or newer") {
			t.Errorf("error for server_version_num %d = %v, want one that names %s and 12", version, err, want)
		}
	}
	if _, err := m.plan(&schemaState{version: 120000}); err != nil {
		t.Error(err)
	}
}

// TestLedgerWatch is internal: it is about time, of which a test with a database has none to lose.
func TestLedgerWatch(t *testing.T) {
	t.Parallel()
	const standstill = 10 * time.Second
	at := func(highest int, age time.Duration) *schemaState {
		return &schemaState{ledger: Ledger{Highest: highest}, age: age}
	}
	for _, test := range []struct {
		name  string
		watch func(w *ledgerWatch)
		want  bool
	}{
		{"old", func(w *ledgerWatch) { w.observe(at(7, time.Hour)) }, false},
		{"just written", func(w *ledgerWatch) { w.observe(at(7, 9*time.Second)) }, true},
		{"still since then", func(w *ledgerWatch) {
			w.observe(at(7, 0))
			<-time.After(standstill)
			w.observe(at(7, standstill))
		}, false},
		{"moving slowly", func(w *ledgerWatch) {
			w.observe(at(7, 0))
			for highest := 8; highest < 12; highest++ {
				<-time.After(9 * time.Second)
				w.observe(at(highest, 0))
			}
		}, true},
		{"empty, but somebody is there", func(w *ledgerWatch) {
			w.observe(at(0, maxAge))
			w.contend()
		}, true},
		{"somebody is there for too long", func(w *ledgerWatch) {
			w.observe(at(0, maxAge))
			for range 11 {
				w.contend()
				<-time.After(time.Second)
				w.observe(at(0, maxAge))
			}
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var w ledgerWatch
				test.watch(&w)
				if got := w.moving(standstill); got != test.want {
					t.Errorf("moving = %t, want %t", got, test.want)
				}
			})
		})
	}
}
