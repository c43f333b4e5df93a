package interop_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/backfillhq/go/backfill"
)

// What fails in one is tried again in the other.
func TestB3Failure(t *testing.T) {
	point(t)
	t.Parallel()
	t.Run("jobs", func(t *testing.T) {
		t.Parallel()
		inBothWays(t, func(f *fixture) {
			node := startPeer(f)
			testFormula(f, node)
			testRetries(f, node)
			testPermanent(f, node)
			node.stop()
		})
	})
	t.Run("batches", func(t *testing.T) {
		t.Parallel()
		testBatch(newFixture(t))
	})
	t.Run("sweep", func(t *testing.T) {
		t.Parallel()
		testSweptFailure(newFixture(t))
	})
}

// retryDelays are exp(attempt) seconds in microseconds, for attempts from 1 (contract section 6.2).
var retryDelays = []int64{
	2_718_282, 7_389_056, 20_085_537, 54_598_150, 148_413_159, 403_428_793, 1_096_633_158, 2_980_957_987, 8_103_083_928,
	22_026_465_795, 22_026_465_795, 22_026_465_795,
}

// failing is a task that fails, with the backoff of Graphile Worker.
var failing = &backfill.Task[json.RawMessage]{Name: "fail", Backoff: backfill.GraphileBackoff()}

// testFormula lets jobs fail that their handlers have moved to the future: then run_at does not depend on the time of the failure.
func testFormula(f *fixture, node *peer) {
	const (
		setup = `select graphile_worker.add_job('fail', run_at => '2024-01-01', max_attempts => 30) from generate_series(1, 12);
			update graphile_worker._private_jobs set attempts = (select count(*) from graphile_worker._private_jobs o where o.id < j.id) from
				graphile_worker._private_jobs j where j.id = _private_jobs.id`
		move   = "update graphile_worker._private_jobs set run_at = '2100-01-01 00:00:00.123456Z' where id = $1"
		delays = `select attempts || ': ' || (extract(epoch from run_at - '2100-01-01 00:00:00.123456Z') * 1000000)::bigint
			from graphile_worker._private_jobs order by id`
	)
	var want []string
	for i, delay := range retryDelays {
		want = append(want, fmt.Sprintf("%d: %d", i+1, delay))
	}

	f.reset(setup)
	report := f.workOnce(backfill.NewRegistry(backfill.Handle(failing, func(ctx context.Context, _ json.RawMessage) error {
		if _, err := f.db.Pool().Exec(ctx, move, backfill.JobInfo(ctx).ID); err != nil {
			f.Error(err)
		}
		return errors.New("late")
	})))
	if report.Failed != int64(len(want)) {
		f.Errorf("report: %+v", report)
	}
	if diff := cmp.Diff(want, f.lines(delays)); diff != "" {
		f.Errorf("delays after Go's failures in microseconds (-want +got):\n%s", diff)
	}

	f.reset(setup)
	f.workOnceInNode(node, bodies{failing.Name: `await helpers.query("` + move + `", [helpers.job.id]); throw new Error("late");`}, nil)
	if diff := cmp.Diff(want, f.lines(delays)); diff != "" {
		f.Errorf("delays after Node's failures in microseconds (-want +got):\n%s", diff)
	}
}

// A trial is how one attempt fails, in Go or, with a body, in Node.
type trial struct {
	inGo error
	node string // JavaScript
	text string // what last_error is then
}

// testRetries lets a job fail in turns until it fails for good. The job behind it in its queue then runs on the other side.
func testRetries(f *fixture, node *peer) {
	for _, trials := range [][]trial{
		{
			{node: `throw new Error("Grüße 🎉\n2")`, text: "Grüße 🎉\n2"},
			{inGo: errors.New("Grüße 🎉\n1"), text: "Grüße 🎉\n1"},
			{node: `throw "text"`, text: "An error occurred"},
		}, {
			{inGo: errors.New("a\x00b\xff"), text: "ab\uFFFD"},
			{node: `throw new Error("")`, text: "Error"},
			{inGo: fmt.Errorf("third: %w", errors.New("time")), text: "third: time"},
		},
	} {
		f.reset(fmt.Sprintf(`
			select graphile_worker.add_job('fail', '{"a" : 1}', 'q', '2024-01-01', %d, 'k');
			select graphile_worker.add_job('mate', '{}', 'q', '2024-01-01')`, len(trials)))
		want := f.leftovers(0).Rows[0]
		for i, trial := range trials {
			previous := want.LastError
			want.Attempts, want.LastError, want.IsAvailable = i+1, &trial.text, i+1 < len(trials)
			before := f.now()
			if trial.inGo != nil {
				f.failInGo(trial.inGo)
			} else {
				f.failInNode(node, trial.node, previous)
			}
			if last := i+1 == len(trials); last && trial.inGo != nil && !f.without {
				f.wantLetters(fmt.Sprintf(`fail q k {"a" : 1} %d/%[1]d exhausted %s`, len(trials), trial.text))
				continue
			}
			delay := time.Duration(retryDelays[i]) * time.Microsecond
			f.wantFailed(want, before.Add(delay), f.now().Add(delay))
			f.execute("update graphile_worker._private_jobs set run_at = now() where key = 'k'") // a retry is due
		}
		wantExhausted(f, node)
		if trials[len(trials)-1].inGo != nil {
			if said := f.workOnceInNode(node, bodies{"mate": ""}, nil); len(said) != 1 {
				f.Errorf("Node said %v, want that it works the next job of the queue", said)
			}
		} else {
			mate := &backfill.Task[backfill.NoArgs]{Name: "mate"}
			report := f.workOnce(backfill.NewRegistry(backfill.Handle(mate, nothing[backfill.NoArgs])))
			if report.Completed != 1 {
				f.Errorf("Go reports %+v, want that it works the next job of the queue", report)
			}
		}
	}
}

