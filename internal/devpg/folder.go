package devpg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// An ephemeral server lives in a folder of its own, which is locked as long as
// its starter or its watchdog is alive. So that nobody sees one without a lock,
// it is made under a hidden name.
const (
	folderPrefix = "backfill-pg-"
	hiddenPrefix = ".backfill-pg-"
	lockName     = "lock"
)

// folderBases are the places where such folders are made, the best one first.
func folderBases() []string {
	bases := []string{os.TempDir()}
	if dir, ok := memoryDir(); ok {
		bases = append([]string{dir}, bases...)
	}
	return bases
}

// newFolder makes a locked folder in the first place that can be written to.
func newFolder() (string, *fileLock, error) {
	var failed error
	for _, base := range folderBases() {
		dir, lock, err := newFolderIn(base)
		if err == nil {
			return dir, lock, nil
		}
		failed = errors.Join(failed, err)
	}
	return "", nil, fmt.Errorf("make a folder for PostgreSQL: %w", failed)
}

func newFolderIn(base string) (string, *fileLock, error) {
	hidden, err := os.MkdirTemp(base, hiddenPrefix+"*")
	if err != nil {
		return "", nil, err
	}
	lock, err := tryLock(filepath.Join(hidden, lockName))
	if err == nil && lock == nil {
		err = errors.New("the lock of a new folder is taken")
	}
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(hidden))
	}
	visible := filepath.Join(base, strings.TrimPrefix(filepath.Base(hidden), "."))
	if err := os.Rename(hidden, visible); err != nil {
		return "", nil, errors.Join(err, removeLocked(hidden, lock))
	}
	return visible, lock, nil
}
