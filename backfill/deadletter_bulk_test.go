package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// What is gone, locked, in conflict, or refused by the server is an outcome. All others are done.
func TestBulkGoesAroundWhatItCannotDo(t *testing.T) {
	t.Parallel()
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client := newClient(t, db)
			jobs, err := client.Enqueue(t.Context(), backfill.Request{Task: "t", Key: "taken"})
			if err != nil {
				t.Fatal(err)
			}
			dbtest.Run(t, db.Pool(), `create function graphile_worker.refuse() returns trigger language plpgsql as $$
				begin if new.payload::text = '"raise"' then raise exception 'no such customer'; elsif new.payload::text = '"drop"' then return null; end if; return new; end $$`)
			dbtest.Run(t, db.Pool(), "create trigger refuse before insert on graphile_worker._private_jobs for each row execute function graphile_worker.refuse()")
			want := map[int64]backfill.DeadLetterSkip{}
			for i := range 250 {
				columns, skip := map[string]string{"queue_name": "'q'"}, backfill.DeadLetterSkip("")
				switch i {
				case 3:
					columns["job_key"], skip = "'taken'", backfill.SkipKeyHeld
				case 50:
					columns["task_identifier"], skip = quoteSQL(strings.Repeat("t", 129)), backfill.SkipRefused
				case 60:
					columns["max_attempts"], skip = "0", backfill.SkipRefused
				case 70:
					columns["payload"], skip = `'"raise"'`, backfill.SkipRefused
				case 80:
					columns["payload"], skip = `'"drop"'`, backfill.SkipRefused
				case 120:
					columns["queue_name"], skip = quoteSQL(strings.Repeat("q", 129)), backfill.SkipRefused
				}
				if name == "delete" {
					skip = ""
				}
				want[addLetter(t, db, columns)] = skip
			}
			locked := addLetter(t, db, nil)
			want[locked] = backfill.SkipLocked
			tx, err := db.Pool().Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(context.Background()) }()
			dbtest.Run(t, tx, "select from graphile_worker.backfill_dlq where id = $1 for update", locked)
			filter := backfill.DeadLetterFilter{}
			for id := range want {
				filter.IDs = append(filter.IDs, id)
			}
			gone := locked + 1000
			requeued := addLetter(t, db, map[string]string{"requeued_job_id": number(jobs[0].ID)})
			other := addLetter(t, db, map[string]string{"failure_reason": "'swept'"})
			filter.IDs = append(filter.IDs, gone, requeued, other, gone)
			filter.Reasons = []backfill.DeadLetterReason{backfill.ReasonExhausted}
			want[gone], want[requeued], want[other] = backfill.SkipGone, backfill.SkipRequeued, backfill.SkipUnmatched

			told := map[int64]backfill.DeadLetterOutcome{}
			result, err := change(client, t.Context(), filter, backfill.DeadLetterOptions{Each: func(o backfill.DeadLetterOutcome) { told[o.ID] = o }})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, outcomes(result)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			skipped := 0
			for id, skip := range want {
				if skip != "" {
					skipped++
				}
				o := told[id]
				if text := map[backfill.DeadLetterSkip]string{backfill.SkipRefused: "SQLSTATE", backfill.SkipLocked: "55P03"}[skip]; o.Skip != skip ||
					skip == backfill.SkipRefused && !strings.Contains(o.Detail, text) && !strings.Contains(o.Detail, "trigger") ||
					skip == backfill.SkipLocked && !strings.Contains(o.Detail, text) ||
					(skip == backfill.SkipRequeued || skip == backfill.SkipKeyHeld) && o.JobID != jobs[0].ID {
					t.Errorf("%+v, want %q", o, skip)
				}
			}
			if result.Acted != len(want)-skipped || result.Skipped != skipped || len(result.Outcomes) != len(want) {
				t.Errorf("%d acted, %d skipped, %d outcomes", result.Acted, result.Skipped, len(result.Outcomes))
			}
			acted := "select count(*) from graphile_worker._private_jobs where id > $1"
			if name == "delete" {
				acted = "select 254 - count(*) from graphile_worker.backfill_dlq where id > $1 - 1000000"
			}
			if n := get[int](t, db.Pool(), acted, jobs[0].ID); name == "requeue" && n != result.Acted || name == "delete" && n != result.Acted+1 {
				t.Errorf("%d were acted on in the tables, %d by the result", n, result.Acted)
			}
		})
	}
}

