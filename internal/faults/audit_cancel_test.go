//go:build unix

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill"
)

var (
	unwanted       = record{Kind: kindUnwanted}
	unwantedOnce   = record{Kind: kindUnwanted, Text: once}
	unwantedEffect = record{Kind: kindUnwantedEffect}
)

// cancel is a call that cancels request 10 at a time, and its answer half a second later; "": none.
func cancel(at float64, state backfill.CancelState, worker string) []record {
	call := record{Op: opCancel, At: us(at), Proc: 4, N: 10, Job: 10}
	if state == "" {
		return []record{call, {Op: opBroke, At: us(at + 0.5), Proc: 4, N: 10}}
	}
	return []record{call, {Op: opOutcome, At: us(at + 0.5), Proc: 4, N: 10, Job: 10, Text: string(state), Name: worker}}
}

// pools are the ids of the workers of processes 1 and 2, and of Node.
var pools = []record{{Op: opPool, Proc: 1, Text: "pool-1"}, {Op: opPool, Proc: 2, Text: "pool-2"}, {Op: opPool, Proc: 3, Text: "pool-node"}}

func TestAuditOfCancels(t *testing.T) {
	t.Parallel()
	const (
		done, requested, late = backfill.CancelDone, backfill.CancelRequested, backfill.CancelTooLate
		foreign, unknown      = backfill.CancelForeign, backfill.CancelUnknown
	)
	row := []record{{Op: opLeft, Job: 10, Ns: []int64{10}}}
	dead := []record{{Op: opLeft, Job: 10, Ns: []int64{10}, Count: 1, Text: "interrupted", Letter: &letter{ID: 1, Reason: "interrupted", Failures: 1}}}
	stopped := func(records []record) []record {
		records[1].Op = opCancelled
		return records
	}
	first := acked(1, 10, unwanted)
	single := acked(1, 10, unwantedOnce)
	effect := acked(1, 10, unwantedEffect)

	for name, c := range map[string]struct {
		own, fleet []record
		want       string // how the only finding begins; "": there is none
		tally      [3]int // cancelled, ran afterwards, lost
	}{
		"before it ran":               {fleet: join(first, cancel(2, done, "")), tally: [3]int{1, 0, 0}},
		"while it ran":                {fleet: join(first, ran(1, 2, 5, 10, ""), cancel(3, requested, "pool-1")), tally: [3]int{1, 0, 0}},
		"when it had ended":           {fleet: join(first, stopped(ran(1, 2, 3, 10, "")), cancel(3, done, "")), tally: [3]int{1, 0, 0}},
		"when it was about to start":  {fleet: join(first, cancel(2, requested, "pool-1"), ran(1, 2.6, 5, 10, "")), tally: [3]int{1, 0, 0}},
		"of a worker that is dead":    {fleet: join(first, ran(1, 2, 0, 10, ""), cancel(3, requested, "pool-1")), tally: [3]int{1, 0, 0}},
		"twice":                       {fleet: join(first, cancel(2, requested, "pool-1"), cancel(3, late, "")), tally: [3]int{1, 0, 0}},
		"after a call without answer": {fleet: join(first, cancel(2, "", ""), cancel(3, late, ""))},
		"without an answer":           {fleet: join(first, cancel(2, "", "")[:1])},
		"without an answer, and it ran": {
			fleet: join(first, cancel(2, "", ""), ran(1, 4, 5, 10, ""), cancel(6, late, "")),
		},
		"of an unknown outcome": {fleet: join(first, cancel(2, unknown, ""))},
		"too late":              {fleet: join(first, ran(1, 2, 3, 10, ""), cancel(4, late, ""))},
		"too late, by Node": {
			fleet: join(first, ran(3, 2, 5, 10, ""), cancel(3, foreign, "pool-node"), cancel(6, late, "")),
		},
		"too late: it failed for good": {own: dead, fleet: join(single, cancel(4, late, ""))},
		"never":                        {fleet: join(first, ran(1, 2, 3, 10, ""))},
		"never, and it failed for good": {
			own: dead, fleet: join(single, failed(ran(1, 2, 3, 10, ""))),
		},
		"not enqueued": {fleet: []record{offered(1, 10, unwanted), answered(1.5, 10, opUnknown)}},
		"transactional, before it committed": {
			fleet: join(effect, ran(1, 2, 5, 10, ""), cancel(3, requested, "pool-1")), tally: [3]int{1, 0, 0},
		},
		"transactional, while it was being committed": {
			own: wrote(10, 1, 2), fleet: join(effect, ran(1, 2, 2.5, 10, ""), cancel(2.2, requested, "")), tally: [3]int{1, 0, 0},
		},
		"transactional, too late": {own: wrote(10, 1, 2), fleet: join(effect, ran(1, 2, 3, 10, ""), cancel(4, late, ""))},
		"while it ran, and the worker was away": {
			own:   []record{{Op: opBegin, At: us(2.5), Name: "TCP blackhole, one worker"}},
			fleet: join(first, ran(1, 2, 9, 10, ""), cancel(6, done, "")), tally: [3]int{1, 0, 0},
		},

		"ran after it was deleted": {
			fleet: join(first, cancel(2, done, ""), ran(1, 4, 5, 10, "")),
			want:  "cancel: request 10 (unwanted) was canceled, and started 1.500 s after the answer", tally: [3]int{1, 1, 0},
		},
		"ran after a request, elsewhere": {
			fleet: join(first, cancel(2, requested, "pool-1"), ran(2, 2.6, 5, 10, "")),
			want:  "cancel: request 10 (unwanted) was requested, and started 0.100 s after the answer", tally: [3]int{1, 1, 0},
		},
		"ran after a request, later": {
			fleet: join(first, stopped(ran(1, 1.8, 2.1, 10, "")), cancel(2, requested, "pool-1"), ran(1, 4, 5, 10, "")),
			want:  "cancel: request 10 (unwanted) was requested, and started 1.500 s after the answer", tally: [3]int{1, 1, 0},
		},
		"ran twice after a request": {
			fleet: join(first, cancel(2, requested, "pool-1"), stopped(ran(1, 2.6, 2.7, 10, "")), ran(1, 2.8, 2.9, 10, "")),
			want:  "cancel: request 10 (unwanted) was requested, and started 0.300 s after the answer", tally: [3]int{1, 1, 0},
		},
		"ran after it was too late": {
			fleet: join(first, ran(1, 2, 3, 10, ""), cancel(4, late, ""), failed(ran(2, 6, 7, 10, ""))),
			want:  "cancel: request 10 (unwanted) was too_late, and started after that",
		},
		"ran after it was gone": {
			fleet: join(first, cancel(4, unknown, ""), ran(2, 6, 7, 10, "")), want: "cancel: request 10 (unwanted) was unknown, and started after that",
		},
		"still running": {
			fleet: join(first, ran(1, 2, 5, 10, ""), cancel(3, done, "")),
			want:  "cancel: request 10 (unwanted) was canceled 1.500 s before its run had ended", tally: [3]int{1, 0, 0},
		},
		"has committed": {
			own: wrote(10, 1, 2), fleet: join(effect, ran(1, 2, 5, 10, ""), cancel(3, requested, "pool-1")),
			want: "cancel: request 10 (unwanted-effect) was requested, and has committed a row, by the run that ended 1.500 s after", tally: [3]int{1, 1, 0},
		},
		"has committed, and had ended": {
			own: wrote(10, 1, 2), fleet: join(effect, ran(1, 2, 2.5, 10, ""), cancel(2.2, requested, "pool-1")),
			want: "cancel: request 10 (unwanted-effect) was requested, and has committed a row", tally: [3]int{1, 1, 0},
		},
		"has a dead letter": {
			own: dead, fleet: join(single, ran(1, 2, 5, 10, ""), cancel(3, requested, "pool-1")),
			want: `cancel: request 10 (unwanted) was cancelled, and is left: at attempt 0, locked by "", with the error "interrupted"`, tally: [3]int{1, 1, 0},
		},
		"its row is left": {
			own: row, fleet: join(first, ran(1, 2, 5, 10, ""), cancel(3, requested, "pool-1")),
			want: "cancel: request 10 (unwanted) was cancelled, and is left", tally: [3]int{1, 0, 0},
		},
		"its request is left": {
			own: []record{{Op: opPending, Job: 10}}, fleet: join(first, ran(1, 2, 5, 10, ""), cancel(3, requested, "pool-1")),
			want: "cancel: the request to cancel job 10 is left", tally: [3]int{1, 0, 0},
		},
		"too late for nothing": {
			fleet: join(first, cancel(2, late, ""), cancel(3, "", "")),
			want:  "cancel: request 10 (unwanted) was too late to be cancelled, and nothing says that it had ended",
		},
		"too late before it had ended": {
			fleet: join(first, ran(1, 2, 5, 10, ""), cancel(3, late, "")),
			want:  "cancel: request 10 (unwanted) was too_late 1.500 s before its run had ended",
		},
		"too late, and it was not committed": {
			fleet: join(effect, ran(1, 2, 3, 10, ""), cancel(4, late, ""), cancel(5, "", "")),
			want:  "cancel: request 10 (unwanted-effect) was too late to be cancelled, and nothing says",
		},
		"foreign, in a worker of ours": {
			fleet: join(first, ran(1, 2, 5, 10, ""), cancel(3, foreign, "pool-1")), want: `cancel: request 10 (unwanted) was said to run in Node, by "pool-1"`,
		},
		"refused": {
			fleet: join(first, cancel(3, backfill.CancelRefused, ""), ran(1, 4, 5, 10, "")), want: "cancel: request 10 (unwanted) was refused",
		},
		"one attempt, and two starts": {
			fleet: join(single, ran(1, 2, 0, 10, ""), ran(2, 11, 12, 10, "")), own: []record{{Op: opDied, At: us(3), N: 1}},
			want: "cancel: request 10 (unwanted) has one attempt, and started 2 times",
		},
		"lost": {
			fleet: join(first, stopped(ran(1, 2, 3, 10, "")), cancel(2.1, foreign, "pool-node")), want: "lost: request 10 (unwanted) was not cancelled", tally: [3]int{0, 0, 1},
		},
		"a transactional one is lost": {
			fleet: join(effect, ran(1, 2, 3, 10, "")), want: "lost: request 10 (unwanted-effect) was not cancelled", tally: [3]int{0, 0, 1},
		},
		"not run": {own: row, fleet: first, want: "not run: request 10 (unwanted)"},
		"failed for good": {
			own: dead, fleet: join(first, failed(ran(1, 2, 3, 10, ""))), want: "dead letter: job 10",
		},
		"without a request": {
			fleet: join([]record{offered(1, 10, unwanted), answered(1.5, 10, opRefused)}, ran(1, 2, 3, 10, "")), want: "phantom: request 10 (unwanted)",
		},
		"a row twice": {
			own: join(wrote(10, 1, 2), wrote(10, 2, 4)), fleet: join(effect, ran(1, 2, 3, 10, ""), ran(2, 4, 5, 10, "")),
			want: "effect: request 10 (unwanted-effect) has 2 rows",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := auditOf(t, join(started, c.own), join(pools, c.fleet))
			var got [3]int
			for _, y := range v.tallies {
				got = [3]int{got[0] + y.cancels, got[1] + y.cancelsRan, got[2] + y.cancelsLost}
			}
			if got != c.tally {
				t.Errorf("cancelled, ran afterwards, lost: got %v, want %v", got, c.tally)
			}
			onlyFinding(t, v, c.want)
		})
	}
}

