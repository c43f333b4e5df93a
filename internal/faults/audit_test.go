//go:build unix

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the fleet in these tests is: processes 1 and 2 work, 3 is Node, 4 enqueues. Times are
// seconds.
var started = []record{
	{Op: opSpawned, N: 1, Name: "worker-1", Text: string(dutyWorker)},
	{Op: opSpawned, N: 2, Name: "worker-2", Text: string(dutyWorker)},
	{Op: opSpawned, N: 3, Name: "node-1", Text: string(dutyNode)},
	{Op: opSpawned, N: 4, Name: "enqueue-1", Text: string(dutyEnqueue)},
}

func offered(at float64, n int64, r record) record {
	r.Op, r.At, r.Proc, r.N = opOffered, us(at), 4, n
	return r
}

func answered(at float64, n int64, answer op) record {
	return record{Op: answer, At: us(at), Proc: 4, N: n}
}

// acked is an offer with its answer.
func acked(at float64, n int64, r record) []record {
	a := answered(at+0.1, n, opAcked)
	a.Count = r.Count
	return []record{offered(at, n, r), a}
}

// ran is a run from one time to another; 0: it did not come to its end.
func ran(proc int, from, to float64, n int64, queue string) []record {
	start := record{Op: opStarted, At: us(from), Proc: proc, Run: us(from), N: n, Job: n, Queue: queue}
	if to == 0 {
		return []record{start}
	}
	return []record{start, {Op: opEnded, At: us(to), Proc: proc, Run: us(from), N: n}}
}

// failed makes the run one that failed.
func failed(records []record) []record {
	records[1].Op = opFailed
	return records
}

func attempted(attempt int, records []record) []record {
	records[0].Attempt = attempt
	return records
}

// ticked is a run of a job of the first minute's tick.
func ticked(proc int, at float64, job int64) []record {
	start := record{Op: opStarted, At: us(at), Proc: proc, Run: us(at), N: 60, Job: job, Kind: kindTick}
	return []record{start, {Op: opEnded, At: us(at + 0.1), Proc: proc, Run: us(at)}}
}

func us(seconds float64) int64 { return int64(seconds * 1e6) }

