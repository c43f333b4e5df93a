package storetest

import "github.com/backfillhq/go/internal/worker"

// Ids of workers.
var registerCases = map[string]func(*rig){
	"a worker id is registered once": func(r *rig) {
		if err := r.store.Register(r.ctx(), worker.Registration{ID: r.id, Tasks: []string{"a"}}); err == nil {
			r.t.Error("a second registration succeeded")
		}
	},
}
