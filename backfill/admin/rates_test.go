package admin_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
)

// Rates are those of the jobs that have ended, by outcome, without any history.
func TestRates(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	task := &backfill.Task[args]{Name: "rated", Backoff: backfill.FixedBackoff(time.Hour)}
	for i := range 6 {
		var options []backfill.EnqueueOption
		if i == 0 {
			options = append(options, backfill.MaxAttempts(1))
		}
		if _, err := backfill.Enqueue(t.Context(), r.client, task, args{}, append(options, backfill.RunAt(time.Now().Add(-time.Hour)))...); err != nil {
			t.Fatal(err)
		}
	}
	fails := 0
	r.runDue(backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, _ args) error {
		if fails++; fails <= 2 {
			return errors.New("no")
		}
		return nil
	})), backfill.WithConcurrency(1))
	rates, err := r.admin.Rates(t.Context())
	if err != nil || len(rates.Tasks) != 1 || len(rates.Missing) > 0 {
		t.Fatalf("rates: %+v, %v", rates, err)
	}
	got := rates.Tasks[0]
	if want := (admin.Outcomes{Completed: 4, Failed: 1, Dead: 1}); got.Task != "rated" || got.Recent.Ended != want || got.Hour.Ended != want {
		t.Errorf("rates: %+v, want %+v", got, want)
	}
	for _, rate := range []admin.Rate{got.Recent, got.Hour} {
		if rate.Run.Count != 6 || rate.Run.P50 <= 0 || rate.Run.P50 > rate.Run.P95 || rate.Run.P95 > rate.Run.P99 || rate.Run.Mean <= 0 {
			t.Errorf("run: %+v", rate.Run)
		}
		if rate.Wait.Count != 6 || rate.Wait.P50 < 2500 || rate.Wait.P99 > 5400 || rate.Wait.Mean < 3600 || rate.Wait.Mean > 3900 {
			t.Errorf("wait: %+v", rate.Wait)
		}
		if ended := rate.PerSecond * rate.Seconds; ended < 5.99 || ended > 6.01 {
			t.Errorf("%v jobs a second in %v seconds", rate.PerSecond, rate.Seconds)
		}
	}
	r.run("update graphile_worker.backfill_counters set minute = minute - interval '10 minutes'")
	rates, err = r.admin.Rates(t.Context())
	if err != nil || len(rates.Tasks) != 1 || rates.Tasks[0].Recent.PerSecond != 0 || rates.Tasks[0].Hour.Ended.Completed != 4 {
		t.Errorf("10 minutes later: %+v, %v", rates, err)
	}
	r.run("update graphile_worker.backfill_counters set minute = minute - interval '1 hour'")
	if rates, err = r.admin.Rates(t.Context()); err != nil || len(rates.Tasks) != 0 {
		t.Errorf("an hour later: %+v, %v", rates, err)
	}
}

// Tasks that may not be seen are left out, and without the table there is none.
func TestRatesAccess(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(`insert into graphile_worker.backfill_counters select now(), 'task ' || n, 'pool-1', 1, 0, 0, 0, 0, 0, 1, '{3}', '{1}', 1, '{}', '{}'
		from generate_series(1, 3) as n`)
	a := openAdmin(t, r.db.URL, admin.WithAuthorize(func(_ context.Context, _ admin.Principal, action admin.Action, target admin.Target) bool {
		return action == admin.ActionRead && target.Kind == admin.KindTask && target.Task == "task 2"
	}))
	rates, err := a.Rates(t.Context())
	if err != nil || len(rates.Tasks) != 1 || rates.Tasks[0].Task != "task 2" {
		t.Errorf("rates: %+v, %v", rates, err)
	}
	r.run("drop table graphile_worker.backfill_counters, graphile_worker.backfill_history")
	if rates, err := r.admin.Rates(t.Context()); err != nil || len(rates.Tasks) != 0 {
		t.Errorf("without the table: %+v, %v", rates, err)
	}
	if history, err := r.admin.History(t.Context(), 1); err != nil || len(history.Attempts) != 0 {
		t.Errorf("without the table: %+v, %v", history, err)
	}
}
