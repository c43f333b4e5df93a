package worker

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The clock that tells a sleep from a wall clock that was set is the kernel's.
func TestSinceBoot(t *testing.T) {
	t.Parallel()
	before := readClocks()
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	seconds, err := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	after := readClocks()
	const resolution = 10 * time.Millisecond
	if up := time.Duration(seconds * float64(time.Second)); up < before.Boot-resolution || up > after.Boot+resolution {
		t.Errorf("the machine has been up for %v, by our clock for %v to %v", up, before.Boot, after.Boot)
	}
	if ago, want := before.ago(after), after.Boot-before.Boot; before.Boot <= 0 || ago != want {
		t.Errorf("the moment was %v ago, want %v", ago, want)
	}
}
