package wire

import (
	"cmp"
	"math"
	"time"
)

// mostClass is the class of a day and more.
const mostClass = 73

// Class is the class of a time in a histogram. Class n is up to 2^(n/2) microseconds, so that each
// ends 1.41 times later than the one before it. Others have stored them: they never change.
func Class(took time.Duration) int16 {
	us := float64(took) / float64(time.Microsecond)
	if us <= 1 {
		return 0
	}
	return int16(min(math.Ceil(2*math.Log2(us)-1e-9), mostClass)) // a time that is the end of a class is in it
}

// ClassEnd returns the longest time of a class.
func ClassEnd(class int16) time.Duration {
	return time.Duration(math.Exp2(float64(class)/2) * float64(time.Microsecond))
}

// ClassCount says how many times are in a class.
type ClassCount struct {
	Class int16
	Count int64
}

// CompareClasses sorts them.
func CompareClasses(a, b ClassCount) int { return cmp.Compare(a.Class, b.Class) }

// Percentile returns the time that a part of all, from 0 to 1, did not exceed. Counts are sorted by
// class. Within a class, times count as if they were spread evenly, so the error is less than the
// class is wide. 0: there are none.
func Percentile(counts []ClassCount, part float64) time.Duration {
	var all int64
	for _, c := range counts {
		all += c.Count
	}
	wanted, seen := part*float64(all), 0.0
	for _, c := range counts {
		if c.Count == 0 {
			continue
		}
		if seen+float64(c.Count) >= wanted {
			from, to := time.Duration(0), ClassEnd(c.Class)
			if c.Class > 0 {
				from = ClassEnd(c.Class - 1)
			}
			return from + time.Duration(float64(to-from)*(wanted-seen)/float64(c.Count))
		}
		seen += float64(c.Count)
	}
	return 0
}