// The table has a column of them, and what the calls said is below it.
func TestOutcomesOfCancels(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	auditOf(t, started, join(pools,
		acked(1, 10, unwanted), cancel(2, "", ""), cancel(3, backfill.CancelRequested, "pool-1"), ran(1, 3.6, 4, 10, ""), cancel(5, backfill.CancelTooLate, ""),
		acked(1, 11, unwanted), ran(1, 2, 3, 11, ""), acked(1, 12, plain), ran(1, 2.5, 3, 12, ""),
	)).print(&out)
	for _, want := range []string{
		"| none | 0 | 1 | 1 | 1 | 0 | 0 | 0 | 0 | 0, 0, 0 | 0, 0, 0 | 1, 0, 0 | 0 |",
		"| all | 0 | 1 | 1 | 1 | 0 | 0 | 0 | 0 | 0, 0, 0 | 0, 0, 0 | 1, 0, 0 | 0 |",
		"Of 2 answers to cancels, 0 canceled, 1 requested, 1 too late, 0 foreign, 0 locked, 0 unknown. 1 calls returned an error, or did not return. 1 jobs that",
		"PASS",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// A process that starts again repeats the calls that had no answer, and no others.
func TestUnansweredCancels(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/cancel.journal"
	log, err := openJournal(path, 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []record{
		{Op: opCancel, N: 1, Job: 11},
		{Op: opOutcome, N: 1, Job: 11, Text: string(backfill.CancelDone)},
		{Op: opCancel, N: 2, Job: 12, Key: "k"},
		{Op: opBroke, N: 2},
		{Op: opCancel, N: 3, Job: 13},
	} {
		log.write(r)
	}
	list, err := unansweredCancels(path)
	slices.SortFunc(list, func(a, b record) int { return int(a.N - b.N) })
	if err != nil || len(list) != 2 || list[0].Job != 12 || list[0].Key != "k" || list[1].Job != 13 {
		t.Errorf("got %v, %v", list, err)
	}
}

// A journal that lacks a call is no journal to judge by.
func TestOutcomeWithoutACall(t *testing.T) {
	t.Parallel()
	c := newCancels()
	if err := c.add(record{Op: opOutcome, Proc: 4, N: 10, Text: string(backfill.CancelDone)}); err == nil {
		t.Error("an answer is taken that belongs to no call")
	}
}
