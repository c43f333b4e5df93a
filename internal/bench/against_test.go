package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/needs"
)

// mainVariable makes the benchmark of this test program, for what the benchmark starts.
const mainVariable = "BACKFILL_BENCH_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainVariable) != "" {
		main()
		return
	}
	if err := os.Setenv(mainVariable, "1"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// What was committed last, built and run beside this tree.
func TestAgainstHead(t *testing.T) {
	t.Parallel()
	needs.That(t, exec.Command("git", "rev-parse", "--verify", "--quiet", "HEAD").Run() == nil, "git repository")
	path := filepath.Join(t.TempDir(), "numbers.json")
	opts, err := parseFlags([]string{"-against", "HEAD", "-pairs", "2", "-shapes", "latency", "-latency", "5", "-json", path})
	if err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	if err := compareWith(t.Context(), opts, &printed); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got comparison
	if err := json.Unmarshal(content, &got); err != nil {
		t.Fatal(err)
	}
	var metrics []metric
	for _, f := range got.Figures {
		metrics = append(metrics, f.Metric)
		if len(f.Ratios) != 2 || f.Base <= 0 || f.Ours <= 0 || *f.Least > *f.Ratio || *f.Ratio > *f.Most {
			t.Errorf("got %+v", f)
		}
	}
	if diff := cmp.Diff([]metric{p50, p99}, metrics); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	if !strings.Contains(printed.String(), "\n| commit to start of handler | p50_ms | ") {
		t.Errorf("printed:\n%s", printed.String())
	}
}

func TestAgainstUnknownRevision(t *testing.T) {
	t.Parallel()
	needs.That(t, exec.Command("git", "rev-parse", "--verify", "--quiet", "HEAD").Run() == nil, "git repository")
	for _, revision := range []string{"no-such-branch", "--all", "HEAD:./main.go"} {
		err := compareWith(t.Context(), options{against: revision}, nil)
		if err == nil || !strings.Contains(err.Error(), "there is no revision \""+revision+"\"") {
			t.Errorf("%s: got %v", revision, err)
		}
	}
}

// A revision that does not know a shape says so before anything starts, as every revision does.
func TestAgainstARevisionWithoutTheShape(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	theirs := contestant{name: "old", program: program, env: os.Environ(), folder: t.TempDir()}
	c := comparison{Pairs: 1}
	if err := c.measure(t.Context(), "juggling", theirs, theirs); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"old lacks the shape juggling"}, c.Skipped); diff != "" {
		t.Errorf("skipped (-want +got):\n%s", diff)
	}
}

func TestComparison(t *testing.T) {
	t.Parallel()
	p := newPairs()
	p.add(false, []measurement{{"both", sample{rate: 100, cpu: 0}}, {"gone", sample{rate: 1}}})
	p.add(true, []measurement{{"both", sample{rate: 110, cpu: 5, wal: 1}}, {"new", sample{rate: 1}}})
	p.add(true, []measurement{{"both", sample{rate: 90, cpu: 5}}, {"new", sample{rate: 1}}})
	p.add(false, []measurement{{"both", sample{rate: 200, cpu: 0}}, {"gone", sample{rate: 1}}})
	p.add(false, []measurement{{"both", sample{rate: 100, cpu: 0}}, {"gone", sample{rate: 1}}})
	p.add(true, []measurement{{"both", sample{rate: 120, cpu: 5}}, {"new", sample{rate: 1}}})
	c := comparison{Revision: "v1", Pairs: 3}
	c.add(p, "this tree")
	ratio, least, most := 1.1, 0.45, 1.2
	want := []figure{
		{Shape: "both", Metric: rate, Base: 100, Ours: 110, Ratio: &ratio, Least: &least, Most: &most, Ratios: []float64{1.1, 0.45, 1.2}},
		{Shape: "both", Metric: cpu, Base: 0, Ours: 5},
	}
	if diff := cmp.Diff(want, c.Figures); diff != "" {
		t.Errorf("figures (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{`this tree lacks the shape "gone"`, `v1 lacks the shape "new"`}, c.Skipped); diff != "" {
		t.Errorf("skipped (-want +got):\n%s", diff)
	}
	var printed strings.Builder
	c.print(&printed)
	for _, want := range []string{"| both | jobs_per_second | 100.0 | 110.0 | 1.10 | 0.45 | 1.20 |\n", "| both | cpu_us_per_job | 0.00 | 5.00 | – | – | – |\n"} {
		if !strings.Contains(printed.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, printed.String())
		}
	}
}

func TestFlagsWithAgainst(t *testing.T) {
	t.Parallel()
	o, err := parseFlags([]string{"-against", "v1", "-n", "5", "-serial=20", "-shapes", "work", "-json", "x"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"-n=5", "-serial=20"}, o.amounts); diff != "" {
		t.Errorf("passed on (-want +got):\n%s", diff)
	}
	for _, bad := range [][]string{{"-runs", "2"}, {"-statements"}, {"-shapes", "fleet"}, {"-pairs", "0"}} {
		if _, err := parseFlags(append([]string{"-against", "v1"}, bad...)); err == nil {
			t.Errorf("%v passed", bad)
		}
	}
}
