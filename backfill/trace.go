package backfill

import (
	"errors"
	"fmt"

	"github.com/backfillhq/go/internal/wire"
)

// TraceContext is the W3C trace context that stands beside a job, in the table backfill_traces and
// never in the args. Package backfillotel reads and writes it for OpenTelemetry. Fields may be
// added: write it with field names, and do not compare two with ==.
type TraceContext struct {
	_ [0]func() // as the comment says

	Parent string // traceparent of the span that enqueued the job; "": it was not traced
	State  string // tracestate of that span
	// Run is the traceparent of the job's last run, unless that was not traced, or its worker died.
	// Middleware sets it to that of this run: it is kept if the job runs again.
	Run string
}

// WithTraces makes the worker read the trace contexts of the jobs that it claims, into [Job].Trace,
// and keep those of runs. That costs a statement for each claim that has found jobs, and one for
// failures. If it fails, jobs run all the same, without the contexts. Default: Trace is empty.
func WithTraces() WorkerOption { return workerOption(func(c *workerConfig) { c.traces = true }) }

func newTraceContext(t *wire.Trace) TraceContext {
	if t == nil {
		return TraceContext{}
	}
	return TraceContext{Parent: t.Parent, State: t.State, Run: t.Run}
}

// ran returns the traceparent of a run that middleware has noted; "": it has noted none.
func (t TraceContext) ran(claimed *wire.Job) string {
	before := newTraceContext(claimed.Trace).Run
	if t.Run == before || checkTraceParent(t.Run) != nil {
		return ""
	}
	return t.Run
}

// maxTraceState is what W3C asks implementations to pass on, at least.
const maxTraceState = 512

func (t TraceContext) check() error {
	switch {
	case t.Parent == "" && t.State == "":
		return nil
	case t.Parent == "":
		return errors.New("trace: there is a State without a Parent")
	case len(t.State) > maxTraceState:
		return fmt.Errorf("trace: the State has %d bytes: at most %d are allowed", len(t.State), maxTraceState)
	}
	if err := checkTraceParent(t.Parent); err != nil {
		return err
	}
	return checkPrintable("trace: the State", t.State)
}

// checkTraceParent checks the form 00-<32 digits>-<16 digits>-<2 digits>, all hexadecimal.
func checkTraceParent(s string) error {
	const form = "00-00000000000000000000000000000000-0000000000000000-00"
	if len(s) != len(form) {
		return fmt.Errorf("trace: the Parent has %d bytes: want those of a traceparent, %d", len(s), len(form))
	}
	for i := range len(s) {
		digit := '0' <= s[i] && s[i] <= '9' || 'a' <= s[i] && s[i] <= 'f'
		if form[i] == '-' && s[i] != '-' || form[i] == '0' && !digit {
			return errors.New("trace: the Parent is no traceparent: want 00-<trace id>-<span id>-<flags>, in lower case")
		}
	}
	return nil
}

// checkPrintable checks that a text is of printable ASCII.
func checkPrintable(what, s string) error {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return fmt.Errorf("%s has a byte that is not printable ASCII", what)
		}
	}
	return nil
}