// The end of the context ends a bulk action between two batches. The result says what was done, and
// that is what the tables have.
func TestCancelledBulkSaysWhatWasDone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	addLetters(t, db, 250)
	ctx, cancel := context.WithCancel(t.Context())
	told := 0
	result, err := client.RequeueDeadLetters(ctx, backfill.DeadLetterFilter{All: true}, backfill.DeadLetterOptions{Each: func(backfill.DeadLetterOutcome) {
		if told++; told == 150 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || result == nil || result.Acted != 200 || len(result.Outcomes) != 200 {
		t.Fatalf("%+v, %v", result, err)
	}
	wantJobs(t, db, 200)
	if result := requeue(t, client, backfill.DeadLetterFilter{All: true}); result.Acted != 50 {
		t.Errorf("then: %+v", result)
	}
}

// With a rate, a batch is no more than a second's, and the next one waits.
func TestBulkAtARate(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	addLetters(t, db, 10)
	for rate, want := range map[float64]int{0.01: 1, 3.9: 3} {
		ctx, cancel := context.WithCancel(t.Context())
		result, err := client.DeleteDeadLetters(ctx, backfill.DeadLetterFilter{All: true}, backfill.DeadLetterOptions{
			PerSecond: rate, Each: func(backfill.DeadLetterOutcome) { cancel() },
		})
		if !errors.Is(err, context.Canceled) || result.Acted != want {
			t.Errorf("%v in a second: %+v, %v", rate, result, err)
		}
		cancel()
	}
	began := time.Now()
	result, err := client.DeleteDeadLetters(t.Context(), backfill.DeadLetterFilter{All: true}, backfill.DeadLetterOptions{PerSecond: 4})
	if took := time.Since(began); err != nil || result.Acted != 6 || took < time.Second { // a wait can only be longer
		t.Errorf("%+v, %v, in %v", result, err, took)
	}
	for _, rate := range []float64{-1, math.NaN(), math.Inf(1)} {
		if result, err := client.DeleteDeadLetters(t.Context(), backfill.DeadLetterFilter{All: true}, backfill.DeadLetterOptions{PerSecond: rate}); err == nil || result != nil {
			t.Errorf("%v in a second: %+v, %v", rate, result, err)
		}
	}
	if _, err := client.DeleteDeadLetters(t.Context(), backfill.DeadLetterFilter{All: true}, backfill.DeadLetterOptions{Notes: "n"}); err == nil {
		t.Error("notes of what is deleted are taken")
	}
}

// A dry run changes nothing, and counts no further than it has to.
func TestDryRunOfVeryMany(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	addLetters(t, db, 10_001)
	before := get[string](t, db.Pool(), "select md5(string_agg(d::text, '' order by id)) from graphile_worker.backfill_dlq d")
	for name, change := range changes {
		told := 0
		result, err := change(client, t.Context(), backfill.DeadLetterFilter{All: true}, backfill.DeadLetterOptions{
			DryRun: true, Each: func(backfill.DeadLetterOutcome) { told++ },
		})
		if err != nil || result.Acted != 10_000 || !result.More || len(result.Outcomes) != 1000 || told != 10_000 || result.UpTo.ID != 10_001 {
			t.Errorf("%s: %d, more: %v, %d outcomes, %d told, up to %+v, %v", name, result.Acted, result.More, len(result.Outcomes), told, result.UpTo, err)
		}
	}
	after := get[string](t, db.Pool(), "select md5(string_agg(d::text, '' order by id)) from graphile_worker.backfill_dlq d")
	if after != before {
		t.Error("a dry run has changed dead letters")
	}
	wantJobs(t, db, 0)
	result, err := client.RequeueDeadLetters(t.Context(), backfill.DeadLetterFilter{IDs: []int64{1}}, backfill.DeadLetterOptions{DryRun: true})
	if err != nil || result.Acted != 1 || result.More {
		t.Errorf("of one: %+v, %v", result, err)
	}
}

// Whichever message between client and server is lost, each dead letter is requeued once or as it
// was, and what is said of it is so (the first backfill requeued in two transactions).
func TestRequeueOverALostConnection(t *testing.T) {
	t.Parallel()
	for _, fault := range []dbtest.Fault{dbtest.Cut, dbtest.Kill} {
		t.Run(fault.String(), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			proxy := dbtest.NewProxy(t, db.URL)
			pool := poolOf(t, proxy.URL, func(*pgxpool.Config) {})
			client, err := backfill.NewClient(t.Context(), pool, backfill.WithLogger(quiet))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			const n = 3
			seen := map[string]bool{}
			for position, met := 1, byte('?'); met != 0; position++ {
				exec(t, db.Pool(), "delete from graphile_worker.backfill_dlq")
				exec(t, db.Pool(), "delete from graphile_worker._private_jobs")
				addLetters(t, db, n)
				pool.Reset() // perhaps the last fault was behind the last message
				proxy.Arm(position, fault)
				result, err := client.RequeueDeadLetters(t.Context(), backfill.DeadLetterFilter{All: true}, backfill.DeadLetterOptions{})
				met = proxy.Disarm()
				until(t, "no session is at work", func() bool {
					return get[bool](t, db.Pool(), `select not exists (select from pg_stat_activity where datname = current_database()
						and backend_type = 'client backend' and pid <> pg_backend_pid() and state <> 'idle')`)
				})
				if jobs := get[int](t, db.Pool(), "select count(*) from graphile_worker._private_jobs"); jobs != get[int](t, db.Pool(),
					"select count(requeued_job_id) from graphile_worker.backfill_dlq join graphile_worker._private_jobs j on j.id = requeued_job_id") {
					t.Fatalf("message %d: %d jobs are not the requeued dead letters", position, jobs)
				}
				acted := 0
				for _, o := range result.Outcomes {
					job := get[int64](t, db.Pool(), "select coalesce(requeued_job_id, 0) from graphile_worker.backfill_dlq where id = $1", o.ID)
					if o.Skip != "" || o.JobID != job || job == 0 {
						t.Errorf("message %d: %+v, but it is job %d", position, o, job)
					}
					acted++
				}
				if jobs := len(jobRows(t, db)); jobs != acted || err == nil && acted != n {
					t.Errorf("message %d: %d jobs, %d told, %v", position, jobs, acted, err)
				}
				seen[fmt.Sprint(met != 0, err == nil, acted)] = true
			}
			// After an answer that was lost, the item has its job all the same; before the first
			// batch, the error is all.
			if !seen["true true 3"] || !seen["true false 0"] || !seen["false true 3"] {
				t.Errorf("this says nothing: %v", seen)
			}
		})
	}
}
