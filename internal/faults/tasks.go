//go:build unix

package main

import (
	"context"
	"time"

	"github.com/backfillhq/go/backfill"
)

// kind is a kind of traffic.
type kind string

const (
	kindPlain      kind = "plain"     // one a call
	kindMany       kind = "many"      // plain ones, many a call
	kindTx         kind = "tx"        // a plain one in a transaction
	kindRolledBack kind = "rollback"  // in a transaction that is rolled back: it must never run
	kindKeyed      kind = "keyed"     // replaces what waits under its key
	kindSerial     kind = "serial"    // in a queue, and short
	kindLong       kind = "long"      // in a queue, and longer than a fence takes
	kindScheduled  kind = "scheduled" // for later
	kindFailing    kind = "failing"   // fails once
	kindBatch      kind = "batch"     // its args are an array, of which a part fails once
	kindParent     kind = "parent"    // enqueues a child
	kindChild      kind = "child"     // by a handler
	kindTick       kind = "tick"      // by cron
	kindPoison     kind = "poison"    // ends its worker's process
	kindEffect     kind = "effect"    // transactional: writes a row, and some enqueue a follow-up
	kindFollow     kind = "follow"    // by the handler of an effect, in its transaction
	kindPermanent  kind = "permanent" // fails for good: at its first attempt
	kindExhausted  kind = "exhausted" // the same, at its last
	kindUnwanted   kind = "unwanted"  // to be cancelled

	kindUnwantedEffect kind = "unwanted-effect" // the same, and transactional: writes a row
)

// args are those of all tasks; batch has an array of them.
type args struct {
	N     int64  `json:"n"`
	Kind  kind   `json:"kind"`
	Queue string `json:"queue,omitempty"`
	Key   string `json:"key,omitempty"`
	Due   int64  `json:"due,omitempty"`  // of one that fails for good: from then on it is mended, or given up; of an unwanted one: it is done
	Work  int    `json:"work,omitempty"` // how long it takes, in milliseconds
	Way   way    `json:"way,omitempty"`  // how a poison ends its process

	Fails  bool `json:"fails,omitempty"`  // an effect: its first attempt fails, when it has written
	Follow bool `json:"follow,omitempty"` // it has a follow-up
	Fate   fate `json:"fate,omitempty"`   // of one that fails for good
	End    end  `json:"end,omitempty"`    // of an unwanted one
	Deaf   bool `json:"deaf,omitempty"`   // the same: it ignores the end of its context while it works
}

var (
	taskPlain     = &backfill.Task[args]{Name: "plain"}
	taskKeyed     = &backfill.Task[args]{Name: "keyed", Key: func(a args) string { return a.Key }}
	taskSerial    = &backfill.Task[args]{Name: "serial", Queue: func(a args) string { return a.Queue }}
	taskLong      = &backfill.Task[args]{Name: "long", Queue: func(a args) string { return a.Queue }}
	taskScheduled = &backfill.Task[args]{Name: "scheduled"}
	taskFailing   = &backfill.Task[args]{Name: "failing", Backoff: backfill.FixedBackoff(time.Second)}
	taskBatch     = &backfill.Task[[]args]{Name: "batch", Backoff: backfill.FixedBackoff(time.Second)}
	taskParent    = &backfill.Task[args]{Name: "parent", Backoff: backfill.FixedBackoff(time.Second)}
	taskChild     = &backfill.Task[args]{Name: "child"}
	taskTick      = &backfill.Task[backfill.NoArgs]{Name: "tick"}
)

// The crontab of all workers, also Node's.
const crontab = "* * * * * tick ?id=tick"

func registry(h *handlers) *backfill.Registry {
	bindings := []backfill.Binding{
		backfill.Handle(taskPlain, h.simple), backfill.Handle(taskKeyed, h.simple), backfill.Handle(taskSerial, h.simple),
		backfill.Handle(taskLong, h.simple), backfill.Handle(taskScheduled, h.simple), backfill.Handle(taskFailing, h.failing),
		backfill.Handle(taskBatch, h.batch), backfill.Handle(taskParent, h.parent), backfill.Handle(taskChild, h.simple),
		backfill.Handle(taskTick, func(ctx context.Context, _ backfill.NoArgs) error { return h.tick(ctx) }),
	}
	bindings = append(bindings,
		backfill.Handle(taskEffect, h.effect), backfill.Handle(taskFollow, h.simple),
		backfill.Handle(taskPermanent, h.doomed), backfill.Handle(taskExhausted, h.doomed),
		backfill.Handle(taskUnwanted, h.unwanted), backfill.Handle(taskUnwantedEffect, h.unwantedEffect))
	for _, w := range ways {
		bindings = append(bindings, backfill.Handle(taskPoisons[w], h.poison))
	}
	return backfill.NewRegistry(bindings...)
}
