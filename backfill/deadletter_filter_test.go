package backfill_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

var filterEpoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// filterFields are a value for each field of a filter, and the rows of variedLetters, from 0, that
// it is true of. Each is true of some and not of others, together with any other field, too.
var filterFields = map[string]struct {
	set   func(*backfill.DeadLetterFilter, []int64)
	holds func(i int) bool
}{
	"IDs": {
		func(f *backfill.DeadLetterFilter, ids []int64) { f.IDs = ids[:len(ids)/2] },
		func(i int) bool { return i < filteredLetters/2 },
	},
	"JobIDs": {
		func(f *backfill.DeadLetterFilter, _ []int64) {
			for i := range filteredLetters {
				if i%2 == 0 {
					f.JobIDs = append(f.JobIDs, int64(9000+i))
				}
			}
		},
		func(i int) bool { return i%2 == 0 },
	},
	"Tasks":         {func(f *backfill.DeadLetterFilter, _ []int64) { f.Tasks = []string{"t0", "t1"} }, func(i int) bool { return i%3 < 2 }},
	"Queues":        {func(f *backfill.DeadLetterFilter, _ []int64) { f.Queues = []string{"q1", "nowhere"} }, func(i int) bool { return i%5 == 1 }},
	"Keys":          {func(f *backfill.DeadLetterFilter, _ []int64) { f.Keys = []string{"k1", "k2"} }, func(i int) bool { return i%7 == 1 || i%7 == 2 }},
	"Reasons":       {func(f *backfill.DeadLetterFilter, _ []int64) { f.Reasons = []backfill.DeadLetterReason{"permanent"} }, func(i int) bool { return i/2%2 == 1 }},
	"FailedAfter":   {func(f *backfill.DeadLetterFilter, _ []int64) { f.FailedAfter = filterEpoch.Add(20 * time.Second) }, func(i int) bool { return i*11%filteredLetters >= 20 }},
	"FailedBefore":  {func(f *backfill.DeadLetterFilter, _ []int64) { f.FailedBefore = filterEpoch.Add(90 * time.Second) }, func(i int) bool { return i*11%filteredLetters < 90 }},
	"ErrorContains": {func(f *backfill.DeadLetterFilter, _ []int64) { f.ErrorContains = `10% _` }, func(i int) bool { return i/3%2 == 0 }},
	"UpTo": {
		func(f *backfill.DeadLetterFilter, ids []int64) {
			f.UpTo = backfill.DeadLetterBound{ID: ids[89], FailedAt: filterEpoch.Add(100 * time.Second)}
		},
		func(i int) bool { return i < 90 && i*11%filteredLetters <= 100 },
	},
}

const filteredLetters = 120

// variedLetters inserts dead letters of which each has another combination of values, and returns
// their ids.
func variedLetters(t *testing.T, db *pgtest.Database) (ids []int64) {
	t.Helper()
	for i := range filteredLetters {
		queue, key := "null", "null"
		if i%5 != 4 {
			queue = fmt.Sprintf("'q%d'", i%5)
		}
		if i%7 != 6 {
			key = fmt.Sprintf("'k%d'", i%7)
		}
		ids = append(ids, addLetter(t, db, map[string]string{
			"original_job_id": fmt.Sprint(9000 + i), "task_identifier": fmt.Sprintf("'t%d'", i%3), "queue_name": queue, "job_key": key,
			"failure_reason": []string{"'exhausted'", "'permanent'"}[i/2%2], "last_error": []string{"'a 10% _ b'", "'a 10xx b'"}[i/3%2],
			"failed_at": quoteSQL(filterEpoch.Add(time.Duration(i*11%filteredLetters) * time.Second).Format(time.RFC3339)),
		}))
	}
	return ids
}

// Whatever two fields a filter has, what is touched, and what is listed, is the intersection.
func TestFilterIsTheIntersectionOfItsFields(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	names := slices.Sorted(maps.Keys(filterFields))
	for i, a := range names {
		for _, b := range names[i:] {
			exec(t, db.Pool(), "delete from graphile_worker.backfill_dlq")
			ids := variedLetters(t, db)
			filter := backfill.DeadLetterFilter{All: a == "UpTo" && b == "UpTo"}
			filterFields[a].set(&filter, ids)
			if b != a {
				filterFields[b].set(&filter, ids)
			}
			touched := map[int64]bool{}
			for i, id := range ids {
				if filterFields[a].holds(i) && filterFields[b].holds(i) {
					touched[id] = true
				}
			}
			if len(touched) == 0 || len(touched) == len(ids) {
				t.Fatalf("%s and %s: %d of %d: this says nothing", a, b, len(touched), len(ids))
			}
			list, err := client.DeadLetters(t.Context(), filter, backfill.DeadLetterPage{Size: 1000})
			if err != nil {
				t.Fatal(err)
			}
			listed := map[int64]bool{}
			for _, letter := range list.Letters {
				listed[letter.ID] = true
			}
			if diff := cmp.Diff(touched, listed); diff != "" {
				t.Errorf("%s and %s: listed (-want +got):\n%s", a, b, diff)
			}
			result, err := client.DeleteDeadLetters(t.Context(), filter, backfill.DeadLetterOptions{})
			if err != nil || result.Acted != len(touched) || result.SkippedBy[backfill.SkipUnmatched] != result.Skipped {
				t.Errorf("%s and %s: %+v, %v", a, b, result, err)
			}
			for _, id := range ids {
				left := get[bool](t, db.Pool(), "select exists (select from graphile_worker.backfill_dlq where id = $1)", id)
				if left == touched[id] {
					t.Errorf("%s and %s: dead letter %d: left is %v", a, b, id, left)
				}
			}
		}
	}
}

