//go:build unix

package main

import (
	"cmp"
	"strings"
	"testing"
)

// killedBy are the records of the harness and of a process that is killed by the poison 10 while it
// holds some jobs. Its number says when.
func killedBy(proc, held int) (own, fleet []record) {
	at := float64(proc)
	own = []record{
		{Op: opSpawned, At: us(at), N: int64(proc), Name: "worker-1", Text: string(dutyWorker)},
		{Op: opDied, At: us(at + 0.5), N: int64(proc), Name: "worker-1", Text: poisoned},
		{Op: opPoisoned, At: us(at + 0.6), N: int64(proc), Name: "worker-1", Count: held},
	}
	start := ran(proc, at+0.1, 0, 10, "")
	start[0].Kind, start[0].Attempt = kindPoison, 1
	return own, append(start, record{Op: opDying, At: us(at + 0.4), Proc: proc, N: 10})
}

func TestAuditOfPoison(t *testing.T) {
	t.Parallel()
	deadLetter := record{Op: opLeft, Job: 7, Ns: []int64{10}, Attempt: 25, Count: 1, Text: verdictCrashed + "it killed its worker three times"}
	left := func(change func(*record)) []record {
		r := deadLetter
		change(&r)
		return []record{r}
	}
	asItIs := left(func(*record) {})
	for name, c := range map[string]struct {
		deaths     int
		left       []record
		own, fleet []record // what else there is
		want       string   // how the only finding begins; "": there is none
		held       int      // at each death; 0: 8, so that the bound is 2 + 3 + 3
	}{
		"found out":                 {deaths: 5, left: asItIs},
		"at the bound":              {deaths: 8, left: asItIs},
		"beyond the bound":          {deaths: 9, left: asItIs, want: "poison: request 10 (poison) killed 9 workers"},
		"nothing else was held":     {deaths: 5, held: 1, left: asItIs},
		"too many for nothing else": {deaths: 6, held: 1, left: asItIs, want: "poison: request 10 (poison) killed 6 workers"},
		"beyond the bound, and another worker was killed": {
			deaths: 9, left: asItIs, own: []record{{Op: opDied, At: us(103), N: 1, Text: "signal: killed"}},
		},
		"beyond the bound, and another worker was killed before": {
			deaths: 9, left: asItIs, own: []record{{Op: opDied, At: us(99), N: 1, Text: "signal: killed"}}, want: "poison: request 10 (poison) killed 9 workers",
		},
		"beyond the bound, and another worker was stopped": {
			deaths: 9, left: asItIs, own: []record{{Op: opDied, At: us(103), N: 1, Text: success}}, want: "poison: request 10 (poison) killed 9 workers",
		},
		"beyond the bound, and another worker was killed afterwards": {
			deaths: 9, left: asItIs, own: []record{{Op: opDied, At: us(120), N: 1, Text: "signal: killed"}}, want: "poison: request 10 (poison) killed 9 workers",
		},
		"beyond the bound, and another worker had been declared dead": {
			deaths: 9, left: asItIs, own: []record{{Op: opBegin, At: us(98), Name: "TCP blackhole, one worker"}}, fleet: []record{{Op: opFenced, At: us(99), Proc: 1}},
			want: "poison: request 10 (poison) killed 9 workers",
		},
		"beyond the bound, and another worker was declared dead afterwards": {
			deaths: 9, left: asItIs, own: []record{{Op: opBegin, At: us(119), Name: "TCP blackhole, one worker"}}, fleet: []record{{Op: opFenced, At: us(120), Proc: 1}},
			want: "poison: request 10 (poison) killed 9 workers",
		},
		"beyond the bound, and once together with another poison": {
			deaths: 9, own: []record{deadLetter, {Op: opLeft, Job: 8, Ns: []int64{11}, Count: 1, Text: verdictCrashed}},
			fleet: join(acked(1, 11, record{Kind: kindPoison}), []record{{Op: opStarted, At: us(103.1), Proc: 103, Run: 2, N: 11, Job: 8}, {Op: opDying, At: us(103.4), Proc: 103, N: 11}}),
		},
		"charged": {
			deaths: 5, left: asItIs, fleet: attempted(2, ran(1, 110, 0, 10, "")), want: "charged: request 10",
		},
		"not enqueued": {
			fleet: []record{offered(1, 12, record{Kind: kindPoison}), answered(2, 12, opRefused)}, left: asItIs,
		},
		"beyond the bound, and another worker did not start": {
			deaths: 9, left: asItIs, own: []record{{Op: opDied, At: us(103), N: 1, Text: notStarted}}, want: "poison: request 10 (poison) killed 9 workers",
		},
		"beyond the bound, and an enqueuer was killed": {
			deaths: 9, left: asItIs, own: []record{{Op: opDied, At: us(103), N: 4, Text: "signal: killed"}}, want: "poison: request 10 (poison) killed 9 workers",
		},
		"beyond the bound, and another worker was declared dead": {
			deaths: 9, left: asItIs, own: []record{{Op: opBegin, At: us(102), Name: "TCP blackhole, one worker"}}, fleet: []record{{Op: opFenced, At: us(103), Proc: 1}},
		},
		"gone":                {deaths: 5, want: "poison: request 10 (poison) has no row"},
		"free":                {deaths: 5, left: left(func(r *record) { r.Count = 0 }), want: "poison: request 10 (poison) was not found out"},
		"a suspect":           {deaths: 5, left: left(func(r *record) { r.Count, r.Name = 0, "backfill-suspect.3.1" }), want: "poison: request 10 (poison) was not found out"},
		"still locked":        {deaths: 5, left: left(func(r *record) { r.Name = "pool-x.1.1" }), want: "poison: request 10 (poison) was not found out"},
		"another error":       {deaths: 5, left: left(func(r *record) { r.Text = "interrupted: " }), want: "poison: request 10 (poison) was not found out"},
		"a dead letter twice": {left: []record{deadLetter, deadLetter}, want: "dead letter: job 7, with the requests [10], is left twice"},
		"never executed":      {left: []record{{Op: opLeft, Job: 7, Ns: []int64{10}}}, want: "poison: request 10 (poison) was not found out"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own, fleet := started, acked(1, 10, record{Kind: kindPoison, Text: string(wayExit)})
			for i := range c.deaths {
				o, f := killedBy(101+i, max(1, cmp.Or(c.held, 8)>>i)) // half of them each time
				own, fleet = join(own, o), join(fleet, f)
			}
			v := auditOf(t, join(own, c.own, c.left), join(fleet, c.fleet))
			switch got := strings.Join(v.broken, "\n"); {
			case c.want == "" && got != "":
				t.Errorf("got %s", got)
			case c.want != "" && (!strings.HasPrefix(got, c.want) || len(v.broken) != 1):
				t.Errorf("got %q, want %s", got, c.want)
			}
		})
	}
}

func TestOrdeals(t *testing.T) {
	t.Parallel()
	own, fleet := started, acked(1, 10, record{Kind: kindPoison, Text: string(wayExit)})
	for proc, held := range map[int]int{101: 3, 102: 200} {
		o, f := killedBy(proc, held)
		own, fleet = join(own, o), join(fleet, f)
	}
	own = append(own, record{Op: opDied, At: us(101.7), N: 2, Text: "signal: killed"})
	var out strings.Builder
	auditOf(t, own, fleet).print(&out)
	for _, want := range []string{
		"| exit | 2 | 14 | 200 | 1 | no |\n", // 2 + 8 + 3 + 1
		"| all | 0 | 0 | 0 |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
