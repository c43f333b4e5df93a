//go:build unix

package main

import (
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill"
)

var permanent = record{Kind: kindPermanent, Key: "k"}

func TestAuditOfDeadLetters(t *testing.T) {
	t.Parallel()
	left := func(job int64, l letter) []record {
		return []record{{Op: opLeft, Job: job, Ns: []int64{10}, Key: "k", Count: 1, Text: "on purpose", Letter: &l}}
	}
	row := func(job int64) []record { return []record{{Op: opLeft, Job: job, Ns: []int64{10}, Key: "k"}} }
	as := func(job int64, records []record) []record {
		records[0].Job = job
		return records
	}
	// requeued is a call that requeues the dead letter 1 as a job.
	requeued := func(at float64, job int64) []record {
		return []record{
			{Op: opRequeuing, At: us(at), Proc: 4}, {Op: opRequeued, At: us(at), Proc: 4, N: 1, Job: job}, {Op: opReturned, At: us(at), Proc: 4},
		}
	}
	// calls is a call that leaves the dead letter 1 as it is, and says why, or requeues another one.
	calls := func(at float64, skip backfill.DeadLetterSkip) []record {
		answer := record{Op: opRequeued, At: us(at), Proc: 4, N: 1, Text: string(skip)}
		if skip == "" {
			answer = record{Op: opRequeued, At: us(at), Proc: 4, N: 2, Job: 98}
		}
		return []record{{Op: opRequeuing, At: us(at), Proc: 4}, answer, {Op: opReturned, At: us(at), Proc: 4}}
	}
	once := failed(ran(1, 2, 3, 10, ""))
	again := as(11, failed(ran(1, 5, 6, 10, "")))
	done := as(11, ran(1, 5, 6, 10, ""))
	first := join(acked(1, 10, permanent), once)
	twice := join(acked(1, 10, record{Kind: kindExhausted, Key: "k"}), failed(attempted(1, ran(1, 2, 3, 10, ""))), failed(attempted(2, ran(1, 4, 5, 10, ""))))
	unknown := []record{offered(1, 10, permanent), answered(1.5, 10, opUnknown)}
	noAnswer := []record{{Op: opRequeuing, At: us(4), Proc: 4}, {Op: opBroke, At: us(4), Proc: 4}}

	for name, c := range map[string]struct {
		own, fleet []record
		want       string // how the only finding begins; "": there is none
		tally      [3]int // dead letters, doubled, lost
	}{
		"one":             {own: left(10, letter{ID: 1, Reason: "permanent", Failures: 1}), fleet: first, tally: [3]int{1, 0, 0}},
		"one, exhausted":  {own: left(10, letter{ID: 1, Reason: "exhausted", Failures: 1}), fleet: twice, tally: [3]int{1, 0, 0}},
		"mended at once":  {fleet: join(acked(1, 10, permanent), ran(1, 2, 3, 10, ""))},
		"not enqueued":    {fleet: unknown},
		"requeued, done":  {fleet: join(first, requeued(4, 11), done)},
		"not answered":    {own: left(10, letter{ID: 1, Reason: "permanent", Failures: 1}), fleet: join(unknown, once), tally: [3]int{1, 0, 0}},
		"done, not swept": {own: left(10, letter{ID: 1, Reason: "permanent", Failures: 1, Requeues: 1, RequeuedAs: 11}), fleet: join(first, requeued(4, 11), done), tally: [3]int{1, 0, 0}},
		"requeued, and the same again": {
			own: left(11, letter{ID: 1, Reason: "permanent", Failures: 2, Requeues: 1}), fleet: join(first, requeued(4, 11), again), tally: [3]int{1, 0, 0},
		},
		"requeued without an answer, and the same again": {
			own: left(11, letter{ID: 1, Reason: "permanent", Failures: 2, Requeues: 1}), fleet: join(first, noAnswer, again), tally: [3]int{1, 0, 0},
		},
		"requeued by a process that was killed": {
			own: left(11, letter{ID: 1, Reason: "permanent", Failures: 2, Requeues: 1}), fleet: join(first, noAnswer[:1], again), tally: [3]int{1, 0, 0},
		},
		"lost": {fleet: first, want: "dead letter: request 10 (permanent) is gone", tally: [3]int{0, 0, 1}},
		"lost, and it never ran": {
			fleet: acked(1, 10, permanent), want: "dead letter: request 10 (permanent) is gone", tally: [3]int{0, 0, 1},
		},
		"lost, of an unknown outcome": {fleet: join(unknown, once), want: "dead letter: request 10 (permanent) is gone", tally: [3]int{0, 0, 1}},
		"lost after a requeue": {
			fleet: join(first, requeued(4, 11), again), want: "dead letter: request 10 (permanent) is gone", tally: [3]int{0, 0, 1},
		},
		"lost, its job vanished": {
			own: left(10, letter{ID: 1, Reason: "permanent", Failures: 1, Requeues: 1, RequeuedAs: 11}), fleet: join(first, requeued(4, 11)),
			want: "dead letter: request 10 (permanent) was requeued from the dead letter 1 as job 11", tally: [3]int{1, 0, 1},
		},
		"doubled": {
			own:   join(left(10, letter{ID: 1, Reason: "permanent", Failures: 1}), left(11, letter{ID: 2, Reason: "permanent", Failures: 1})),
			fleet: first, want: "dead letter: request 10 (permanent) has 2 dead letters", tally: [3]int{1, 1, 0},
		},
		"beside its job": {
			own: join(left(10, letter{ID: 1, Reason: "permanent", Failures: 1}), row(12)), fleet: first,
			want: "dead letter: request 10 (permanent) is the dead letter 1 and 1 jobs", tally: [3]int{1, 1, 0},
		},
		"requeued as two jobs": {
			own:   join(left(10, letter{ID: 1, Reason: "permanent", Failures: 1, Requeues: 1, RequeuedAs: 11}), row(11), row(12)),
			fleet: join(first, requeued(4, 11)), want: "dead letter: request 10 (permanent) is the dead letter 1 and 2 jobs", tally: [3]int{1, 1, 0},
		},
		"done as well": {
			own: left(10, letter{ID: 1, Reason: "permanent", Failures: 1}), fleet: join(first, ran(1, 5, 6, 10, "")),
			want: "dead letter: request 10 (permanent) was done", tally: [3]int{1, 1, 0},
		},
		"not run": {own: row(10), fleet: acked(1, 10, permanent), want: "not run: request 10 (permanent)"},
		"not run after a requeue": {
			own:   join(left(10, letter{ID: 1, Reason: "permanent", Failures: 1, Requeues: 1, RequeuedAs: 11}), row(11)),
			fleet: join(first, requeued(4, 11)), want: "not run: request 10 (permanent)", tally: [3]int{1, 0, 0},
		},
		"another reason": {
			own: left(10, letter{ID: 1, Reason: "swept", Failures: 1}), fleet: first,
			want: `dead letter: request 10 (permanent) has the reason "swept"`, tally: [3]int{1, 0, 0},
		},
		"another key": {
			own:   left(10, letter{ID: 1, Reason: "permanent", Failures: 1}),
			fleet: join(acked(1, 10, record{Kind: kindPermanent}), once), want: `dead letter: request 10 (permanent) has the key "k"`, tally: [3]int{1, 0, 0},
		},
		"a failure too many": {
			own: left(10, letter{ID: 1, Reason: "permanent", Failures: 2}), fleet: join(first, failed(ran(1, 5, 6, 10, ""))),
			want: "dead letter: request 10 (permanent) has failed for good 2 times", tally: [3]int{1, 0, 0},
		},
		"a failure that nobody counted": {
			own: left(11, letter{ID: 1, Reason: "permanent", Failures: 1, Requeues: 1}), fleet: join(first, requeued(4, 11), again),
			want: "dead letter: request 10 (permanent) has failed for good 1 times, was requeued 1", tally: [3]int{1, 0, 0},
		},
		"exhausted too soon": {
			own: left(10, letter{ID: 1, Reason: "exhausted", Failures: 1}), fleet: twice[:4],
			want: "dead letter: request 10 (exhausted) has failed for good 1 times, of 1 runs", tally: [3]int{1, 0, 0},
		},
		"a requeue that nobody counted": {
			own: left(10, letter{ID: 1, Reason: "permanent", Failures: 1}), fleet: join(first, requeued(4, 11), again),
			want: "dead letter: request 10 (permanent) was requeued 0 times, says the dead letter 1, and 1 times", tally: [3]int{1, 0, 0},
		},
		"a requeue whose job did not run": {
			own: left(11, letter{ID: 1, Reason: "permanent", Failures: 2, Requeues: 1}), fleet: join(acked(1, 10, permanent), once, failed(ran(1, 5, 6, 10, ""))),
			want: "dead letter: request 10 (permanent) was requeued 1 times, says the dead letter 1, and ran as 1 jobs", tally: [3]int{1, 0, 0},
		},
		"a job too many": {
			own:   left(12, letter{ID: 1, Reason: "permanent", Failures: 3, Requeues: 2}),
			fleet: join(first, noAnswer, again, calls(7, ""), as(12, failed(ran(1, 8, 9, 10, "")))),
			want:  "dead letter: request 10 (permanent) ran as job 11, and then as job 12, which nobody has requeued", tally: [3]int{1, 0, 0},
		},
		"a job too many, after another call of an unknown outcome": {
			own:   left(11, letter{ID: 1, Reason: "permanent", Failures: 2, Requeues: 1}),
			fleet: join(first, noAnswer, again, calls(7, backfill.SkipUnknown), as(12, failed(ran(1, 8, 9, 10, "")))),
			want:  "dead letter: request 10 (permanent) was requeued 1 times, says the dead letter 1, and ran as 3 jobs", tally: [3]int{1, 0, 0},
		},
		"a job that nobody requeued": {
			fleet: join(first, done), want: "dead letter: request 10 (permanent) ran as job 10, and then as job 11",
		},
		"a job that nobody can have requeued yet": {
			fleet: join(first, done, calls(7, backfill.SkipUnknown)), want: "dead letter: request 10 (permanent) ran as job 10, and then as job 11",
		},
		"a job whose requeue is not known": {fleet: join(first, calls(4, backfill.SkipUnknown), done)},
		"a job of a dead letter that was locked": {
			fleet: join(first, calls(4, backfill.SkipLocked), done), want: "dead letter: request 10 (permanent) ran as job 10, and then as job 11",
		},
		"refused, and failed": {
			own: left(10, letter{ID: 1, Reason: "permanent", Failures: 1}), fleet: join([]record{offered(1, 10, permanent), answered(1.5, 10, opRefused)}, once),
			want: "phantom: request 10 (permanent)", tally: [3]int{1, 0, 0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := auditOf(t, join(started, c.own), c.fleet)
			y := v.rows()[0].tally
			if got := [3]int{y.letters, y.lettersDoubled, y.lettersLost}; got != c.tally {
				t.Errorf("dead letters, doubled, lost: got %v, want %v", got, c.tally)
			}
			onlyFinding(t, v, c.want)
		})
	}
}

