package pg

import (
	"maps"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/worker"
)

// A worker with transactional tasks makes two kinds of claims. While it has connections left for
// their jobs, a claim looks for all that it serves, and takes of these jobs the first ones, as many
// as there are connections (R22). While it has none, a claim passes over them as over jobs that
// somebody else serves, except that in a queue they keep their place. The two see different lines,
// so each remembers its own marks and its own search.

// lane returns what makes a claim.
func (s *Store) lane(request worker.ClaimRequest) *claims {
	if len(s.claims.transactional) > 0 && request.Transactional == 0 {
		return &s.plain
	}
	return &s.claims
}

// serveTasks says which tasks to claim.
func (s *Store) serveTasks(tasks map[int32]string) {
	if maps.Equal(tasks, s.claims.tasks) {
		return
	}
	line, transactional := slices.Sorted(maps.Keys(tasks)), []int32{}
	for _, id := range line {
		if slices.Contains(s.transactional, tasks[id]) {
			transactional = append(transactional, id)
		}
	}
	s.claims.serve(tasks, line, transactional)
	if len(transactional) == 0 {
		return
	}
	plain := maps.Clone(tasks)
	maps.DeleteFunc(plain, func(id int32, _ string) bool { return slices.Contains(transactional, id) })
	s.plain.serve(plain, line, []int32{})
}

// forget forgets what claims remember of earlier ones.
func (s *Store) forget() {
	s.claims.forget()
	s.plain.forget()
}

// Refresh makes the next claim look at everything, pauses included, for tests that move the time.
// It must not run beside a Claim.
func (s *Store) Refresh() {
	s.forget()
	s.pauses.read = time.Time{}
}

// keptOut reports whether transactional jobs may wait that a claim has not taken, because there is
// no connection left for them.
func (s *Store) keptOut(request worker.ClaimRequest, claimed worker.Claimed) bool {
	if len(s.claims.transactional) == 0 || !claimed.Alive {
		return false
	}
	taken := 0
	for _, job := range claimed.Jobs {
		if slices.Contains(s.transactional, job.Task) {
			taken++
		}
	}
	return taken >= request.Transactional
}
