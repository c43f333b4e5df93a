package interop_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// points are those of the contract's section 11 B. The test of each is named TestB and its number.
var points = []string{
	"enqueue here, execute there: payloads, flags, priorities, times, keys",
	"one queue, served by both: one job at a time, none lost",
	"failure here, retry there: attempts, times, errors, parts of arrays",
	"kill -9 here, the locks are released there",
	"keys of jobs that run or have failed, and the race of section 4.4",
	"notifications wake and stop both",
	"one crontab in three processes: each tick once, and made up for",
	"either installs, either starts, ten start at once",
	"both install the same catalog",
	"older peers: 0.17 warns and works, 0.16 refuses",
}

// results has what became of the points' tests, by the number in their names; points that did not run are absent.
var results struct {
	sync.Mutex
	failed, skipped, ran map[int]bool
}

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests wait for other processes most of the time. Who says -parallel, means it.
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		_ = parallel.Value.Set(strconv.Itoa(4 * runtime.GOMAXPROCS(0)))
	}
	results.failed, results.skipped, results.ran = map[int]bool{}, map[int]bool{}, map[int]bool{}
	code := m.Run()
	if complete := printResults(); !complete && code == 0 && os.Getenv("BACKFILL_TEST_ALL") == "1" {
		fmt.Fprintln(os.Stdout, "FAIL: BACKFILL_TEST_ALL=1, but not every point was tested")
		code = 1
	}
	os.Exit(code)
}

// point notes what becomes of a point's test, of which it is the first statement.
func point(t *testing.T) {
	t.Helper()
	number := pointOf(t)
	t.Cleanup(func() { // after all subtests
		results.Lock()
		defer results.Unlock()
		results.ran[number] = true
		results.failed[number] = results.failed[number] || t.Failed()
		results.skipped[number] = results.skipped[number] || t.Skipped()
	})
}

// skipped notes that a part of a point's test is skipped, which its parents do not hear of.
func skipped(t *testing.T) {
	t.Helper()
	results.Lock()
	defer results.Unlock()
	results.skipped[pointOf(t)] = true
}

func pointOf(t *testing.T) int {
	t.Helper()
	var number int
	_, _ = fmt.Sscanf(t.Name(), "TestB%d", &number) // 0: no point's
	return number
}

// printResults prints the table. It reports false if a point was left out, and not by a flag.
func printResults() (complete bool) {
	selected := false
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		selected = selected || flag.Lookup(name).Value.String() != ""
	}
	complete = true
	var table strings.Builder
	for i, what := range points {
		result := "ok"
		switch number := i + 1; {
		case results.failed[number]:
			result = "FAIL"
		case results.skipped[number]:
			result = "skipped"
		case !results.ran[number] && selected:
			continue
		case !results.ran[number]:
			result = "not run"
		}
		complete = complete && result == "ok"
		fmt.Fprintf(&table, "B.%-3d %-8s %s\n", i+1, result, what)
	}
	if table.Len() > 0 {
		fmt.Fprintf(os.Stdout, "Graphile Worker and backfill on one database (contract section 11 B):\n%s", &table)
	}
	return complete
}
