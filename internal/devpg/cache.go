//go:build unix

package devpg

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// CacheDir makes and returns the folder backfill/name in the user's cache folder, which
// XDG_CACHE_HOME or HOME names.
//
// PostgreSQL refuses to run as root. If we are root, and the account that it runs as cannot enter
// that folder, for example because the home folder has mode 700, CacheDir returns a folder below
// /var/cache/backfill instead. Its path has a hash of the first one, so each home has its own.
func CacheDir(name string) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	dir := filepath.Join(base, "backfill", name)
	err = os.MkdirAll(dir, 0o755)
	if os.Geteuid() == 0 && (err != nil || !canEnter(dir)) {
		sum := sha256.Sum256([]byte(dir))
		dir = filepath.Join("/var/cache/backfill", hex.EncodeToString(sum[:8]), name)
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return "", fmt.Errorf("make the cache folder: %w", err)
	}
	return dir, nil
}

// canEnter reports whether PostgreSQL's account can enter a folder.
func canEnter(dir string) bool {
	who, err := serverAccount()
	if err != nil {
		return false
	}
	cmd := exec.Command("/bin/sh", "-c", `cd "$0"`, dir)
	cmd.SysProcAttr = who.attr()
	return cmd.Run() == nil
}
