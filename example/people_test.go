package main

import (
	"slices"
	"strings"
	"testing"
)

// Excel begins the file with a byte order mark, and ends its lines with CR LF.
func TestPeopleFromExcel(t *testing.T) {
	t.Parallel()
	people, err := readPeople(write(t, "\ufeffname,email\r", "Zoë,zoe@example.com\r"))
	if want := []subscriber{{"Zoë", "zoe@example.com"}}; err != nil || !slices.Equal(people, want) {
		t.Errorf("it has %q: %v", people, err)
	}
}

func TestPeopleFromFolder(t *testing.T) {
	t.Parallel()
	if _, err := readPeople(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("error is %v", err)
	}
}
