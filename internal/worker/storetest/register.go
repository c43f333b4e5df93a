package storetest

// Ids of workers.
var registerCases = map[string]func(*rig){
	"a worker id is registered once": func(r *rig) {
		if err := r.store.Register(r.ctx(), r.id, []string{"a"}); err == nil {
			r.t.Error("a second registration succeeded")
		}
	},
}