// An empty list or text is an error, and so is an empty filter of a change: neither means all.
func TestEmptyFiltersAreErrors(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	addLetters(t, db, 3)
	for want, filter := range map[string]backfill.DeadLetterFilter{
		"IDs is an empty list":           {IDs: []int64{}},
		"JobIDs is an empty list":        {JobIDs: []int64{}, Tasks: []string{"t"}},
		"Tasks is an empty list":         {Tasks: []string{}},
		"Queues is an empty list":        {Queues: []string{}},
		"Keys is an empty list":          {Keys: []string{}, IDs: []int64{1}},
		"Reasons is an empty list":       {Reasons: []backfill.DeadLetterReason{}},
		"Tasks has an empty text":        {Tasks: []string{"t", ""}},
		"Queues has an empty text":       {Queues: []string{""}},
		"Keys has an empty text":         {Keys: []string{""}},
		`the reason "" is none`:          {Reasons: []backfill.DeadLetterReason{""}},
		`the reason "exhaust" is none`:   {Reasons: []backfill.DeadLetterReason{"exhaust"}},
		"IDs has a number that is no id": {IDs: []int64{1, 0}},
		"not before FailedBefore":        {FailedAfter: filterEpoch, FailedBefore: filterEpoch},
		"UpTo needs both":                {Tasks: []string{"t"}, UpTo: backfill.DeadLetterBound{ID: 1}},
		"FailedAfter is in the year":     {FailedAfter: time.Date(300000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"NUL":                            {ErrorContains: "a\x00"},
	} {
		filter.All = filter.Tasks == nil // so that nothing else is wrong with some
		if _, err := client.DeadLetters(t.Context(), filter, backfill.DeadLetterPage{}); !errors.Is(err, backfill.ErrInvalidRequest) || !strings.Contains(err.Error(), want) {
			t.Errorf("list, %q: %v", want, err)
		}
		if result, err := client.DeleteDeadLetters(t.Context(), filter, backfill.DeadLetterOptions{}); !errors.Is(err, backfill.ErrInvalidRequest) || !strings.Contains(err.Error(), want) || result != nil {
			t.Errorf("delete, %q: %+v, %v", want, result, err)
		}
		if result, err := client.RequeueDeadLetters(t.Context(), filter, backfill.DeadLetterOptions{}); !errors.Is(err, backfill.ErrInvalidRequest) || !strings.Contains(err.Error(), want) || result != nil {
			t.Errorf("requeue, %q: %+v, %v", want, result, err)
		}
	}
	for want, filter := range map[string]backfill.DeadLetterFilter{
		"the filter is empty":               {},
		"the filter is empty: set a":        {UpTo: backfill.DeadLetterBound{ID: 1, FailedAt: filterEpoch}},
		"All beside other fields":           {All: true, Tasks: []string{"t"}},
		"Requeued, which is for lists only": {Requeued: true, Tasks: []string{"t"}},
	} {
		for _, change := range []func() (*backfill.DeadLetterResult, error){
			func() (*backfill.DeadLetterResult, error) {
				return client.DeleteDeadLetters(t.Context(), filter, backfill.DeadLetterOptions{})
			},
			func() (*backfill.DeadLetterResult, error) {
				return client.RequeueDeadLetters(t.Context(), filter, backfill.DeadLetterOptions{DryRun: true})
			},
		} {
			if result, err := change(); !errors.Is(err, backfill.ErrInvalidRequest) || !strings.Contains(err.Error(), want) || result != nil {
				t.Errorf("%q: %+v, %v", want, result, err)
			}
		}
	}
	if n := get[int](t, db.Pool(), "select count(*) from graphile_worker.backfill_dlq where requeued_job_id is null"); n != 3 {
		t.Errorf("%d of 3 dead letters are left", n)
	}
	result, err := client.DeleteDeadLetters(t.Context(), backfill.DeadLetterFilter{All: true}, backfill.DeadLetterOptions{})
	if err != nil || result.Acted != 3 {
		t.Errorf("all: %+v, %v", result, err)
	}
}
