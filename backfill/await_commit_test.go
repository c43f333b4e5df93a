package backfill

import "testing"

// A transaction that commits between the look for its job and that for open transactions is followed
// by another look.
func TestAwaitLooksAfterTheCommit(t *testing.T) {
	t.Parallel()
	w := waiting{}
	for i, step := range []struct {
		open []string
		may  bool
	}{{[]string{"3/7", "4/1"}, true}, {[]string{"3/7", "5/5"}, true}, {[]string{"5/5"}, true}, {[]string{"5/5"}, false}} {
		if may := w.mayBeCommitted(step.open); may != step.may {
			t.Errorf("look %d: %v", i, may)
		}
	}
}
