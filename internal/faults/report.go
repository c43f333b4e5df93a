//go:build unix

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// row is a line of the table: all windows of one fault.
type row struct {
	fault     string
	times     int
	tally     tally
	recovered []float64
	held      int
	released  []float64
	nodeHeld  int
	nodeAgain float64
}

// rows are those of the table, in the order of the catalogue. The first is that of the time before
// the first fault: none has come, and nothing has recovered.
func (v *verdict) rows() []row {
	rows := []row{{fault: v.trial.windows[0].fault, tally: v.tallies[0]}}
	for i, w := range v.trial.windows[1:] {
		at := slices.IndexFunc(rows, func(r row) bool { return r.fault == w.fault })
		if at < 0 {
			rows = append(rows, row{fault: w.fault})
			at = len(rows) - 1
		}
		rows[at].add(row{
			times: 1, tally: v.tallies[i+1], recovered: []float64{w.recovered},
			held: w.held, released: w.released, nodeHeld: w.nodeHeld, nodeAgain: w.nodeAgain,
		})
	}
	slices.SortStableFunc(rows, func(a, b row) int { return place(a.fault) - place(b.fault) })
	return rows
}

// place is the place of a fault in the catalogue.
func place(name string) int {
	return slices.IndexFunc(faults, func(it fault) bool { return it.name == name })
}

func (r *row) add(o row) {
	r.times += o.times
	r.tally.add(o.tally)
	r.recovered = append(r.recovered, o.recovered...)
	r.held += o.held
	r.released = append(r.released, o.released...)
	r.nodeHeld += o.nodeHeld
	r.nodeAgain = max(r.nodeAgain, o.nodeAgain)
}

func (y *tally) add(o tally) {
	y.offered += o.offered
	y.acked += o.acked
	y.executed += o.executed
	y.executedNode += o.executedNode
	y.replaced += o.replaced
	y.lost += o.lost
	y.left += o.left
	y.doubled += o.doubled
	y.doubledNode += o.doubledNode
	y.effects += o.effects
	y.effectsDoubled += o.effectsDoubled
	y.effectsLost += o.effectsLost
	y.letters += o.letters
	y.lettersDoubled += o.lettersDoubled
	y.lettersLost += o.lettersLost
	y.cancels += o.cancels
	y.cancelsRan += o.cancelsRan
	y.cancelsLost += o.cancelsLost
	y.overlaps += o.overlaps
	y.frozen += o.frozen
}

// report audits the parts of a run, prints what came of them, and writes it as a page of the
// documentation if that has a path.
func report(folder string, out io.Writer, page string) error {
	var parts bytes.Buffer
	var runs []record
	kept := true
	for _, part := range []struct{ name, title string }{{onServer, "One server"}, {onCluster, "Three servers with Patroni"}} {
		if _, err := os.Stat(filepath.Join(folder, part.name)); err != nil {
			continue
		}
		v, err := judge(filepath.Join(folder, part.name))
		if err != nil {
			return err
		}
		r := v.trial.run
		fmt.Fprintf(&parts, "\n## %s\n\nSeed %d, %v, %d jobs/s; %s.\n\n", part.title, r.N, r.duration(), r.Count, r.Text)
		v.print(&parts)
		runs = append(runs, r)
		kept = kept && len(v.broken) == 0
	}
	if len(runs) == 0 {
		return fmt.Errorf("audit %s: there are no journals", folder)
	}
	if _, err := out.Write(parts.Bytes()); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	if page != "" {
		text := fmt.Appendf(nil, pageText, command(runs))
		if err := os.WriteFile(page, append(text, parts.Bytes()...), 0o644); err != nil { //nolint:gosec // a page to read
			return fmt.Errorf("write the report: %w", err)
		}
	}
	if !kept {
		return errBroken
	}
	return nil
}

