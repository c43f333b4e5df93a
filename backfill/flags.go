package backfill

import (
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/backfillhq/go/internal/worker"
)

const (
	flagsLimit   = time.Second      // how long a claim waits for WithForbiddenFlagsFunc
	flagsUnknown = 10 * time.Second // how long a job with flags is put off while that fails
	flagsChanged = 2 * time.Second  // and one whose flag was forbidden after it was claimed
)

// forbiddenFlags asks a function of the user's which flags are forbidden. While the function fails,
// nobody knows, so no job with flags may start. Claims cannot tell these jobs from others: they are
// put off when they are about to start. Jobs without flags run as always.
type forbiddenFlags struct {
	ask   func() []string
	guard *guard
	state atomic.Pointer[flagsState]
}

// flagsState is what the last call of the function said.
type flagsState struct {
	flags   []string // of the last call that succeeded
	unknown bool
}

func newForbiddenFlags(ask func() []string, logger *slog.Logger) *forbiddenFlags {
	if ask == nil {
		return nil
	}
	f := &forbiddenFlags{
		ask:   ask,
		guard: &guard{what: "WithForbiddenFlagsFunc", limit: flagsLimit, logger: logger},
	}
	f.state.Store(&flagsState{unknown: true})
	return f
}

// current is called before each claim, by one goroutine. Flags that PostgreSQL would refuse are
// refused here: a claim with them would fail, and so would every claim after it.
func (f *forbiddenFlags) current() []string {
	var flags []string
	state := &flagsState{unknown: true}
	if f.guard.call(func() { flags = slices.Clone(f.ask()) }) {
		if err := checkFlags(flags); err != nil {
			f.guard.report(err)
		} else {
			state = &flagsState{flags: flags}
		}
	}
	if state.unknown {
		state.flags = f.state.Load().flags // those need not be claimed in vain
	}
	f.state.Store(state)
	return state.flags
}

// putOff returns the outcome of a job that must not start, and false for one that may.
func (f *forbiddenFlags) putOff(flags []string) (worker.Outcome, bool) {
	if f == nil || len(flags) == 0 {
		return worker.Outcome{}, false
	}
	state := f.state.Load()
	delay := flagsUnknown
	if !state.unknown {
		delay = flagsChanged
		if !slices.ContainsFunc(flags, func(flag string) bool { return slices.Contains(state.flags, flag) }) {
			return worker.Outcome{}, false
		}
	}
	return worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: delay}, true
}