func (f *fixture) failInGo(err error) {
	f.Helper()
	report := f.workOnce(backfill.NewRegistry(backfill.Handle(failing, func(context.Context, json.RawMessage) error { return err })))
	if report.Failed != 1 {
		f.Errorf("Go reports %+v, want one failure", report)
	}
}

// failInNode lets the job fail in Node, which gets the text of the previous failure.
func (f *fixture) failInNode(node *peer, body string, previous *string) {
	f.Helper()
	body = `say({ type: "job", text: JSON.stringify(helpers.job.last_error) }); ` + body
	said := f.workOnceInNode(node, bodies{failing.Name: body}, nil)
	want := string(must(json.Marshal(previous)))
	if len(said) != 1 {
		f.Fatalf("Node said %v, want one job", said)
	}
	if said[0].Text != want {
		f.Errorf("Node got the last error %s, want %s", said[0].Text, want)
	}
}

// wantFailed checks a job that has failed: contract section 5.7 says what may change. Its queue is free.
func (f *fixture) wantFailed(want row, earliest, latest time.Time) {
	f.Helper()
	got := f.leftovers(0).Rows[0]
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(row{}, "RunAt")); diff != "" {
		f.Errorf("job after failure %d (-want +got):\n%s", want.Attempts, diff)
	}
	if got.RunAt.Before(earliest) || got.RunAt.After(latest) {
		f.Errorf("after failure %d run_at is %v, want it between %v and %v", want.Attempts, got.RunAt, earliest, latest)
	}
	if locked := f.lines("select queue_name from graphile_worker._private_job_queues where not is_available"); len(locked) > 0 {
		f.Errorf("after failure %d the queues %s are locked", want.Attempts, locked)
	}
}

// wantExhausted checks that nobody tries the failing job again.
func wantExhausted(f *fixture, node *peer) {
	f.Helper()
	if said := f.workOnceInNode(node, bodies{failing.Name: ""}, nil); len(said) > 0 {
		f.Errorf("Node works a job that has failed for good: %v", said)
	}
	report := f.workOnce(backfill.NewRegistry(backfill.Handle(failing, nothing[json.RawMessage])))
	if diff := cmp.Diff(&backfill.Report{}, report); diff != "" {
		f.Errorf("Go works a job that has failed for good (-want +got):\n%s", diff)
	}
}

func nothing[T any](context.Context, T) error { return nil }

// testPermanent fails a job for good before its attempts are used up. For Node they are.
func testPermanent(f *fixture, node *peer) {
	f.reset("select graphile_worker.add_job('fail', max_attempts => 9)")
	f.failInGo(backfill.Permanent(errors.New("hopeless")))
	if !f.without {
		f.wantLetters("fail {} 1/9 permanent hopeless")
		wantExhausted(f, node)
		return
	}
	f.wantLetters()
	got := f.leftovers(0).Rows[0]
	if got.Attempts != 9 || got.MaxAttempts != 9 || *got.LastError != "hopeless" {
		f.Errorf("job: %+v", got)
	}
	f.execute("update graphile_worker._private_jobs set run_at = now()")
	wantExhausted(f, node)
}

