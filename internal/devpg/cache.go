package devpg

import (
	"fmt"
	"os"
	"path/filepath"
)

// cacheDir returns the folder of downloads and templates, and makes it. When
// PostgreSQL runs as an account that is not ours, it could not enter our home.
func cacheDir() (string, error) {
	who, err := serverAccount()
	if err != nil {
		return "", err
	}
	base := "/var/cache"
	if who.uid == -1 {
		if base, err = os.UserCacheDir(); err != nil {
			return "", fmt.Errorf("find the cache folder: %w", err)
		}
	}
	dir := filepath.Join(base, "backfill", "devpg")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache folder: %w", err)
	}
	return dir, nil
}
