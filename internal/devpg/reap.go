package devpg

import (
	"os"
	"path/filepath"
	"strings"
	"time"
)

// halfMadeAge is how old a folder must be that has no lock yet.
const halfMadeAge = time.Hour

// reap removes what dead owners left: it happens only when the watchdog was
// killed too. The kernel's lock says who is dead. Unlike a process number, it
// cannot be reused, and it holds between containers that share a folder.
//
// What fails here was not ours to remove, or is left to the next one.
func reap(bases []string) {
	for _, base := range bases {
		entries, err := os.ReadDir(base)
		if err != nil {
			continue
		}
		for _, entry := range entries {
			dir := filepath.Join(base, entry.Name())
			info, err := entry.Info()
			if err != nil || !info.IsDir() || !ownedByUs(info) {
				continue
			}
			switch {
			case strings.HasPrefix(entry.Name(), folderPrefix):
				reapFolder(dir, info)
			case strings.HasPrefix(entry.Name(), hiddenPrefix) && time.Since(info.ModTime()) > halfMadeAge:
				_ = os.RemoveAll(dir) // Somebody else's turn next time.
			}
		}
	}
}

// reapFolder removes one folder, and stops a server that still runs in it,
// unless its owner or its watchdog lives.
func reapFolder(dir string, seen os.FileInfo) {
	lock, err := tryLock(filepath.Join(dir, lockName))
	if err != nil || lock == nil {
		return
	}
	// Another one may have removed it since, and its name may be taken again.
	if now, err := os.Lstat(dir); err != nil || !os.SameFile(seen, now) {
		lock.release()
		return
	}
	stopLeftover(filepath.Join(dir, dataName))
	_ = removeLocked(dir, lock) // Somebody else's turn next time.
}
