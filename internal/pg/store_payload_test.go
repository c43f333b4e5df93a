package pg_test

import (
	"fmt"
	"testing"

	"github.com/backfillhq/go/internal/dbtest"
)

// Payloads of a size in bytes, which are stored packed to almost nothing, packed to a half, or as
// they are: JSON strings of one letter, of hexadecimal digits, and short ones.
var payloads = map[string]string{
	"packed to nothing": "to_json(repeat('x', $1::int - 2))",
	"packed to a half": `to_json((select left(string_agg(md5(i::text || $1::text), ''), $1::int - 2)
		from generate_series(1, $1::int / 32 + 1) as i))`,
}

func (r *rig) addPayload(kind string, size int, more string) int64 {
	r.t.Helper()
	id := r.add("'a', "+payloads[kind]+more, size)
	if got := dbtest.Get[int](r.t, r.pool, "select octet_length(payload::text) from graphile_worker._private_jobs where id = $1", id); got != size {
		r.t.Fatalf("a payload of %d bytes, want %d", got, size)
	}
	return id
}

// The payloads of a batch have at most as many bytes as the claim asks for, in the order of the
// line; the first job is taken whatever its size. What did not fit is not locked, and asked for at
// once.
func TestBytesOfABatch(t *testing.T) {
	t.Parallel()
	const kb = 1000
	for kind := range payloads {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			var ids []int64
			for i, size := range []int{300 * kb, 100 * kb, 200 * kb, 1000 * kb, 40, 500 * kb, 40, 40} {
				queue := ""
				if i%3 == 1 {
					queue = fmt.Sprintf(", queue_name := 'q%d'", i)
				}
				ids = append(ids, r.addPayload(kind, size, queue))
			}
			r.bytes = 500 * kb
			for _, want := range [][]int64{ids[0:2], ids[2:3], ids[3:4], ids[4:5], ids[5:6], ids[6:8]} {
				claimed := r.try(20, 20)
				wantIDs(t, "claimed", idsOf(claimed.Jobs), want...)
				if last := want[len(want)-1] == ids[7]; !claimed.More && !last {
					t.Error("the claim that left jobs for their size does not ask for more")
				}
				r.wantConsistent()
			}
		})
	}
}

// While no jobs of queues wait, claims do not weigh payloads: they take one alone if they cannot be
// sure of the others, and the next claim weighs them.
func TestBytesOfFreeJobs(t *testing.T) {
	t.Parallel()
	for kind := range payloads {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			wantIDs(t, "of none", idsOf(r.try(20, 20).Jobs)) // the store sees that there are no queues
			r.bytes = 550_000
			for range 3 {
				var ids, got []int64
				for range 8 {
					ids = append(ids, r.addPayload(kind, 100_000, ""))
				}
				claims := 0
				for ; len(got) < len(ids) && claims < 10; claims++ {
					jobs := idsOf(r.tryAll(20, 20).Jobs)
					if len(jobs) > 5 {
						t.Errorf("claimed jobs of %d bytes together", 100_000*len(jobs))
					}
					got = append(got, jobs...)
				}
				wantIDs(t, "claimed", got, ids...)
				if claims > 3 { // one job, five, and two
					t.Errorf("that took %d claims", claims)
				}
				r.wantConsistent()
			}
		})
	}
}

// Small payloads are not counted one by one, and none is left out.
func TestBytesOfSmallJobs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.addMany(600, "a", 0, 0, "", 0)
	r.bytes = 16 << 20
	if n := len(r.try(500, 500).Jobs); n != 500 {
		t.Errorf("claimed %d, want 500", n)
	}
}

// Jobs with small payloads are found behind large ones; a queue whose first job is too large waits,
// and its second does not pass.
func TestMaxPayload(t *testing.T) {
	t.Parallel()
	for kind := range payloads {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			var large []int64
			for range 3 {
				large = append(large, r.addPayload(kind, 500_000, ""))
			}
			large = append(large, r.addPayload(kind, 500_000, ", queue_name := 'q'"), r.addPayload(kind, 5001, ""))
			behind := r.addPayload(kind, 40, ", queue_name := 'q'")
			fits := []int64{r.addPayload(kind, 5000, ""), r.addPayload(kind, 40, ", queue_name := 'p'"), r.addPayload(kind, 4999, ", queue_name := 'o'")}
			r.payload = 5000
			wantIDs(t, "claimed", idsOf(r.try(20, 20).Jobs), fits...)
			if jobs := r.tryAll(20, 20).Jobs; len(jobs) != 0 {
				t.Errorf("then claimed %v", idsOf(jobs))
			}
			r.wantConsistent()
			r.payload = 0
			jobs := r.claim(5)
			wantIDs(t, "without a limit", idsOf(jobs), large...)
			endings["complete"](r, jobs...)
			wantIDs(t, "behind", idsOf(r.claim(1)), behind)
			r.wantConsistent()
		})
	}
}

// A claim that looks for small jobs, or for as many as fit, unpacks no large payload for it: jobs
// of 50 MB ahead of it cost it nothing.
func TestLargePayloadsAreNotUnpacked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range 3 {
		r.addPayload("packed to nothing", 8<<20, "")
	}
	// Who unpacks a payload that is stored apart waits for the index on its parts.
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	apart := dbtest.Get[string](t, tx, "select reltoastrelid::regclass::text from pg_class where oid = 'graphile_worker._private_jobs'::regclass")
	dbtest.Run(t, tx, "reindex table "+apart)
	small := r.add("'a'")
	r.payload, r.bytes = 1<<20, 1<<20
	wantIDs(t, "claimed", idsOf(r.try(20, 20).Jobs), small)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}