// testSweptFailure lets a job fail for good in Node. For an hour Node's operators can reschedule it;
// then a worker in Go makes a dead letter of it.
func testSweptFailure(f *fixture) {
	node := startPeer(f)
	f.reset("select graphile_worker.add_job('send_letter', '{\"text\" : \"x\"}', 'q', '2024-01-01', 1, 'k')")
	sweep := func() {
		f.Helper()
		f.execute("update graphile_worker.backfill_workers set swept_at = null")
		events, stop := f.startWorker()
		events.await(f.T, "the sweep", 0, ofKind(backfill.EventSwept))
		stop()
		if err := events.awaitEnd(f.T); err != nil {
			f.Errorf("run: %v", err)
		}
	}
	f.workOnceInNode(node, bodies{task.Name: `throw new Error("no")`}, nil)
	sweep()
	f.wantLetters()
	f.execute("select graphile_worker.reschedule_jobs(array(select id from graphile_worker._private_jobs), run_at => now(), attempts => 0)")
	f.workOnceInNode(node, bodies{task.Name: `throw new Error("again")`}, nil)
	f.execute(`update graphile_worker._private_jobs set updated_at = now() - interval '2 hours', run_at = run_at - interval '2 hours'`)
	sweep()
	f.wantLetters(`send_letter q k {"text" : "x"} 1/1 swept again`)
	f.wantNothingLeft()
	node.stop()
}

// now is the time of the database.
func (f *fixture) now() (now time.Time) {
	f.Helper()
	if err := f.db.Pool().QueryRow(f.Context(), "select clock_timestamp()").Scan(&now); err != nil {
		f.Fatal(err)
	}
	return now
}

// testBatch lets elements of a batch fail, in Go and Node by turns, until one of them has failed for good and is tried anew.
func testBatch(f *fixture) {
	const whole = `[1, {"n" : 2,"n":2}, 9007199254740993, "ü", [5] ]`
	node := startPeer(f)
	f.reset("select graphile_worker.add_job('fail', '" + whole + "', max_attempts => 4)")
	for i, step := range []struct {
		inGo   bool
		given  string // what the handler gets
		failed []int
		left   string // of the payload
	}{
		{true, whole, []int{1, 2, 3, 4}, `[{"n" : 2,"n":2},9007199254740993,"ü",[5]]`},
		{false, `[{"n":2},9007199254740992,"ü",[5]]`, []int{0, 1, 2}, `[{"n":2},9007199254740992,"ü"]`},
		{true, `[{"n":2},9007199254740992,"ü"]`, []int{0, 2}, `[{"n":2},"ü"]`},
		{false, `[{"n":2},"ü"]`, []int{1}, `["ü"]`},
	} {
		want := f.leftovers(0).Rows[0]
		want.Payload, want.Attempts, want.IsAvailable = step.left, i+1, i < 3
		if step.inGo {
			want.LastError = f.failElementsInGo(step.given, step.failed)
		} else {
			want.LastError = f.failElementsInNode(node, step.given, step.failed)
		}
		if diff := cmp.Diff(want, f.leftovers(0).Rows[0], cmpopts.IgnoreFields(row{}, "RunAt")); diff != "" {
			f.Errorf("job after failure %d (-want +got):\n%s", i+1, diff)
		}
		f.execute("update graphile_worker._private_jobs set run_at = now()")
	}
	wantExhausted(f, node)
	f.execute("select graphile_worker.reschedule_jobs(array(select id from graphile_worker._private_jobs), attempts => 0)")
	f.failElementsInGo(`["ü"]`, nil)
	f.wantNothingLeft()
	node.stop()
}

// failElementsInGo works a batch in Go, checks its payload, and returns the text of its failure.
func (f *fixture) failElementsInGo(payload string, failed []int) *string {
	f.Helper()
	batch := &backfill.BatchError{Errs: map[int]error{}}
	text := "Batch failures:"
	for _, i := range failed {
		line := fmt.Sprintf("Go fails at %d", i)
		batch.Errs[i] = errors.New(line)
		text += "\n" + line
	}
	f.workOnce(backfill.NewRegistry(backfill.Handle(failing, func(_ context.Context, args json.RawMessage) error {
		if string(args) != payload {
			f.Errorf("Go got %s, want %s", args, payload)
		}
		return batch
	})))
	return &text
}

// failElementsInNode does the same in Node.
func (f *fixture) failElementsInNode(node *peer, payload string, failed []int) *string {
	f.Helper()
	text := "Batch failures:"
	for _, i := range failed {
		text += fmt.Sprintf("\nNode fails at %d", i)
	}
	said := f.workOnceInNode(node, bodies{failing.Name: fmt.Sprintf(`
		await tell(helpers);
		return payload.map(async (element, i) => {
			if (%s.includes(i)) throw new Error("Node fails at " + i);
		});`, must(json.Marshal(failed)))}, nil)
	if len(said) != 1 {
		f.Fatalf("Node said %v, want one job", said)
	}
	if got := string(said[0].Job.Payload); got != payload {
		f.Errorf("Node got %s, want %s", got, payload)
	}
	return &text
}
