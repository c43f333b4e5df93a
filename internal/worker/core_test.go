package worker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// model plays the database and the handlers for a core, by a random schedule, without goroutines
// and without time passing.
type model struct {
	t      *testing.T
	random *rand.Rand
	c      core
	now    time.Time

	lastID  int64
	open    map[int64]string // jobs that are claimed in the database, with their tokens
	done    map[int64]int    // outcomes that the database has
	running []*lease
	slots   int                  // goroutines that run handlers
	ended   map[*lease]time.Time // when a look first saw that their contexts had
	given   map[*lease]bool      // those whose slots were given to others
	most    int                  // looks after which as many were given as may be
	lost    map[string]bool      // tokens that somebody else has ended
	unknown []*wire.Job          // of claims whose answers were lost
}

// Whatever happens, in whatever order: a lease is in one state and one place, every job that was
// claimed ends in the database once, and what the core counts is what there is.
func TestAnyOrderOfEvents(t *testing.T) {
	t.Parallel()
	most := 0
	for seed := range uint64(1000) {
		m := &model{
			t: t, random: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1e9, 0), //nolint:gosec // a test's schedule
			c:    newCore(Config{Concurrency: 1 + int(seed%7), Once: seed%5 == 0, Timeouts: map[string]time.Duration{"limited": 10 * time.Second}}),
			open: map[int64]string{}, done: map[int64]int{}, lost: map[string]bool{},
			ended: map[*lease]time.Time{}, given: map[*lease]bool{},
		}
		m.c.state, m.slots = StateRunning, m.c.concurrency
		for range 150 {
			m.step()
			m.check()
		}
		m.settle()
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
		most += m.most
	}
	if most < 100 {
		t.Errorf("all slots that may be given were given %d times: the schedule tests too little", most)
	}
}

// step lets one thing happen.
func (m *model) step() {
	m.now = m.now.Add(time.Duration(m.random.IntN(100)) * time.Millisecond)
	switch m.random.IntN(11) {
	case 0, 1, 2:
		m.dispatch()
	case 3, 4:
		m.start()
	case 5, 6:
		m.endOne()
	case 7, 8:
		m.flush(m.random.IntN(8))
	case 9:
		m.hang()
	default:
		m.interfere()
	}
}

// dispatch does what the core wants to be done: a claim that succeeds, fails, or is lost, or a
// look.
func (m *model) dispatch() {
	next, _ := m.c.next(m.now)
	switch {
	case next.register:
		m.c.reborn(wire.NewWorkerID(), Moment{At: m.now})
	case next.doubt != nil && m.random.IntN(3) == 0:
		m.c.looked(next.doubt, Reclaimed{}, fmt.Errorf("away"), m.now)
	case next.doubt != nil:
		for _, job := range m.unknown {
			delete(m.open, job.ID)
		}
		m.unknown = nil
		m.c.looked(next.doubt, Reclaimed{Settled: m.random.IntN(4) > 0}, nil, m.now)
	case next.claim:
		m.claim(next)
	}
}

func (m *model) claim(next step) {
	if next.request.Batch < 1 || next.request.Serial > next.request.Batch {
		m.t.Errorf("a claim asks for %d jobs, %d of queues", next.request.Batch, next.request.Serial)
	}
	var jobs []*wire.Job
	for range m.random.IntN(next.request.Batch + 1) {
		m.lastID++
		job := &wire.Job{Lease: wire.Lease{ID: m.lastID, Token: fmt.Sprint(next.request.WorkerID, ".", m.lastID)}}
		job.QueueID = int32(m.random.IntN(3)) //nolint:gosec // small
		if m.random.IntN(3) == 0 {
			job.Task = "limited"
		}
		if m.random.IntN(20) == 0 {
			job.Payload = make([]byte, largePayload+1)
		}
		jobs = append(jobs, job)
		m.open[job.ID] = job.Token
	}
	switch m.random.IntN(8) {
	case 0:
		m.unknown = append(m.unknown, jobs...)
		m.c.claimFailed(next, true, true, m.now)
	case 1:
		m.c.declaredDead(m.c.id, m.now)
		for _, job := range jobs {
			delete(m.open, job.ID)
		}
	default:
		m.c.claimed(next, Claimed{Alive: true, Jobs: jobs, More: m.random.IntN(2) == 0}, false, m.now)
	}
}

