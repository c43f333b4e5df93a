//go:build unix

package main

import (
	"strings"
	"testing"
)

var effectful = record{Kind: kindEffect}

// wrote is the row of a request that the run of a process wrote which began at a time.
func wrote(n int64, proc int, from float64, follow ...int64) []record {
	return []record{{Op: opEffect, N: n, Job: n, Count: proc, Run: us(from), Ns: follow}}
}

// followed is a follow-up that a handler offered.
func followed(n int64) []record { return []record{offered(2.5, n, record{Kind: kindFollow})} }

func TestAuditOfEffects(t *testing.T) {
	t.Parallel()
	cancelled := func(records []record) []record {
		records[1].Op = opCancelled
		return records
	}
	otherJob := func(records []record) []record {
		records[0].Job = 99
		return records
	}
	unknown := []record{offered(1, 10, effectful), answered(1.5, 10, opUnknown)}
	for name, c := range map[string]struct {
		own, fleet []record
		want       string // how the only finding begins; "": there is none
		tally      [3]int // effects, doubled, lost
	}{
		"once": {
			own: wrote(10, 1, 2), fleet: join(acked(1, 10, effectful), ran(1, 2, 3, 10, "")), tally: [3]int{1, 0, 0},
		},
		"once, where another run was rolled back": {
			own: wrote(10, 2, 4), fleet: join(acked(1, 10, effectful), ran(1, 2, 3, 10, ""), ran(2, 4, 5, 10, "")), tally: [3]int{1, 0, 0},
		},
		"once, after a failure, charged for a transaction that did not begin": {
			own: wrote(10, 2, 4), fleet: join(acked(1, 10, effectful), failed(attempted(1, ran(1, 2, 3, 10, ""))), attempted(3, ran(2, 4, 5, 10, ""))),
			tally: [3]int{1, 0, 0},
		},
		"once, of an unknown outcome": {own: wrote(10, 1, 2), fleet: join(unknown, ran(1, 2, 3, 10, ""))},
		"not enqueued":                {fleet: unknown},
		"twice": {
			own: join(wrote(10, 1, 2), wrote(10, 2, 4)), fleet: join(acked(1, 10, effectful), ran(1, 2, 3, 10, ""), ran(2, 4, 5, 10, "")),
			want: "effect: request 10 (effect) has 2 rows", tally: [3]int{1, 1, 0},
		},
		"twice, of an unknown outcome": {
			own: join(wrote(10, 1, 2), wrote(10, 2, 4)), fleet: join(unknown, ran(1, 2, 3, 10, ""), ran(2, 4, 5, 10, "")),
			want: "effect: request 10 (effect) has 2 rows", tally: [3]int{0, 1, 0},
		},
		"done without a row": {
			fleet: join(acked(1, 10, effectful), ran(1, 2, 3, 10, "")), want: "lost: request 10 (effect)", tally: [3]int{0, 0, 1},
		},
		"gone": {fleet: acked(1, 10, effectful), want: "lost: request 10 (effect)", tally: [3]int{0, 0, 1}},
		"done without a row, of an unknown outcome": {
			fleet: join(unknown, ran(1, 2, 3, 10, "")), want: "effect: request 10 (effect) started 1 times, and is gone", tally: [3]int{0, 0, 1},
		},
		"left without a row": {
			own: []record{{Op: opLeft, Job: 10, Ns: []int64{10}}}, fleet: join(acked(1, 10, effectful), ran(1, 2, 3, 10, "")), want: "not run: request 10 (effect)",
		},
		"left with a row": {
			own: join(wrote(10, 1, 2), []record{{Op: opLeft, Job: 10, Ns: []int64{10}}}), fleet: join(acked(1, 10, effectful), ran(1, 2, 3, 10, "")),
			want: "effect: request 10 (effect) has a row, and its job is left", tally: [3]int{1, 0, 0},
		},
		"a dead letter": {
			own:   []record{{Op: opLeft, Job: 10, Ns: []int64{10}, Count: 1, Text: "refused", Letter: &letter{ID: 1, Reason: "exhausted", Failures: 1}}},
			fleet: acked(1, 10, effectful), want: "dead letter: job 10",
		},
		"refused, with a row": {
			own: wrote(10, 1, 2), fleet: join([]record{offered(1, 10, effectful), answered(1.5, 10, opRefused)}, ran(1, 2, 3, 10, "")),
			want: "phantom: request 10 (effect)",
		},
		"of a run that failed": {
			own: wrote(10, 1, 2), fleet: join(acked(1, 10, effectful), failed(ran(1, 2, 3, 10, ""))),
			want: "effect: request 10 (effect) has a row of the run 2000000 of process 1", tally: [3]int{1, 0, 0},
		},
		"of a run whose context had ended": {
			own: wrote(10, 1, 2), fleet: join(acked(1, 10, effectful), cancelled(ran(1, 2, 3, 10, ""))),
			want: "effect: request 10 (effect) has a row of the run 2000000 of process 1", tally: [3]int{1, 0, 0},
		},
		"of a run that was killed": {
			own: wrote(10, 1, 2), fleet: join(acked(1, 10, effectful), ran(1, 2, 0, 10, "")),
			want: "effect: request 10 (effect) has a row of the run 2000000 of process 1", tally: [3]int{1, 0, 0},
		},
		"of another job's run": {
			own: wrote(10, 1, 2), fleet: join(acked(1, 10, effectful), otherJob(ran(1, 2, 3, 10, ""))),
			want: "effect: request 10 (effect) has a row of the run 2000000 of process 1", tally: [3]int{1, 0, 0},
		},
		"with a follow-up": {
			own: wrote(10, 1, 2, 20), fleet: join(acked(1, 10, effectful), ran(1, 2, 3, 10, ""), followed(20), ran(2, 4, 5, 20, "")), tally: [3]int{1, 0, 0},
		},
		"with a follow-up that ran again": {
			own:   join([]record{{Op: opBegin, At: us(5.5), Name: "SIGKILL of a worker"}}, wrote(10, 1, 2, 20)),
			fleet: join(acked(1, 10, effectful), ran(1, 2, 3, 10, ""), followed(20), ran(2, 4, 5, 20, ""), ran(1, 6, 7, 20, "")), tally: [3]int{1, 0, 0},
		},
		"with a follow-up that is gone": {
			own: wrote(10, 1, 2, 20), fleet: join(acked(1, 10, effectful), ran(1, 2, 3, 10, ""), followed(20)),
			want: "lost: request 20 (follow)", tally: [3]int{1, 0, 1},
		},
		"with a follow-up that is left": {
			own:   join(wrote(10, 1, 2, 20), []record{{Op: opLeft, Job: 20, Ns: []int64{20}}}),
			fleet: join(acked(1, 10, effectful), ran(1, 2, 3, 10, ""), followed(20)), want: "not run: request 20 (follow)", tally: [3]int{1, 0, 0},
		},
		"with a follow-up that is two jobs": {
			own:   join([]record{{Op: opBegin, At: us(5.5), Name: "SIGKILL of a worker"}}, wrote(10, 1, 2, 20)),
			fleet: join(acked(1, 10, effectful), ran(1, 2, 3, 10, ""), followed(20), ran(2, 4, 5, 20, ""), otherJob(ran(1, 6, 7, 20, ""))),
			want:  "effect: request 20 (follow) was enqueued once, and is 2 jobs", tally: [3]int{1, 1, 0},
		},
		"with a follow-up that ran, and is another dead letter": {
			own:   join(wrote(10, 1, 2, 20), []record{{Op: opLeft, Job: 99, Ns: []int64{20}}}),
			fleet: join(acked(1, 10, effectful), ran(1, 2, 3, 10, ""), followed(20), ran(2, 4, 5, 20, "")),
			want:  "effect: request 20 (follow) was enqueued once, and is 2 jobs", tally: [3]int{1, 1, 0},
		},
		"rolled back with its follow-up": {
			own: wrote(10, 2, 4), fleet: join(acked(1, 10, effectful), ran(1, 2, 3, 10, ""), ran(2, 4, 5, 10, ""), followed(20)), tally: [3]int{1, 0, 0},
		},
		"rolled back, and the follow-up ran": {
			own: wrote(10, 2, 4), fleet: join(acked(1, 10, effectful), ran(1, 2, 3, 10, ""), ran(2, 4, 5, 10, ""), followed(20), ran(2, 6, 7, 20, "")),
			want: "phantom: request 20 (follow)", tally: [3]int{1, 0, 0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := auditOf(t, join(started, c.own), c.fleet)
			y := v.rows()[0].tally
			for _, later := range v.rows()[1:] {
				y.add(later.tally)
			}
			if got := [3]int{y.effects, y.effectsDoubled, y.effectsLost}; got != c.tally {
				t.Errorf("effects, doubled, lost: got %v, want %v", got, c.tally)
			}
			onlyFinding(t, v, c.want)
		})
	}
}

// onlyFinding checks how the only finding begins; "": there is none.
func onlyFinding(t *testing.T, v *verdict, want string) {
	t.Helper()
	switch got := strings.Join(v.broken, "\n"); {
	case want == "" && got != "":
		t.Errorf("got %s", got)
	case want != "" && (!strings.HasPrefix(got, want) || len(v.broken) != 1):
		t.Errorf("got %q, want %s", got, want)
	}
}
