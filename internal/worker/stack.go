package worker

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
)

// The labels that profiles have of a handler's goroutine, and of those that it starts. Workers on
// several databases, in one process, can have jobs with equal ids.
const (
	labelJob    = "backfill_job"
	labelTask   = "backfill_task"
	labelWorker = "backfill_worker"
)

// maxStack bounds a stack in the log.
const maxStack = 4096

// handle calls the handler of a job, with labels.
func (w *Worker) handle(ctx context.Context, l *lease, outcome *Outcome) {
	labels := pprof.Labels(labelJob, strconv.FormatInt(l.ID, 10), labelTask, l.Task, labelWorker, l.workerID)
	pprof.Do(ctx, labels, func(ctx context.Context) { w.config.Execute(ctx, l.Job, outcome) })
}

// handleFrame is in the stack of a goroutine that runs a handler, and of no other: what a handler
// starts begins a stack of its own.
const handleFrame = "github.com/backfillhq/go/internal/worker.(*Worker).handle"

// Stack returns where the handler of a job is; "" if this worker does not run one. It looks at all
// goroutines of the process, and stops them for a moment.
func (w *Worker) Stack(jobID int64) string {
	w.mu.Lock()
	running := w.core.leases.all(leaseRunning, leaseEnding, leaseAbandoned)
	at := slices.IndexFunc(running, func(l *lease) bool { return l.ID == jobID && l.handling })
	w.mu.Unlock()
	if at < 0 {
		return "" // labels outlive a job, where its handler has started something for others
	}
	return stacksOf(running[at]).String()
}

// stacks are the stacks of the goroutines that carry a job's labels.
type stacks struct {
	handler []string // of its handler: one, unless an earlier attempt's ignores that it was cancelled
	others  []string // of what was started under the labels, by whatever carried them
}

// stacksOf reads the labelled profile of all goroutines: the full dump has no labels. The profile
// does not say how old a goroutine is. So what an earlier attempt has left behind, or what a library
// started for everybody when the handler was the first to need it, is among the others.
func stacksOf(l *lease) (found stacks) {
	for r := range labelled(pprof.Lookup("goroutine")) {
		if r.labels[labelJob] != strconv.FormatInt(l.ID, 10) || r.labels[labelWorker] != l.workerID {
			continue
		}
		stack, isHandler := readStack(r.frames)
		switch {
		case isHandler:
			found.handler = append(found.handler, stack)
		case r.count == 1:
			found.others = append(found.others, stack)
		default:
			found.others = append(found.others, fmt.Sprintf("%d goroutines like this one:\n%s", r.count, stack))
		}
	}
	return found
}

// goroutines are those that have the same labels and are at the same place.
type goroutines struct {
	count  int
	labels map[string]string
	frames string
}

// labelled yields the goroutines of a profile that have labels.
func labelled(profile *pprof.Profile) iter.Seq[goroutines] {
	return func(yield func(goroutines) bool) {
		var text bytes.Buffer
		if err := profile.WriteTo(&text, 1); err != nil {
			return // a buffer takes everything
		}
		for record := range strings.SplitSeq(text.String(), "\n\n") {
			head, rest, ok := strings.Cut(strings.TrimSpace(record), "\n# labels: ")
			if !ok {
				continue
			}
			if i := strings.LastIndexByte(head, '\n'); i >= 0 {
				head = head[i+1:] // the first record is behind the profile's title
			}
			labels, frames, _ := strings.Cut(rest, "\n")
			number, _, _ := strings.Cut(head, " @")
			count, err := strconv.Atoi(number)
			if err == nil && !yield(goroutines{count, parseLabels(labels), frames}) {
				return
			}
		}
	}
}

// parseLabels reads labels as the profile writes them: {"key":"value", "key":"value"}, quoted as in
// Go.
func parseLabels(text string) map[string]string {
	set := make(map[string]string)
	text = strings.TrimPrefix(text, "{")
	for {
		key, err := strconv.QuotedPrefix(text)
		if err != nil {
			return set
		}
		text = strings.TrimPrefix(text[len(key):], ":")
		value, err := strconv.QuotedPrefix(text)
		if err != nil {
			return set
		}
		text = strings.TrimPrefix(text[len(value):], ", ")
		key, _ = strconv.Unquote(key) // both were found to be quoted
		set[key], _ = strconv.Unquote(value)
	}
}

// readStack reads the frames of a record, each like "#", address, function and place with tabs
// between them. It leaves out what is below a handler, which is the same for all.
func readStack(frames string) (stack string, isHandler bool) {
	var lines strings.Builder
	for frame := range strings.SplitSeq(frames, "\n") {
		fields := slices.DeleteFunc(strings.Split(frame, "\t"), func(field string) bool { return field == "" })
		if len(fields) < 4 {
			continue // of a function that has no name
		}
		function := fields[2]
		if strings.HasPrefix(function, handleFrame) {
			return lines.String(), true
		}
		if offset := strings.LastIndex(function, "+0x"); offset > 0 {
			function = function[:offset]
		}
		fmt.Fprintf(&lines, "%s\n\t%s\n", function, fields[3])
	}
	return lines.String(), false
}

// String is all of them.
func (s stacks) String() string {
	text := s.first()
	if len(s.others) == 0 || len(s.handler) == 0 {
		return text
	}
	return text + "\nThese goroutines carry its labels. It has started them, or something that it has started has, perhaps for others:\n\n" +
		strings.Join(s.others, "\n")
}

// first is the handler's stack. A handler that has changed its labels shows what it has started, and
// one that is deeper in calls than a profile goes is among these itself.
func (s stacks) first() string {
	switch {
	case len(s.handler) > 0:
		return "The handler is here:\n\n" + strings.Join(s.handler, "\n")
	case len(s.others) > 0:
		return "The handler has changed its labels, or is too deep in calls. It is here, or has started this:\n\n" + strings.Join(s.others, "\n")
	default:
		return "No goroutine carries its labels: the handler has changed them, or has just ended.\n"
	}
}

// short is the beginning of it, whole lines.
func (s stacks) short() string {
	text := s.first()
	if len(text) <= maxStack {
		return text
	}
	text = text[:maxStack]
	return text[:strings.LastIndexByte(text, '\n')+1] + "…"
}
