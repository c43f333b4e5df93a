package admin_test

import (
	"fmt"
	"testing"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
)

const (
	beginText  = "begin isolation level read committed" // what is read begins otherwise
	commitText = "commit\x00"
)

// losses are the moments at which a change's connection is lost: the statements have these texts.
func losses(texts map[string]string, test func(name string, arm func(*dbtest.Proxy))) {
	for _, fault := range []dbtest.Fault{dbtest.Cut, dbtest.Kill} {
		for name, text := range texts {
			test(fmt.Sprintf("%v before %s", fault, name), func(p *dbtest.Proxy) { p.ArmBefore(text, fault) })
			test(fmt.Sprintf("%v after %s", fault, name), func(p *dbtest.Proxy) { p.ArmAfter(text, fault) })
		}
	}
}

// A change whose connection is lost is made once, with one record, also if the answer of its COMMIT
// is lost; and whoever asks again with its id has the outcome of the first.
func TestChangeThatIsLost(t *testing.T) {
	t.Parallel()
	losses(map[string]string{"begin": beginText, "record": "backfill_audit (", "commit": commitText}, func(name string, arm func(*dbtest.Proxy)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			proxy := dbtest.NewProxy(t, r.db.URL)
			through := openAdmin(t, proxy.URL)
			r.run(changesOfJobs)
			id := r.add("'sync'")
			ask := admin.ChangeOptions{ID: "request", Reason: "cured"}
			arm(proxy)
			first, err := through.RescheduleJob(as(t, "ada"), id, admin.Reschedule{Priority: new(7)}, nil, ask)
			if err != nil || first.Record != "request" || first.Skip != "" {
				t.Fatalf("the change: %+v, %v", first, err)
			}
			if proxy.Met() == 0 {
				t.Error("nothing met the fault")
			}
			again, err := through.RescheduleJob(as(t, "ada"), id, admin.Reschedule{Priority: new(7)}, nil, ask)
			if err != nil || !again.Repeated || again.Record != "request" || again.ID != first.ID {
				t.Errorf("again: %+v, %v", again, err)
			}
			if n := len(r.records()); n != 1 || r.twice() > 0 {
				t.Errorf("%d records, %d jobs were changed twice", n, r.twice())
			}
		})
	})
}

// A step of an operation whose connection is lost goes on, and changes each item once.
func TestOperationThatIsLost(t *testing.T) {
	t.Parallel()
	losses(map[string]string{"begin": beginText, "items": "backfill_operation_items (", "commit": commitText}, func(name string, arm func(*dbtest.Proxy)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			proxy := dbtest.NewProxy(t, r.db.URL)
			through := openAdmin(t, proxy.URL)
			r.run(changesOfJobs)
			r.run("select graphile_worker.add_job('mail') from generate_series(1, 250)")
			ctx := as(t, "ada", "operator")
			p := preview(ctx, t, through, admin.Bulk{Action: admin.ActionReschedule, Jobs: &admin.JobFilter{Tasks: []string{"mail"}}, Reschedule: &admin.Reschedule{Priority: new(7)}})
			started, err := through.Start(ctx, p.Token, admin.ChangeOptions{Reason: "test"})
			if err != nil {
				t.Fatal(err)
			}
			arm(proxy)
			o, err := through.CarryOperation(ctx, started.ID, nil)
			if err != nil || o.State != admin.OperationDone || o.Acted != 250 {
				t.Fatalf("the operation: %+v, %v", o, err)
			}
			if proxy.Met() == 0 {
				t.Error("nothing met the fault")
			}
			if n := len(items(t, r.admin, o.ID)); n != 250 || r.twice() > 0 {
				t.Errorf("%d items, %d jobs were changed twice", n, r.twice())
			}
		})
	})
}
