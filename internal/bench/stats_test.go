package main

import (
	"math"
	"testing"
	"time"
)

func TestPercentiles(t *testing.T) {
	t.Parallel()
	var took []time.Duration
	for ms := 200; ms > 0; ms-- {
		took = append(took, time.Duration(ms)*time.Millisecond)
	}
	s := sample{}
	s.percentiles(took)
	if s[p50] != 100 || s[p99] != 198 {
		t.Errorf("p50 %v, p99 %v; want 100 and 198", s[p50], s[p99])
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value float64
		want  string
	}{
		{0.6666, "0.67"},
		{9.999, "10.00"},
		{12.34, "12.3"},
		{999.94, "999.9"},
		{1000, "1,000"},
		{1234567.8, "1,234,568"},
		{-1234, "-1,234"},
		{math.NaN(), "–"},
	} {
		if got := number(c.value); got != c.want {
			t.Errorf("%v: got %q, want %q", c.value, got, c.want)
		}
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	r := result{Samples: map[string]runs{
		"floor":  {{rate: 100}, {rate: 300}, {rate: 200}},
		oursName: {{rate: 140}, {rate: 120}, {rate: 160}},
	}}
	for _, c := range []struct {
		goal goal
		pass bool
	}{
		{goal{rate, "floor", atLeast, 0.7}, true},
		{goal{rate, "floor", atLeast, 0.71}, false},
		{goal{rate, "floor", atMost, 0.7}, true},
		{goal{rate, "", atLeast, 141}, false},
	} {
		got, ok := r.compare(c.goal)
		if !ok || got.Pass == nil || *got.Pass != c.pass {
			t.Errorf("%+v: got %+v, want pass %v", c.goal, got, c.pass)
		}
	}
	if got, ok := r.compare(goal{cpu, "floor", atMost, 1}); ok {
		t.Errorf("compared what was not measured: %+v", got)
	}
}

func TestWithDatabase(t *testing.T) {
	t.Parallel()
	for conn, want := range map[string]string{
		"postgres://u:p@h:1,i:2/a?sslmode=disable": "postgres://u:p@h:1,i:2/b?sslmode=disable",
		"postgres:///":    "postgres:///b",
		"host=h dbname=a": "host=h dbname=a dbname=b",
	} {
		if got := withDatabase(conn, "b"); got != want {
			t.Errorf("%s: got %s, want %s", conn, got, want)
		}
	}
}