func join(parts ...[]record) (all []record) {
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

var (
	plain  = record{Kind: kindPlain}
	serial = record{Kind: kindSerial, Queue: "q"}
	keyed  = record{Kind: kindKeyed, Key: "k"}
)

func TestAudit(t *testing.T) {
	t.Parallel()
	fault := func(name string, at float64) []record {
		return []record{{Op: opBegin, At: us(at), Name: name}, {Op: opEnd, At: us(at), Name: name}}
	}
	for name, c := range map[string]struct {
		own, fleet []record
		want       string // how the only finding begins; "": there is none
	}{
		"all is well":  {fleet: join(acked(1, 10, plain), ran(1, 2, 3, 10, ""))},
		"not answered": {fleet: []record{offered(1, 10, plain)}},
		"lost":         {fleet: acked(1, 10, plain), want: "lost: request 10"},
		"lost while it ran": {
			fleet: join(acked(1, 10, plain), ran(1, 2, 0, 10, "")), want: "lost: request 10",
		},
		"one of a call is lost": {
			fleet: join(acked(1, 10, record{Kind: kindMany, Count: 2}), ran(1, 2, 3, 10, "")), want: "lost: request 11",
		},
		"one of a batch job is lost": {
			fleet: join(acked(1, 10, record{Kind: kindBatch, Count: 2}), []record{
				{Op: opStarted, At: us(2), Proc: 1, Run: 1, Kind: kindBatch, Ns: []int64{10, 11}},
				{Op: opEnded, At: us(3), Proc: 1, Run: 1, Ns: []int64{11}},
			}), want: "lost: request 10",
		},
		"left in the table": {
			own: []record{{Op: opLeft, Ns: []int64{10}, Name: "pool-x.1.1"}}, fleet: acked(1, 10, plain), want: "not run: request 10",
		},
		"failed for good": {
			own: []record{{Op: opLeft, Job: 7, Ns: []int64{10}, Count: 1, Text: "crashed: 3 workers"}}, fleet: acked(1, 10, plain), want: "dead letter: job 7",
		},
		"failed for good, and its outcome was unknown": {
			own:   []record{{Op: opLeft, Job: 7, Ns: []int64{10}, Count: 1}},
			fleet: []record{offered(1, 10, plain), answered(2, 10, opUnknown)}, want: "dead letter: job 7",
		},
		"failed for good, without a request": {
			own: []record{{Op: opLeft, Job: 7, Count: 1}}, want: "dead letter: job 7",
		},
		"replaced while it was locked": {
			own:   []record{{Op: opLeft, Job: 7, Ns: []int64{10}, Count: 1}},
			fleet: join(acked(1, 10, keyed), acked(2, 11, keyed), ran(1, 3, 4, 11, "")),
		},
		"replaced, and failed for good": {
			own:   []record{{Op: opLeft, Job: 7, Ns: []int64{10}, Count: 1, Text: "crashed: 3 workers"}},
			fleet: join(acked(1, 10, keyed), acked(2, 11, keyed), ran(1, 3, 4, 11, "")), want: "dead letter: job 7",
		},
		"refused, and ran": {
			fleet: join([]record{offered(1, 10, plain), answered(2, 10, opRefused)}, ran(1, 3, 4, 10, "")), want: "phantom: request 10",
		},
		"unknown, and ran": {
			fleet: join([]record{offered(1, 10, plain), answered(2, 10, opUnknown)}, ran(1, 3, 4, 10, "")),
		},
		"rolled back, and ran": {
			fleet: join([]record{offered(1, 10, record{Kind: kindRolledBack})}, ran(1, 3, 4, 10, "")), want: "phantom: request 10",
		},
		"too early": {
			fleet: join(acked(1, 10, record{Kind: kindScheduled, Due: us(5)}), ran(1, 4, 5, 10, "")), want: "early: request 10",
		},
		"replaced": {
			fleet: join(acked(1, 10, keyed), acked(2, 11, keyed), ran(1, 3, 4, 11, "")),
		},
		"the replaced one ran alone": {
			fleet: join(acked(1, 10, keyed), acked(2, 11, keyed), ran(1, 3, 4, 10, "")), want: "lost: request 11",
		},
		"replaced by one of an unknown outcome": {
			fleet: join(acked(1, 10, keyed), []record{offered(2, 11, keyed), answered(3, 11, opUnknown)}, ran(1, 4, 5, 11, "")),
		},
		"the last one of a key is left": {
			own: []record{{Op: opLeft, Ns: []int64{10}}}, fleet: acked(1, 10, keyed), want: "not run: request 10",
		},
		"doubled without a reason": {
			own: fault("held xmin", 2.5), fleet: join(acked(1, 10, plain), ran(1, 2, 3, 10, ""), ran(2, 4, 5, 10, "")), want: "doubled: request 10",
		},
		"doubled after a kill": {
			own: fault("SIGKILL of a worker", 2.5), fleet: join(acked(1, 10, plain), ran(1, 2, 3, 10, ""), ran(2, 4, 5, 10, "")),
		},
		"doubled by Node": {
			own: fault("held xmin", 2.5), fleet: join(acked(1, 10, plain), ran(3, 2, 3, 10, ""), ran(2, 4, 5, 10, "")),
		},
		"doubled after a poison killed its worker": {
			own:   join([]record{{Op: opDied, At: us(3.2), N: 1, Text: poisoned}}, fault("held xmin", 3.5)),
			fleet: join(acked(1, 10, plain), ran(1, 2, 3, 10, ""), ran(2, 4, 5, 10, "")),
		},
		"two at once": {
			own: fault("held xmin", 2.5), fleet: join(acked(1, 10, plain), ran(1, 2, 0, 10, ""), ran(2, 4, 5, 10, "")), want: "lease: job 10",
		},
		"two at once, the first by Node": {
			own: fault("SIGKILL of a worker", 2.5), fleet: join(acked(1, 10, plain), ran(3, 2, 0, 10, ""), ran(2, 4, 5, 10, "")), want: "lease: job 10",
		},
		"two at once, after a blackhole": {
			own: fault("TCP blackhole, one worker", 2.5), fleet: join(acked(1, 10, plain), ran(1, 2, 0, 10, ""), ran(2, 4, 5, 10, "")),
		},
		"two at once, when a blackhole was long over": {
			own:   join(fault("TCP blackhole, one worker", 0.5), fault("held xmin", 1.5)),
			fleet: join(acked(1, 10, plain), ran(1, 2, 0, 10, ""), ran(2, 4, 5, 10, "")), want: "lease: job 10",
		},
		"run again, not charged": {
			own:   join(fault("SIGKILL of a worker", 2.5), []record{{Op: opDied, At: us(2.5), N: 1}}),
			fleet: join(acked(1, 10, plain), attempted(1, ran(1, 2, 0, 10, "")), attempted(1, ran(2, 4, 5, 10, ""))),
		},
		"run again, and charged": {
			own:   join(fault("SIGKILL of a worker", 2.5), []record{{Op: opDied, At: us(2.5), N: 1}}),
			fleet: join(acked(1, 10, plain), attempted(1, ran(1, 2, 0, 10, "")), attempted(2, ran(2, 4, 5, 10, ""))), want: "charged: request 10",
		},
		"one after the other": {
			fleet: join(acked(1, 10, serial), acked(2, 11, serial), ran(1, 3, 4, 10, "q"), ran(2, 4, 5, 11, "q")),
		},
		"side by side": {
			fleet: join(acked(1, 10, serial), acked(2, 11, serial), ran(1, 3, 5, 10, "q"), ran(2, 4, 6, 11, "q")), want: "serial: queue q",
		},
		"side by side with a long one": {
			fleet: join(acked(1, 10, serial), acked(1.2, 11, serial), acked(1.4, 12, serial),
				ran(1, 3, 9, 10, "q"), ran(3, 8.9985, 8.9986, 11, "q"), ran(2, 8.999, 9.5, 12, "q")), want: "serial: queue q",
		},
		"run again after a failure": {
			fleet: join(acked(1, 10, plain), failed(attempted(1, ran(1, 2, 3, 10, ""))), attempted(2, ran(2, 4, 5, 10, ""))),
		},
		"run again after a part has failed": {
			fleet: join(acked(1, 10, record{Kind: kindBatch, Count: 2}), []record{
				{Op: opStarted, At: us(2), Proc: 1, Run: 1, Kind: kindBatch, Ns: []int64{10, 11}, Attempt: 1},
				{Op: opEnded, At: us(3), Proc: 1, Run: 1, Ns: []int64{11}},
				{Op: opStarted, At: us(4), Proc: 2, Run: 1, Kind: kindBatch, Ns: []int64{10}, Attempt: 2},
				{Op: opEnded, At: us(5), Proc: 2, Run: 1, Ns: []int64{10}},
			}),
		},
		"run again, and charged by Node": {
			own:   []record{{Op: opDied, At: us(2.5), N: 3}},
			fleet: join(acked(1, 10, plain), attempted(1, ran(3, 2, 0, 10, "")), attempted(2, ran(2, 4, 5, 10, ""))),
		},
		"charged by Node, which did not start it": {
			own:   []record{{Op: opHeld, At: us(1.5), Name: nodeName, Count: 1, Ns: []int64{10}}},
			fleet: join(acked(1, 10, plain), attempted(2, ran(2, 4, 5, 10, ""))),
		},
		"beside one that stood still before": {
			own:   []record{{Op: opFrozen, At: us(1), N: 1}, {Op: opThawed, At: us(2), N: 1}},
			fleet: join(acked(1, 10, serial), acked(2, 11, serial), ran(1, 3, 5, 10, "q"), ran(2, 4, 6, 11, "q")), want: "serial: queue q",
		},
		"beside one that stood still afterwards": {
			own:   []record{{Op: opFrozen, At: us(7), N: 1}, {Op: opThawed, At: us(8), N: 1}},
			fleet: join(acked(1, 10, serial), acked(2, 11, serial), ran(1, 3, 5, 10, "q"), ran(2, 4, 6, 11, "q")), want: "serial: queue q",
		},
		"beside one that stands still": {
			own:   []record{{Op: opFrozen, At: us(3.5), N: 1}},
			fleet: join(acked(1, 10, serial), acked(2, 11, serial), ran(1, 3, 5, 10, "q"), ran(2, 4, 6, 11, "q")),
		},
		"before one that stood still": {
			own:   []record{{Op: opFrozen, At: us(4.5), N: 2}, {Op: opThawed, At: us(5.5), N: 2}},
			fleet: join(acked(1, 10, serial), acked(2, 11, serial), ran(1, 3, 5, 10, "q"), ran(2, 4, 6, 11, "q")),
		},
		"beside one that stood still": {
			own:   []record{{Op: opFrozen, At: us(3.5), N: 1}, {Op: opThawed, At: us(4.5), N: 1}},
			fleet: join(acked(1, 10, serial), acked(2, 11, serial), ran(1, 3, 5, 10, "q"), ran(2, 4, 6, 11, "q")),
		},
		"after one that was killed": {
			own:   join(fault("SIGKILL of a worker", 3.5), []record{{Op: opDied, At: us(3.5), N: 1}}),
			fleet: join(acked(1, 10, serial), ran(1, 3, 0, 10, "q"), ran(2, 4, 6, 10, "q")),
		},
		"before one that was killed died": {
			own:   join(fault("SIGKILL of a worker", 4.5), []record{{Op: opDied, At: us(4.5), N: 1}}),
			fleet: join(acked(1, 10, serial), ran(1, 3, 0, 10, "q"), ran(2, 4, 6, 10, "q")), want: "serial: queue q",
		},
		"out of order": {
			fleet: join(acked(1, 10, serial), acked(2, 11, serial), ran(1, 3, 4, 11, "q"), ran(2, 4, 5, 10, "q")), want: "order: queue q",
		},
		"again after its successor": {
			fleet: join(acked(1, 10, serial), acked(2, 11, serial), failed(ran(1, 3, 4, 10, "q")), ran(2, 4, 5, 11, "q"), ran(2, 5, 6, 10, "q")),
		},
		"out of order, but its outcome was unknown": {
			fleet: join([]record{offered(1, 10, serial), answered(2, 10, opUnknown)}, acked(3, 11, serial), ran(1, 4, 5, 11, "q"), ran(2, 5, 6, 10, "q")),
		},
		"a tick twice": {
			own:   []record{{Op: opDrain, At: us(70)}},
			fleet: join(ticked(1, 60.1, 7), ticked(2, 60.2, 8)), want: "cron: the tick 60",
		},
		"a tick whose job ran again": {
			own:   []record{{Op: opDrain, At: us(70)}},
			fleet: join(ticked(1, 60.1, 7), ticked(2, 60.2, 7)),
		},
		"a tick whose job did not end": {
			own:   []record{{Op: opDrain, At: us(70)}},
			fleet: ticked(1, 60.1, 7)[:1], want: "cron: job 7",
		},
		"no tick": {own: []record{{Op: opDrain, At: us(70)}}, want: "cron: the tick 1970-01-01 00:01:00"},
		"declared dead and alive": {
			own: fault("held xmin", 1), fleet: []record{{Op: opFenced, At: us(2), Proc: 1}}, want: "false death: worker-1",
		},
		"declared dead because another one was killed": {
			own: fault("SIGKILL of a worker", 1), fleet: []record{{Op: opFenced, At: us(2), Proc: 1}}, want: "false death: worker-1",
		},
		"declared dead after it stood still": {
			own: fault("SIGSTOP of a worker, then SIGCONT", 1), fleet: []record{{Op: opFenced, At: us(2), Proc: 1}},
		},
		"a process that is stuck": {
			own: join(fault("held xmin", 1), []record{{Op: opStuck, At: us(2), Name: "worker-1"}}), want: "recovery: worker-1",
		},
		"a finding of the harness's own": {
			own: []record{{Op: opBroken, Text: "worker-1 ended by itself"}}, want: "harness: worker-1 ended",
		},
		"jobs of a killed worker that stay locked": {
			own: join(fault("SIGKILL of a worker", 1), []record{{Op: opLocked, At: us(2), Name: "worker-1", Count: 3}}), want: "rescue: 3 jobs",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := auditOf(t, join(started, c.own), c.fleet)
			switch got := strings.Join(v.broken, "\n"); {
			case c.want == "" && got != "":
				t.Errorf("got %s", got)
			case c.want != "" && (!strings.HasPrefix(got, c.want) || len(v.broken) != 1):
				t.Errorf("got %q, want %s", got, c.want)
			}
		})
	}
}

