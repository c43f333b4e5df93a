package pg_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/worker"
)

// What notifications mean (contract section 3): jobs unless the count says that there are none,
// whatever else the payload is; and a migration unless it says that it breaks nothing.
func TestListen(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ready, heard := make(chan struct{}), make(chan worker.Notification, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		defer close(heard)
		ended <- r.store.Listen(ctx, func() { close(ready) }, func(n worker.Notification) { heard <- n })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	tests := []struct {
		channel, payload string
		want             worker.NotificationKind // 0: nothing to do
	}{
		{"jobs:insert", `{"r":0.5,"count":1}`, worker.NotifyJobs},
		{"jobs:insert", `{"r":0.5,"count":3}`, worker.NotifyJobs},
		{"jobs:insert", `{"r":0.5,"count":0}`, 0},
		{"jobs:insert", `{"r":0.5,"count":-1}`, 0},
		{"jobs:insert", `{"r":0.5,"count":null}`, worker.NotifyJobs},
		{"jobs:insert", `{"r":0.5,"count":"x"}`, worker.NotifyJobs},
		{"jobs:insert", `{}`, worker.NotifyJobs},
		{"jobs:insert", `x`, worker.NotifyJobs},
		{"jobs:insert", ``, worker.NotifyJobs},
		{"worker:migrate", `{"migrationNumber":21,"breaking":true}`, worker.NotifyMigrate},
		{"worker:migrate", `{"migrationNumber":21,"breaking":false}`, 0},
		{"other", `{"count":1,"breaking":true}`, 0},
	}
	for _, test := range tests {
		dbtest.Run(t, r.pool, "select pg_notify($1, $2)", test.channel, test.payload)
		if err := r.store.Ping(t.Context(), "end"); err != nil {
			t.Fatal(err)
		}
		var got []worker.Notification
		for n := range heard {
			if n == (worker.Notification{Kind: worker.NotifyPing, Payload: "end"}) {
				break
			}
			got = append(got, n)
		}
		var want []worker.Notification
		if test.want != 0 {
			want = append(want, worker.Notification{Kind: test.want})
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