// command repeats a run.
func command(runs []record) string {
	text := fmt.Sprintf("go run ./internal/faults -seed %d -for %v", runs[0].N, runs[0].duration())
	if len(runs) > 1 {
		text += fmt.Sprintf(" -patroni %v", runs[1].duration())
	}
	if runs[0].Kind == kindPoison {
		text += " -poison"
	}
	return text
}

func (r record) duration() time.Duration { return time.Duration(r.Due) * time.Microsecond }

const pageText = `# Reliability, tried out

The fault harness wrote this page. It runs four Go workers and a Node worker, two processes that enqueue, and a PostgreSQL with normal
durability. One of the workers is behind PgBouncer in session mode, another one and one of the enqueuers in transaction mode. Three of the
Go workers have a PID namespace of their own, as in containers. Another process requeues dead letters, and one cancels jobs, both
through the pooler in transaction mode. The harness injects one fault after the other, and waits after each until every process works
again. All processes write down what they do, before and after they do it, so that the auditor also knows what a process did that was
killed. At the end it compares what was acknowledged with what ran. To repeat it:

    %s

The seed says which faults come in which order and whom they meet; how the processes interleave is up to the machine.

* *Offered* are the jobs, and the elements of batch jobs, of all calls from the fault until the next one; *acknowledged* those whose call
  returned without an error. Calls that fail are made again after 0.2 s, and one in a hundred jobs is rolled back on purpose.
* *Executed* ran to the end. *Replaced* ones had a key, and a later one took their place before they ran. *Lost* are neither. *Not run*
  are still in the table, though nothing moves any more.
* *Doubled* ones ran to the end twice, which is allowed: execution is at least once. It happens where a process ends, or is away for longer
  than its lease, between the end of a handler and its record. Where that cannot have happened, a doubled job is a failure.
* *Effects* are transactional jobs that were acknowledged and whose row is committed. A third of them enqueue a follow-up in the
  transaction, and a fifth fail once after they have written. *Doubled* ones have a second row, or a follow-up that is two jobs; *lost* ones
  ended without a row, or their follow-up is gone. Both have to be 0; nothing in the table prevents a second row.
* *Dead letters* are left by jobs that fail for good on purpose, at their first attempt or at their last, with keys and without. A process
  requeues three quarters of them again and again, for up to 15 s; half of all are done then. *Doubled* are two dead letters of one job,
  one beside the job, or one of a job that was done; *lost* are jobs that failed for good, were not done, and have none. Both have to be 0.
  These jobs are not in the other columns.
* *Cancelled* are jobs that a call of Client.Cancel or CancelJobs said were canceled or requested. A process enqueues jobs in order to
  cancel four of five of them, at some moment: they wait, are scheduled, in queues, or run, with keys and without, some transactional,
  some with one attempt. Their handlers watch their contexts or ignore them, and return nil, an error, a snooze or a permanent error; Node
  runs some. A call without an answer is made again, also after the process was killed. *Ran afterwards* are those that started after the
  answer, committed what they wrote, or left a dead letter; *lost* are those that were not cancelled, not done, and are gone. Both have to
  be 0. These jobs are not in the columns up to *doubled*.
* *Serial overlaps* are runs of two jobs of one queue at the same time. A process that was frozen may go on with its handler when it
  wakes up (R13 of the design), which is counted apart.
* *Recovery* is the time from the end of the fault until the last process of ours has enqueued a job, or has begun to run one: the median
  and the maximum of all times that the fault was injected. A process that was killed is started again after a second.
* *Held, free after*: how many jobs killed workers had locked, and how long after the kill the last of them was free again.
* *Node* is Graphile Worker with four slots, whose process ends when its server goes away. The harness starts it again and calls
  force_unlock_workers for the dead pool, as its operators have to. The column has the jobs that it executed, those that it held when it
  ended, those that were doubled because of that, and the longest time until it worked again. If it lives on and does not work for 30 s,
  the harness kills it.

Also checked: no job is run by two processes at once, but when one was away for longer than its lease; no job fails for good, nor is
charged an attempt because its worker ended; jobs that were refused or rolled back never run, scheduled ones not before their time, those of
a queue in the order in which they were acknowledged; the last request of each key runs; each minute of cron is enqueued once; no worker
that works is declared dead; a worker that is told to stop ends in time, without an error, and leaves nothing locked. A row of an effect is
of a run that returned nil, and its job is done; the follow-up of a run that was rolled back never runs. A dead letter has its job's key and
the reason for which that failed, and has failed for good once more than it was requeued. Each job that it became is in the answer of a
requeue, or may be of one that had no clear answer. When a cancel says that a job is gone, no handler has it; one that it calls too late
had ended, or an earlier call had cancelled it; one that it calls foreign is Node's. Neither a cancelled job nor a request for one is left
at the end. Only a worker that is named in the answer may start the job within the next second, once, because it had claimed it; and only
a transaction whose handler had ended, and that the answer says is being committed, may be committed.
`

