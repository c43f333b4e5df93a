package backfill

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Binding is an argument of [NewRegistry]: a task with its handler, from [Handle], or a condition
// for starting, from [Require].
type Binding struct {
	handler *handler // nil: there is only a problem, or nothing
	problem *problem
}

// problem is what keeps a worker from running tasks.
type problem struct {
	err   error
	tasks []string // by name; none: every task of the registry
}

// Registry is a set of tasks with their handlers. It never changes: [MergeRegistries],
// [Registry.Only] and [Registry.Use] return new ones. [Client.NewWorker] reports all mistakes in it
// at once.
type Registry struct {
	handlers []*handler
	faults   []problem // beside those of the handlers
	// names are the handlers by all names that they take jobs of: the tasks' own and their aliases.
	names map[string]*handler
}

// NewRegistry returns a registry of these bindings. Generated code calls it.
func NewRegistry(bindings ...Binding) *Registry {
	r := &Registry{}
	for _, b := range bindings {
		if b.problem != nil {
			r.faults = append(r.faults, *b.problem)
		}
		if b.handler != nil {
			r.handlers = append(r.handlers, b.handler)
		}
	}
	r.claimNames()
	return r
}

// MergeRegistries returns a registry with the tasks of all registries, for example one of each
// package. If two tasks have the same name, NewWorker returns an error that says where both are
// bound.
func MergeRegistries(registries ...*Registry) *Registry {
	merged := &Registry{}
	for i, r := range registries {
		if r == nil {
			merged.fault(fmt.Errorf("argument %d of MergeRegistries is nil: pass what NewRegistry returns", i+1))
			continue
		}
		merged.handlers = append(merged.handlers, r.handlers...)
		merged.faults = append(merged.faults, r.faults...)
	}
	merged.claimNames()
	return merged
}

// Only returns a registry with the tasks of these names, for fleets whose workers run different
// tasks. Jobs of the other tasks wait for another worker, and nothing that only those tasks need
// has to be there: generated code asks for the receivers of these tasks alone. An alias or an
// unknown name is a start-up error.
//
// Two workers in one process can run different tasks as well, each with a concurrency of its own.
func (r *Registry) Only(names ...string) *Registry {
	if r == nil {
		return nil
	}
	only := &Registry{faults: slices.Clone(r.faults)}
	if len(names) == 0 {
		only.fault(errors.New("Only has no names: name the tasks that this worker runs"))
	}
	for _, name := range names {
		if h, err := r.task("Only", name); err != nil {
			only.fault(err)
		} else {
			only.handlers = append(only.handlers, h)
		}
	}
	only.faults = slices.DeleteFunc(only.faults, func(p problem) bool {
		return len(p.tasks) > 0 && !slices.ContainsFunc(p.tasks, func(name string) bool { return slices.Contains(names, name) })
	})
	only.claimNames()
	own := fmt.Sprintln(only.clashes())
	for _, clash := range r.clashes() { // also of tasks that are dropped: their fleet claims the same name
		if !strings.Contains(own, clash.Error()) {
			only.fault(clash)
		}
	}
	return only
}

// task returns the handler of a task that a caller of operation has named.
func (r *Registry) task(operation, name string) (*handler, error) {
	found := slices.IndexFunc(r.handlers, func(h *handler) bool { return h.name == name })
	switch {
	case found >= 0:
		return r.handlers[found], nil
	case r.names[name] != nil:
		return nil, fmt.Errorf("%s names %q, an alias: name the task %q", operation, name, r.names[name].name)
	}
	return nil, fmt.Errorf("%s names %q, which is not a task of the registry: it has %q", operation, name, r.taskNames())
}

func (r *Registry) fault(err error) { r.faults = append(r.faults, problem{err: err}) }

// claimNames gives every name to the first handler that has it. Names come before aliases, so that
// a clash of the two is reported as one of the alias.
func (r *Registry) claimNames() {
	r.names = make(map[string]*handler, len(r.handlers))
	claim := func(name string, h *handler) {
		if r.names[name] == nil {
			r.names[name] = h
		}
	}
	for _, h := range r.handlers {
		claim(h.name, h)
	}
	for _, h := range r.handlers {
		for _, alias := range h.aliases {
			claim(alias, h)
		}
	}
}

// clashes reports names that several handlers claim.
func (r *Registry) clashes() []error {
	var clashes []error
	for _, h := range r.handlers {
		if owner := r.names[h.name]; owner != h {
			clashes = append(clashes, fmt.Errorf("task %q is bound twice, in %s and in %s: "+
				"bind it once, or give one of the two another name", h.name, owner.where, h.where))
		}
		for i, alias := range h.aliases {
			switch owner := r.names[alias]; {
			case slices.Contains(h.aliases[:i], alias):
				clashes = append(clashes, fmt.Errorf("task %q has the alias %q twice: leave one out", h.name, alias))
			case owner == h && alias == h.name:
				clashes = append(clashes, fmt.Errorf("task %q has its own name as an alias: leave it out", h.name))
			case owner == h || owner.name == h.name: // the second is reported as a task that is bound twice
			case alias == owner.name:
				clashes = append(clashes, fmt.Errorf("alias %q of task %q is the name of another task: leave one out", alias, h.name))
			default:
				clashes = append(clashes, fmt.Errorf("alias %q belongs to the tasks %q and %q: leave it out of one", alias, owner.name, h.name))
			}
		}
	}
	return clashes
}

// problems reports everything that keeps a worker from running the registry, one problem a line.
func (r *Registry) problems() error {
	if r == nil {
		return errors.New("registry is nil: pass what NewRegistry returns")
	}
	var found []error
	for _, p := range r.faults {
		found = append(found, p.err)
	}
	for i, h := range r.handlers {
		if !slices.Contains(r.handlers[:i], h) { // twice is no mistake
			found = append(found, h.faults...)
		}
	}
	found = append(found, r.clashes()...)
	if len(found) == 0 && len(r.handlers) == 0 {
		found = []error{errors.New("registry has no tasks: pass the NewRegistry of a package with tasks, or bind some with Handle")}
	}
	return errors.Join(found...)
}

// claimed returns all names that the registry takes jobs of, aliases included, in alphabetical
// order.
func (r *Registry) claimed() []string {
	return slices.Sorted(maps.Keys(r.names))
}

// timeouts returns the timeouts of the tasks that have one, by all their names.
func (r *Registry) timeouts() map[string]time.Duration {
	timeouts := make(map[string]time.Duration)
	for name, h := range r.names {
		if h.timeout > 0 {
			timeouts[name] = h.timeout
		}
	}
	return timeouts
}

// histories returns how long attempts are kept, by all names of the tasks of which they are.
func (r *Registry) histories(unless time.Duration) map[string]time.Duration {
	histories := make(map[string]time.Duration)
	if r == nil {
		return histories
	}
	for name, h := range r.names {
		if keep := cmp.Or(h.history, unless); keep > 0 {
			histories[name] = keep
		}
	}
	return histories
}

// taskNames returns the names of the tasks, in alphabetical order.
func (r *Registry) taskNames() []string {
	names := make([]string, 0, len(r.handlers))
	for _, h := range r.handlers {
		names = append(names, h.name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
