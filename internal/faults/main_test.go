//go:build unix

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/needs"
)

// A child of the fleet is this test binary once more.
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		main()
		return
	}
	if w := os.Getenv(wayVariable); w != "" {
		way(w).end()
		return
	}
	os.Exit(m.Run())
}

// A short schedule, of faults that take little time, with the whole fleet.
func TestSchedule(t *testing.T) {
	t.Parallel()
	if os.Getenv("BACKFILL_TEST_FAULTS") == "" {
		t.Skip("BACKFILL_TEST_FAULTS=1 runs it, for a minute; it needs the machine for itself")
	}
	folder := filepath.Join(openFolder(t), "run")
	o := options{seed: 3, duration: 45 * time.Second, rate: 150, needNode: needs.All(), folder: folder}
	o.say = func(format string, a ...any) { t.Logf(format, a...) }
	var report bytes.Buffer
	if err := try(t.Context(), o, &report); err != nil {
		t.Error(err)
	}
	t.Log(report.String())
	v, err := judge(filepath.Join(folder, "server"))
	if err != nil {
		t.Fatal(err)
	}
	if len(v.trial.windows) < 4 {
		t.Errorf("%d faults were injected", len(v.trial.windows)-1)
	}
	ran := map[kind]int{}
	for _, it := range v.trial.order {
		if it.outcome == opEnded {
			ran[it.kind]++
		}
	}
	for _, want := range []kind{
		kindPlain, kindMany, kindTx, kindKeyed, kindSerial, kindLong, kindScheduled, kindFailing, kindBatch, kindParent, kindChild,
		kindEffect, kindFollow, kindPermanent, kindExhausted, kindUnwanted, kindUnwantedEffect,
	} {
		if ran[want] == 0 {
			t.Errorf("no %s job ran", want)
		}
	}
	if t.Failed() {
		logTails(t, filepath.Join(folder, "server"))
	}
}

// openFolder is a folder that the pooler's account can enter.
func openFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("/var/tmp", folderPrefix) //nolint:usetesting // t.TempDir is in a folder that others cannot enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil { //nolint:gosec // see above
		t.Fatal(err)
	}
	return folder
}

func logTails(t *testing.T, folder string) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(folder, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range logs {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(content), "\n")
		t.Logf("%s:\n%s", path, strings.Join(lines[max(0, len(lines)-20):], "\n"))
	}
}

// The same seed has the same faults meet the same processes.
func TestSeedSaysTheSchedule(t *testing.T) {
	t.Parallel()
	deck := func(seed uint64) string {
		var names []string
		for _, it := range dealt(faults, newRandom(seed)) {
			names = append(names, it.name)
		}
		return strings.Join(names, ", ")
	}
	first, again, other := deck(1), deck(1), deck(2)
	if first != again || first == other {
		t.Errorf("seed 1: %s\nagain:  %s\nseed 2: %s", first, again, other)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for _, wrong := range [][]string{{"-for=1s"}, {"-rate=0"}, {"-only=("}, {"argument"}} {
		if _, err := parseFlags(wrong); err == nil {
			t.Errorf("%v is accepted", wrong)
		}
	}
	o, err := parseFlags([]string{"-seed=5", "-only=TCP"})
	if err != nil || o.seed != 5 {
		t.Fatal(o.seed, err)
	}
	chosen := (&fleet{server: &server{}}).chosen(o)
	if len(chosen) == 0 || slices.ContainsFunc(chosen, func(it fault) bool { return !strings.HasPrefix(it.name, "TCP") }) {
		t.Error(fmt.Sprint(chosen))
	}
}

// A page says how to repeat its run.
func TestCommand(t *testing.T) {
	t.Parallel()
	got := command([]record{{N: 7, Due: us(60), Kind: kindPoison}, {N: 7, Due: us(30)}})
	o, err := parseFlags(strings.Fields(strings.TrimPrefix(got, "go run ./internal/faults")))
	if err != nil || o.seed != 7 || o.duration != time.Minute || o.patroni != 30*time.Second || !o.poison {
		t.Errorf("%s: %v", got, err)
	}
}