// print writes the table as Markdown, and what was broken.
func (v *verdict) print(out io.Writer) {
	fmt.Fprintln(out, "| fault | times | offered | acknowledged | executed | replaced | lost | not run | doubled | effects, doubled, lost | dead letters, doubled, lost | cancelled, ran afterwards, lost | serial overlaps | recovery p50 / max | held, free after | Node: executed, held, doubled, recovery |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	total := row{fault: "all"}
	for _, r := range v.rows() {
		r.print(out)
		total.add(r)
	}
	total.print(out)
	fmt.Fprintf(out, "\n%d cron ticks. %d runs were not the first of their job, beside those that fail on purpose. Of %d requests whose outcome was unknown, %d ran. "+
		"%d times a worker was declared dead and lived; workers without an answer cancelled %d jobs of queues.\n",
		v.ticks, v.again, v.unknown[0], v.unknown[1], len(v.trial.fenced), v.trial.silent)
	v.printOutcomes(out)
	v.printCancels(out)
	if v.trial.nodeHung > 0 {
		fmt.Fprintf(out, "Node's process lived on without working %d times, and was killed.\n", v.trial.nodeHung)
	}
	if v.trial.poolerEnds > 0 {
		fmt.Fprintf(out, "PgBouncer ended by itself %d times, and was started again.\n", v.trial.poolerEnds)
	}
	v.printOrdeals(out)
	if len(v.broken) == 0 {
		fmt.Fprintln(out, "\nPASS: every promise was kept.")
		return
	}
	fmt.Fprintln(out, "\nFAIL:")
	for _, text := range v.broken {
		fmt.Fprintln(out, "*", text)
	}
}

func (r row) print(out io.Writer) {
	y := r.tally
	overlaps := strconv.Itoa(y.overlaps - y.frozen)
	if y.frozen > 0 {
		overlaps += fmt.Sprintf(" (and %d of the frozen process, R13)", y.frozen)
	}
	held := "–"
	if r.held > 0 {
		held = strconv.Itoa(r.held)
		if len(r.released) > 0 {
			held += fmt.Sprintf(", %.1f s at most", slices.Max(r.released))
		}
	}
	node := fmt.Sprintf("%d, %d, %d, %.1f s", y.executedNode, r.nodeHeld, y.doubledNode, r.nodeAgain)
	fmt.Fprintf(out, "| %s | %d | %d | %d | %d | %d | %d | %d | %d | %d, %d, %d | %d, %d, %d | %d, %d, %d | %s | %s | %s | %s |\n",
		r.fault, r.times, y.offered, y.acked, y.executed, y.replaced, y.lost, y.left, y.doubled,
		y.effects, y.effectsDoubled, y.effectsLost, y.letters, y.lettersDoubled, y.lettersLost, y.cancels, y.cancelsRan, y.cancelsLost, overlaps, spread(r.recovered), held, node)
}

func spread(values []float64) string {
	if len(values) == 0 {
		return "–"
	}
	sorted := slices.Sorted(slices.Values(values))
	return fmt.Sprintf("%.1f / %.1f s", sorted[len(sorted)/2], sorted[len(sorted)-1])
}
