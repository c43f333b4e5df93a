package wire

// Trace is the trace context that stands beside a job, as W3C's headers have it.
type Trace struct {
	Parent, State string // traceparent and tracestate of the span that enqueued the job; "": it was not traced
	Run           string // the traceparent of the last run that did not end the job; "": there was none
}
