package main

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// medians are the medians of each metric.
func (r runs) medians() sample {
	m := sample{}
	for metric := range r[0] {
		m[metric] = median(r.values(metric))
	}
	return m
}

func (r runs) values(m metric) []float64 {
	values := make([]float64, 0, len(r))
	for _, s := range r {
		if value, ok := s[m]; ok {
			values = append(values, value)
		}
	}
	return values
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// percentiles adds the median and the 99th percentile, by nearest rank, in milliseconds.
func (s sample) percentiles(took []time.Duration) {
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	at := func(share float64) float64 {
		rank := int(math.Ceil(share * float64(len(took))))
		return float64(took[max(rank, 1)-1]) / float64(time.Millisecond)
	}
	s[p50], s[p99] = at(0.50), at(0.99)
}

// number writes a number with as many digits as mean something.
func number(x float64) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case math.Abs(x) >= 1000:
		return thousands(x)
	case math.Abs(x) >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	default:
		return strconv.FormatFloat(x, 'f', 2, 64)
	}
}

func thousands(x float64) string {
	digits := strconv.FormatFloat(x, 'f', 0, 64)
	var b strings.Builder
	for i, digit := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 && digits[i-1] != '-' {
			b.WriteByte(',')
		}
		b.WriteRune(digit)
	}
	return b.String()
}
