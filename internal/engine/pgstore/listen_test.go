package pgstore_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/engine"
)

// What notifications mean (contract section 3): jobs unless the count says that there are none, whatever else the payload is; and a
// migration unless it says that it breaks nothing.
func TestListen(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ready, heard := make(chan struct{}), make(chan engine.Notification, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		defer close(heard)
		ended <- r.store.Listen(ctx, func() { close(ready) }, func(n engine.Notification) { heard <- n })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	tests := []struct {
		channel, payload string
		want             engine.NotificationKind // 0: nothing to do
	}{
		{"jobs:insert", `{"r":0.5,"count":1}`, engine.NotifyJobs},
		{"jobs:insert", `{"r":0.5,"count":3}`, engine.NotifyJobs},
		{"jobs:insert", `{"r":0.5,"count":0}`, 0},
		{"jobs:insert", `{"r":0.5,"count":-1}`, 0},
		{"jobs:insert", `{"r":0.5,"count":null}`, engine.NotifyJobs},
		{"jobs:insert", `{"r":0.5,"count":"x"}`, engine.NotifyJobs},
		{"jobs:insert", `{}`, engine.NotifyJobs},
		{"jobs:insert", `x`, engine.NotifyJobs},
		{"jobs:insert", ``, engine.NotifyJobs},
		{"worker:migrate", `{"migrationNumber":21,"breaking":true}`, engine.NotifyMigrate},
		{"worker:migrate", `{"migrationNumber":21,"breaking":false}`, 0},
		{"other", `{"count":1,"breaking":true}`, 0},
	}
	for _, test := range tests {
		run(t, r.pool, "select pg_notify($1, $2)", test.channel, test.payload)
		if err := r.store.Ping(t.Context(), "end"); err != nil {
			t.Fatal(err)
		}
		var got []engine.Notification
		for n := range heard {
			if n == (engine.Notification{Kind: engine.NotifyPing, Payload: "end"}) {
				break
			}
			got = append(got, n)
		}
		var want []engine.Notification
		if test.want != 0 {
			want = append(want, engine.Notification{Kind: test.want})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s %q (-want +got):\n%s", test.channel, test.payload, diff)
		}
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("Listen ended without an error")
	}
}
