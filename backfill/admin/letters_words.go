package admin

import (
	"strconv"
	"strings"
	"time"
)

// IsEmpty reports whether the filter asks for nothing in particular: it means all dead letters.
func (f *LetterFilter) IsEmpty() bool {
	return f.IDs == nil && f.JobIDs == nil && f.Tasks == nil && f.Queues == nil && f.Keys == nil && f.Reasons == nil &&
		f.FailedFrom.IsZero() && f.FailedBefore.IsZero() && f.ErrorContains == ""
}

// String says in words what a filter asks for.
func (f *LetterFilter) String() string {
	var parts []string
	add := func(name string, values []string) {
		const most = 10
		if len(values) > most {
			values = append(values[:most:most], strconv.Itoa(len(values)-most)+" more")
		}
		if len(values) > 0 {
			parts = append(parts, name+" "+strings.Join(values, " or "))
		}
	}
	numbers := func(ids []int64) (numbers []string) {
		for _, id := range ids {
			numbers = append(numbers, strconv.FormatInt(id, 10))
		}
		return numbers
	}
	add("id", numbers(f.IDs))
	add("job", numbers(f.JobIDs))
	add("task", quoted(f.Tasks))
	add("queue", quoted(f.Queues))
	add("key", quoted(f.Keys))
	add("reason", f.Reasons)
	if !f.FailedFrom.IsZero() {
		parts = append(parts, "failed at or after "+f.FailedFrom.UTC().Format(time.RFC3339))
	}
	if !f.FailedBefore.IsZero() {
		parts = append(parts, "failed before "+f.FailedBefore.UTC().Format(time.RFC3339))
	}
	if f.ErrorContains != "" {
		parts = append(parts, "error with "+strconv.Quote(f.ErrorContains))
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, ", and ")
}