// auditOf writes journals and audits them.
func auditOf(t *testing.T, own, fleet []record) *verdict {
	t.Helper()
	folder := t.TempDir()
	for name, records := range map[string][]record{ownJournal: own, "fleet.journal": fleet} {
		var text []byte
		for _, r := range records {
			line, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			text = append(append(text, line...), '\n')
		}
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v, err := judge(folder)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestTable(t *testing.T) {
	t.Parallel()
	own := join(started, []record{
		{Op: opBegin, At: us(10), Name: "SIGKILL of a worker"},
		{Op: opHeld, At: us(11), Name: "worker-1", Count: 2},
		{Op: opEnd, At: us(11), Name: "SIGKILL of a worker"},
		{Op: opRecovered, At: us(12), Due: us(11), Name: "worker-1"},
		{Op: opRecovered, At: us(14), Due: us(11), Name: "worker-2"},
		{Op: opHeld, At: us(15), Name: nodeName, Count: 1, Ns: []int64{7}},
		{Op: opRecovered, At: us(16), Due: us(11), Name: nodeName},
		{Op: opReleased, At: us(26), Name: "worker-1", Count: 2},
	})
	v := auditOf(t, own, join(
		acked(1, 10, plain), ran(1, 2, 3, 10, ""),
		acked(10, 11, plain), ran(1, 10.2, 10.3, 11, ""), ran(2, 26, 27, 11, ""),
		acked(12, 12, keyed), acked(12.2, 13, keyed), ran(2, 13, 14, 13, ""),
		acked(13, 14, plain), ran(3, 14, 15, 14, ""),
	))
	var out strings.Builder
	v.print(&out)
	for _, want := range []string{
		"| none | 0 | 1 | 1 | 1 | 0 | 0 | 0 | 0 | 0, 0, 0 | 0, 0, 0 | 0, 0, 0 | 0 | – | – | 0, 0, 0, 0.0 s |\n",
		"| SIGKILL of a worker | 1 | 4 | 4 | 3 | 1 | 0 | 0 | 1 | 0, 0, 0 | 0, 0, 0 | 0, 0, 0 | 0 | 3.0 / 3.0 s | 2, 15.0 s at most | 1, 1, 0, 5.0 s |\n",
		"| all | 1 | 5 | 5 | 4 | 1 | 0 | 0 | 1 | 0, 0, 0 | 0, 0, 0 | 0, 0, 0 | 0 | 3.0 / 3.0 s | 2, 15.0 s at most | 1, 1, 0, 5.0 s |\n",
		"PASS",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
