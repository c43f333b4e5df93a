//go:build unix

package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// oldestMajor is the oldest PostgreSQL that backfill supports.
const oldestMajor = 12

// An install is a folder of PostgreSQL programs that were seen to run.
type install struct {
	bin     string // the folder, without symbolic links
	version string // for example 17.10
	major   int
}

// A search is one look for PostgreSQL's programs. What it knows of the system is in fields, so that
// tests need no other system.
type search struct {
	getenv func(string) string
	places []string // patterns of folders where packages put PostgreSQL
	// run returns the standard output of a program.
	run func(ctx context.Context, name string, args ...string) (string, error)
	// download fetches PostgreSQL and returns the folder of its programs.
	download func(ctx context.Context, major int) (string, error)
	major    int // 0 for any that is new enough

	tried []string        // and refused, with the reasons
	seen  map[string]bool // programs
}

func newSearch(cfg Config) *search {
	d := &downloader{out: os.Stderr, offline: cfg.Offline}
	return &search{
		getenv: os.Getenv, places: installPlaces, run: runAsServer, download: d.download, major: cfg.Major,
	}
}

// installPlaces lists where packages put PostgreSQL on Linux and macOS.
var installPlaces = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/usr/lib/postgresql*/bin",
	"/usr/libexec/postgresql*",
	"/usr/local/pgsql/bin",
	"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/Library/PostgreSQL/*/bin",
}

// find returns the first good install, in the order of the package comment.
func (s *search) find(ctx context.Context) (install, error) {
	if dir := s.getenv("PG_BIN"); dir != "" {
		found, err := s.check(ctx, dir)
		if err != nil {
			return install{}, fmt.Errorf("find PostgreSQL: PG_BIN=%s: %w", dir, err)
		}
		return found, nil
	}
	s.seen = map[string]bool{}
	for _, source := range []struct {
		name    string
		folders func() []string
	}{
		{"PATH", func() []string { return filepath.SplitList(s.getenv("PATH")) }},
		{"install folder", s.usualFolders},
		{"pg_config --bindir", func() []string {
			out, _ := s.run(ctx, "pg_config", "--bindir") // It may be missing.
			return []string{strings.TrimSpace(out)}
		}},
		{"npm", func() []string {
			dir, err := s.download(ctx, s.major)
			if err != nil {
				s.tried = append(s.tried, "npm: "+err.Error())
			}
			return []string{dir}
		}},
	} {
		for _, dir := range source.folders() {
			if found, ok := s.try(ctx, source.name, dir); ok {
				return found, nil
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return install{}, fmt.Errorf("find PostgreSQL: %w", err)
	}
	return install{}, s.notFound()
}

func (s *search) notFound() error {
	wanted := fmt.Sprintf("PostgreSQL %d or newer", oldestMajor)
	if s.major != 0 {
		wanted = fmt.Sprintf("PostgreSQL %d", s.major)
	}
	return fmt.Errorf(`find PostgreSQL: no %s was found
install it with your system's package manager, or name a server in DATABASE_URL, such as one in a container, or name a folder with postgres and initdb in PG_BIN
tried:
  - %s`, wanted, strings.Join(s.tried, "\n  - "))
}

// usualFolders expands places, newest version first within each pattern.
func (s *search) usualFolders() []string {
	var folders []string
	for _, pattern := range s.places {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			continue // A pattern of ours is never malformed.
		}
		slices.SortStableFunc(matches, func(a, b string) int {
			return folderVersion(b) - folderVersion(a)
		})
		folders = append(folders, matches...)
	}
	return folders
}

var lastNumber = regexp.MustCompile(`([0-9]+)[^0-9]*$`)

// folderVersion is the last number in a path such as /usr/lib/postgresql/17/bin.
func folderVersion(path string) (version int) {
	if match := lastNumber.FindStringSubmatch(path); match != nil {
		version, _ = strconv.Atoi(match[1]) // It only sorts.
	}
	return version
}

// try checks a folder, unless there is no postgres in it or it was checked before, and notes why it
// was refused.
func (s *search) try(ctx context.Context, source, dir string) (install, bool) {
	postgres, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if dir == "" || err != nil || s.seen[postgres] {
		return install{}, false
	}
	s.seen[postgres] = true
	found, err := s.check(ctx, dir)
	if err != nil {
		s.tried = append(s.tried, fmt.Sprintf("%s: %s: %v", source, dir, err))
	}
	return found, err == nil
}

// check looks at one folder. The programs find their libraries relative to themselves, so links are
// resolved first.
func (s *search) check(ctx context.Context, dir string) (install, error) {
	postgres, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return install{}, errors.New("there is no postgres in it")
	}
	if postgres, err = filepath.Abs(postgres); err != nil {
		return install{}, err
	}
	out, err := s.run(ctx, postgres, "--version")
	if err != nil {
		return install{}, fmt.Errorf("run postgres --version: %w", err)
	}
	match := versionLine.FindStringSubmatch(strings.TrimSpace(out))
	if match == nil {
		return install{}, fmt.Errorf("postgres --version says %q", firstLine(out))
	}
	found := install{bin: filepath.Dir(postgres), version: match[1]}
	if found.major, err = strconv.Atoi(match[2]); err != nil {
		return install{}, fmt.Errorf("postgres --version: %w", err)
	}
	switch {
	case found.major < oldestMajor:
		return install{}, fmt.Errorf("PostgreSQL %s is too old, %d or newer is needed", found.version, oldestMajor)
	case s.major != 0 && found.major != s.major:
		return install{}, fmt.Errorf("it is PostgreSQL %s, and %d was asked for", found.version, s.major)
	}
	initdb := filepath.Join(found.bin, "initdb")
	if _, err := s.run(ctx, initdb, "--version"); err != nil {
		return install{}, fmt.Errorf("run initdb --version: %w", err)
	}
	return found, nil
}

// versionLine matches a line such as "postgres (PostgreSQL) 15.18 (Debian …)".
var versionLine = regexp.MustCompile(`^postgres \(PostgreSQL\) (([0-9]+)[.0-9a-z]*)`)

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// runAsServer runs a program as the account that PostgreSQL will run as. If that account cannot
// enter the folder, this shows it.
func runAsServer(ctx context.Context, name string, args ...string) (string, error) {
	who, err := serverAccount()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = programEnv()
	cmd.Dir = os.TempDir()
	cmd.SysProcAttr = who.attr()
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		return "", fmt.Errorf("%w: %s", err, firstLine(string(exit.Stderr)))
	}
	return string(out), err
}
