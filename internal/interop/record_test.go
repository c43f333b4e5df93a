package interop_test

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// hang is how long a test waits for something that must happen. It only ends a test that has failed already.
const hang = time.Minute

// A record is what a worker has said so far, in its order.
type record[T any] struct {
	mu      sync.Mutex
	entries []T
	ended   bool
	err     error         // how it ended
	changed chan struct{} // closed at the next change
}

func newRecord[T any]() *record[T] { return &record[T]{changed: make(chan struct{})} }

func (r *record[T]) add(entry T) { r.change(func() { r.entries = append(r.entries, entry) }) }

// end says that nothing will follow.
func (r *record[T]) end(err error) { r.change(func() { r.ended, r.err = true, err }) }

func (r *record[T]) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *record[T]) seen() (entries []T, ended bool, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clip(r.entries), r.ended, r.changed
}

// len is a place in the record, after everything so far.
func (r *record[T]) len() int {
	entries, _, _ := r.seen()
	return len(entries)
}

// awaitEnd waits until nothing will follow, and returns how it ended.
func (r *record[T]) awaitEnd(t *testing.T) error {
	t.Helper()
	timeout := time.After(hang)
	for {
		entries, ended, changed := r.seen()
		if ended {
			return r.err
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("it does not end: %+v", entries)
		}
	}
}

// await waits for the first entry from a place on that matches, and returns it with those before it.
func (r *record[T]) await(t *testing.T, what string, from int, match func(T) bool) (found T, before []T) {
	t.Helper()
	timeout := time.After(hang)
	for {
		entries, ended, changed := r.seen()
		entries = entries[from:]
		if i := slices.IndexFunc(entries, match); i >= 0 {
			return entries[i], entries[:i]
		}
		if ended {
			t.Fatalf("it ended before %s, with the error %v: %+v", what, r.err, entries)
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("waited in vain for %s: %+v", what, entries)
		}
	}
}
