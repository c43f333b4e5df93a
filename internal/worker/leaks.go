package worker

import (
	"cmp"
	"context"
	"maps"
	"regexp"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Leak is what jobs of a task have left behind: goroutines that carry the labels of jobs which have
// ended.
type Leak struct {
	Task       string `json:"task"`
	Goroutines int    `json:"goroutines"`
	Jobs       int    `json:"jobs"` // that have left them
	// Certain says that they can never end: the garbage collector has found that nobody can wake them.
	// Else they may be on purpose.
	Certain bool   `json:"certain,omitempty"`
	Stack   string `json:"stack"` // where most of them are
}

const (
	// leakPause is the time between two looks: what has gone by then is no leak.
	leakPause = 500 * time.Millisecond
	// leakJobs is how many jobs have to have left something, where nobody knows whether it ends.
	leakJobs = 50
	// leaksCertain is how many goroutines it takes where it is known that they do not end.
	leaksCertain = 10
	// leakStack is how much of a stack is told.
	leakStack = 1000
)

// shared matches the stacks of goroutines that a library starts for all that come after, when one is
// the first to need it, such as those of a connection.
var shared = regexp.MustCompile(`(?m)^(net/http|database/sql|crypto/tls|google\.golang\.org/grpc|golang\.org/x/net/http2|github\.com/jackc/pgx/)`)

// leaks looks for goroutines that jobs have left behind, per task. It stops all goroutines for a
// moment, twice, and in Go 1.27 or later it runs the garbage collector.
func (w *Worker) leaks(ctx context.Context) []Leak {
	if profile := pprof.Lookup("goroutineleak"); profile != nil {
		found := leaksOf(w.leftBehind(profile), true)
		return slices.DeleteFunc(found, func(l Leak) bool { return l.Goroutines < leaksCertain })
	}
	first := w.leftBehind(pprof.Lookup("goroutine"))
	if len(first) < leakJobs || !sleep(ctx, leakPause) {
		return nil
	}
	still := w.leftBehind(pprof.Lookup("goroutine"))
	maps.DeleteFunc(still, func(job string, _ []left) bool { return first[job] == nil })
	found := leaksOf(still, false)
	return slices.DeleteFunc(found, func(l Leak) bool { return l.Jobs < leakJobs })
}

// left are goroutines that a job has left behind at one place.
type left struct {
	task, stack string
	count       int
}

// leftBehind returns, by job, the goroutines of jobs that this worker does not have any more.
func (w *Worker) leftBehind(profile *pprof.Profile) map[string][]left {
	found, id := map[string][]left{}, w.workerID()
	for r := range labelled(profile) {
		job := r.labels[labelJob]
		if job == "" || r.labels[labelWorker] != id {
			continue
		}
		stack, isHandler := readStack(r.frames)
		if isHandler || shared.MatchString(stack) {
			continue
		}
		found[job] = append(found[job], left{r.labels[labelTask], stack, r.count})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.core.leases.all(leaseClaimed, leaseRunning, leaseEnding, leaseAbandoned) {
		delete(found, strconv.FormatInt(l.ID, 10))
	}
	return found
}

// leaksOf adds up what was left behind, per task.
func leaksOf(found map[string][]left, certain bool) (leaks []Leak) {
	byTask, places := map[string]*Leak{}, map[string]map[string]int{}
	for _, all := range found {
		counted := map[string]bool{}
		for _, l := range all {
			leak := byTask[l.task]
			if leak == nil {
				leak = &Leak{Task: l.task, Certain: certain}
				byTask[l.task], places[l.task] = leak, map[string]int{}
			}
			leak.Goroutines += l.count
			places[l.task][l.stack] += l.count
			if !counted[l.task] {
				counted[l.task] = true
				leak.Jobs++
			}
		}
	}
	for task, leak := range byTask {
		most := slices.MaxFunc(slices.Sorted(maps.Keys(places[task])), func(a, b string) int { return cmp.Compare(places[task][a], places[task][b]) })
		if len(most) > leakStack {
			most = strings.ToValidUTF8(most[:leakStack], "") + "…"
		}
		leak.Stack = most
		leaks = append(leaks, *leak)
	}
	slices.SortFunc(leaks, func(a, b Leak) int { return cmp.Or(b.Goroutines-a.Goroutines, strings.Compare(a.Task, b.Task)) })
	return leaks
}