// The table has a column of each, and what is said below it.
func TestOutcomesOfEffectsAndDeadLetters(t *testing.T) {
	t.Parallel()
	l := &letter{ID: 1, Reason: "permanent", Failures: 1}
	own := join(started, wrote(20, 1, 4, 30), wrote(21, 1, 5), []record{
		{Op: opLeft, Job: 10, Ns: []int64{10}, Key: "k", Count: 1, Letter: l},
	})
	fleet := join(
		acked(1, 10, permanent), failed(ran(1, 2, 3, 10, "")),
		acked(1, 20, effectful), ran(1, 4, 4.5, 20, ""), followed(30), ran(2, 5, 6, 30, ""),
		acked(1, 21, effectful), ran(1, 5, 5.5, 21, ""), acked(1, 11, record{Kind: kindPermanent}),
		[]record{{Op: opRequeuing, At: us(6)}, {Op: opReturned, At: us(6)}, {Op: opRequeuing, At: us(7)}, {Op: opBroke, At: us(7)}},
	)
	var out strings.Builder
	auditOf(t, own, fleet).print(&out)
	for _, want := range []string{
		"| none | 0 | 3 | 3 | 3 | 0 | 0 | 0 | 0 | 2, 0, 0 | 1, 0, 1 | 0, 0, 0 | 0 |",
		"| all | 0 | 3 | 3 | 3 | 0 | 0 | 0 | 0 | 2, 0, 0 | 1, 0, 1 | 0, 0, 0 | 0 |",
		"2 effects had 1 follow-ups.\n",
		"Of 2 jobs that fail for good on purpose, 0 were done in the end. Dead letters were requeued 0 times; 1 times a call did not say what it had done.\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// A journal that lacks a call is no journal to judge by.
func TestAnswerWithoutACall(t *testing.T) {
	t.Parallel()
	q := newRequeues()
	if err := q.add(record{Op: opReturned, Proc: 4}); err == nil {
		t.Error("an answer is taken that belongs to no call")
	}
	if err := q.add(record{Op: opRequeuing, Proc: 4}); err != nil {
		t.Error(err)
	}
	if err := q.add(record{Op: opReturned, Proc: 4}); err != nil {
		t.Error(err)
	}
}