func (m *model) start() {
	if len(m.running) >= m.slots || m.c.closed {
		return
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	if l, _ := m.c.start(ctx, cancel, m.now); l != nil {
		m.running = append(m.running, l)
	}
}

func (m *model) endOne() {
	if len(m.running) == 0 {
		return
	}
	i := m.random.IntN(len(m.running))
	l := m.running[i]
	if _, ended := m.ended[l]; ended && m.c.state == StateRunning && m.random.IntN(10) > 0 {
		return // it ignores that
	}
	m.running = append(m.running[:i], m.running[i+1:]...)
	if m.given[l] {
		m.slots--
		delete(m.given, l)
	}
	kind := OutcomeKind(1 + m.random.IntN(int(OutcomeReturned)))
	m.c.ended(l, Outcome{Kind: kind}, m.now)
}

// hang lets time go by, and some contexts end that their handlers ignore. Then the core looks for
// such handlers, and gives slots of those that have been stuck for long, but not more than there
// are.
func (m *model) hang() {
	m.now = m.now.Add(time.Duration(m.random.IntN(40)) * time.Second)
	for _, l := range m.running {
		if m.random.IntN(2) == 0 {
			l.cancel(ErrLeaseLost)
		}
		_, seen := m.ended[l]
		if late := l.Task == "limited" && m.now.Sub(l.since) >= 10*time.Second; !seen && (l.ctx.Err() != nil || late) {
			m.ended[l] = m.now
		}
	}
	may := map[*lease]bool{}
	for _, l := range m.running {
		if at, ended := m.ended[l]; ended && m.now.Sub(at) >= 30*time.Second && !m.given[l] {
			may[l] = true
		}
	}
	want := min(len(may), m.c.concurrency-len(m.given))
	blocked := m.c.demand.blocked
	slots, do := m.c.giveSlots(m.now)
	for _, l := range m.running {
		if l.slotGiven && !m.given[l] {
			if m.given[l] = true; !may[l] {
				m.t.Errorf("the slot of a handler was given that is not stuck")
			}
		}
	}
	if slots != want {
		m.t.Errorf("%d slots were given, want %d", slots, want)
	}
	if m.slots += slots; slots > 0 && blocked && m.c.room() > 0 && !do.dispatch {
		m.t.Error("nothing is claimed for the slots that were given")
	}
	if len(m.given) == m.c.concurrency && len(may) > want {
		m.most++
	}
}

// flush records a part: it succeeds, fails before or after it was applied, is refused, or meets
// locked rows.
func (m *model) flush(luck int) {
	s, part, _ := m.c.outbox.next(m.now)
	if len(part) == 0 {
		return
	}
	if len(part) > maxBatch {
		m.t.Errorf("a statement with %d leases", len(part))
	}
	switch luck {
	case 0:
		m.c.outbox.failed(s, part, m.now)
		return
	case 1:
		m.apply(part, false)
		m.c.outbox.failed(s, part, m.now)
		return
	case 2:
		m.c.outbox.refused(s, part, m.now)
		return
	}
	fates := m.apply(part, luck == 3)
	m.c.settled(s, part, fates, m.now)
}

func (m *model) apply(part []*lease, busy bool) []Fate {
	fates := make([]Fate, len(part))
	for i, l := range part {
		switch {
		case m.open[l.ID] != l.Token:
			fates[i].Kind = FateLost
		case busy && m.random.IntN(2) == 0:
			fates[i].Kind = FateBusy
		default:
			fates[i] = Fate{Kind: FateRecorded, Next: NextInQueue(m.random.IntN(3))}
			delete(m.open, l.ID)
			m.done[l.ID]++
		}
	}
	return fates
}

// interfere lets somebody else end a lease, or a renewal find that out, or the worker be woken.
func (m *model) interfere() {
	switch m.random.IntN(3) {
	case 0:
		for id := range m.open {
			delete(m.open, id)
			m.lost[fmt.Sprint(id)] = true
			break
		}
	case 1:
		held := m.c.leases.all(leaseRunning, leaseEnding, leaseAbandoned)
		fates := make([]Fate, len(held))
		for i, l := range held {
			fates[i].Kind = FateRecorded
			if m.open[l.ID] != l.Token {
				fates[i].Kind = FateLost
			}
		}
		m.c.renewed(held, fates, m.now)
	default:
		m.c.woke(true)
	}
}

// check compares what the core counts with what there is.
func (m *model) check() {
	c := &m.c
	places, large, queued := 0, 0, 0
	others := 0 // handlers that take a slot of those that are configured
	for _, l := range m.running {
		if !m.given[l] {
			others++
		}
	}
	for state, list := range c.leases.in {
		for i, l := range list {
			if l.state != leaseState(state) || l.place != i {
				m.t.Errorf("a lease of state %d at place %d is in list %d at %d", l.state, l.place, state, i)
			}
			places++
		}
	}
	for _, l := range c.buffer.leases[c.buffer.head:] {
		if l.state != leaseClaimed {
			m.t.Errorf("a lease in the buffer has state %d", l.state)
		}
		if l.QueueID != 0 {
			queued++
		}
		if len(l.Payload) > largePayload {
			large++
		}
	}
	for _, l := range m.running {
		if len(l.Payload) > largePayload {
			large++
		}
	}
	outbox := len(c.outbox.waiting)
	for _, list := range c.outbox.ready {
		outbox += len(list)
	}
	switch {
	case places != c.leases.held():
		m.t.Errorf("%d leases are held, and %d counted", places, c.leases.held())
	case c.buffer.len() != len(c.leases.in[leaseClaimed]) || c.buffer.prompt != queued:
		m.t.Errorf("%d leases in the buffer (%d of queues), %d claimed (%d)", c.buffer.len(), c.buffer.prompt, len(c.leases.in[leaseClaimed]), queued)
	case outbox != len(c.leases.in[leaseEnding])+len(c.leases.in[leaseAbandoned]):
		m.t.Errorf("%d leases in the outbox, %d ending", outbox, len(c.leases.in[leaseEnding]))
	case c.handling != len(m.running):
		m.t.Errorf("%d handlers run, %d are counted", len(m.running), c.handling)
	case len(m.given) > c.concurrency || c.given != len(m.given) || others > c.concurrency:
		m.t.Errorf("of %d slots %d were given, %d are counted, and %d handlers run beside", c.concurrency, len(m.given), c.given, others)
	case c.idleSlots() != m.slots-len(m.running):
		m.t.Errorf("%d goroutines run %d handlers, and %d are counted as idle", m.slots, len(m.running), c.idleSlots())
	case c.large != large:
		m.t.Errorf("%d payloads are large, %d are counted", large, c.large)
	}
}

// settle stops the worker, and lets everything succeed from then on.
func (m *model) settle() {
	m.c.drained(m.now)
	for len(m.running) > 1 {
		m.endOne()
	}
	m.c.abandon(m.now)
	for len(m.running) > 0 { // what it says does not count any more
		m.endOne()
	}
	for range 1000 {
		m.now = m.now.Add(time.Minute)
		if m.flush(9); m.c.leases.held() == 0 {
			break
		}
	}
	m.check()
	if m.slots != m.c.concurrency || m.c.idleSlots() != m.c.concurrency {
		m.t.Errorf("of %d slots, %d are left, and %d idle", m.c.concurrency, m.slots, m.c.idleSlots())
	}
	if n := m.c.leases.held(); n > 0 {
		m.t.Errorf("%d leases are left", n)
	}
	for _, job := range m.unknown {
		delete(m.open, job.ID)
	}
	if len(m.open) > 0 {
		m.t.Errorf("%d jobs stay locked", len(m.open))
	}
	for id, n := range m.done {
		if n > 1 {
			m.t.Errorf("job %d was recorded %d times", id, n)
		}
	}
}
