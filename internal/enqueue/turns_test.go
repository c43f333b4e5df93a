package enqueue_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// On one connection, calls to be repeated and new ones take turns, whatever the times at which
// they come.
func TestIntakeTurns(t *testing.T) {
	t.Parallel()
	for held := 1; held <= 20; held++ {
		for offset := range 4 {
			synctest.Test(t, func(t *testing.T) {
				r := newIntakeRigOf(1)
				r.takes = 10 * time.Millisecond
				var keys []string
				for i := range held {
					keys = append(keys, fmt.Sprint("held", i))
				}
				r.hold(keys...)
				for i, key := range keys {
					r.call(t.Context(), key, key)
					<-time.After(time.Duration(i*offset) * time.Millisecond)
				}
				<-time.After(2 * time.Second)
				r.call(t.Context(), "new", "new")
				<-time.After(3 * lockWait)
				if got, _ := r.results.Load("new"); got != "new" {
					t.Errorf("%d keys are held, calls come %d ms apart: a new call: %v", held, offset, got)
				}
				r.hold()
				for i := range 200 {
					task := fmt.Sprint("t", i)
					r.call(t.Context(), task, task)
					<-time.After(r.takes / 2)
				}
				for _, key := range keys {
					if got, _ := r.results.Load(key); got != key {
						t.Errorf("%d keys were held, beside new calls: %s: %v", held, key, got)
					}
				}
				r.callers.Wait()
				r.nudger.Close()
			})
		}
	}
}
