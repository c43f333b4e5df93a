package pg

import (
	"cmp"
	"slices"

	"github.com/backfillhq/go/internal/wire"
)

// bounds bound what one statement inserts. A call that exceeds them is sent in several statements
// of one transaction, in bounded memory on both sides.
type bounds struct {
	jobs  int
	bytes int // of payloads
}

var pieceBounds = bounds{jobs: 5000, bytes: 8 << 20}

// plan says which statements insert the specs of a call.
type plan struct {
	pieces []piece
	keyed  bool // some of them
	large  bool // too much to be sent at once
}

// piece is a list of specs that one statement inserts: all without keys, or with keys, each once
// and all in one mode.
type piece struct {
	keyed bool
	mode  wire.KeyMode
	specs []int
}

// newPlan splits specs into pieces. Pieces keep the order of the specs, because jobs of one queue
// run in it. Only jobs with a key and without a queue are sorted, by key, so that two transactions
// lock them in the same order.
func newPlan(specs []wire.Spec, most bounds) *plan {
	p := &plan{}
	keys := map[string]bool{}
	bytes := 0
	for i := range specs {
		spec := &specs[i]
		keyed, mode, last := spec.Key != "", cmp.Or(spec.KeyMode, wire.KeyReplace), len(p.pieces)-1
		if last < 0 || p.pieces[last].keyed != keyed || keyed && (p.pieces[last].mode != mode || keys[spec.Key]) {
			p.pieces = append(p.pieces, piece{keyed: keyed, mode: mode})
			last++
			clear(keys)
		}
		if keyed {
			keys[spec.Key] = true
			p.keyed = true
		}
		p.pieces[last].specs = append(p.pieces[last].specs, i)
		bytes += len(spec.Payload)
	}
	p.large = len(specs) > most.jobs || bytes > most.bytes && len(specs) > 1
	if p.large {
		p.split(specs, most)
	}
	return p
}

func (p *plan) split(specs []wire.Spec, most bounds) {
	var bounded []piece
	for _, whole := range p.pieces {
		if whole.keyed {
			slices.SortStableFunc(whole.specs, func(a, b int) int { return compareKeyed(&specs[a], &specs[b]) })
		}
		start, bytes := 0, 0
		for n, i := range whole.specs {
			size := len(specs[i].Payload)
			if n > start && (n-start == most.jobs || bytes+size > most.bytes) {
				bounded = append(bounded, piece{whole.keyed, whole.mode, whole.specs[start:n]})
				start, bytes = n, 0
			}
			bytes += size
		}
		bounded = append(bounded, piece{whole.keyed, whole.mode, whole.specs[start:]})
	}
	p.pieces = bounded
}

// compareKeyed is the order of UpsertJobs: jobs without a queue first, by key.
func compareKeyed(a, b *wire.Spec) int {
	switch {
	case a.Queue == "" && b.Queue == "":
		return cmp.Compare(a.Key, b.Key)
	case a.Queue == "":
		return -1
	case b.Queue == "":
		return 1
	default:
		return 0
	}
}
