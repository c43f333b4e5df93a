//go:build unix

package devpg

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// An ephemeral server has a folder of its own, which its process keeps locked. So that nobody sees
// one without a lock, it is made under a hidden name.
const (
	folderPrefix = "backfill-pg-"
	hiddenPrefix = ".backfill-pg-"
	lockName     = "lock"
)

// sweeper is a shell program that removes a folder when its standard input ends, which happens
// however our process ends. A server that is just stopping may still write into the folder.
const sweeper = `
PATH=$PATH:/usr/bin:/bin
read -r _
for _ in 1 2 3 4 5 6 7 8 9 10; do
	rm -rf "$0" && exit
	sleep 0.3
done
`

// A folder is the place of an ephemeral server.
type folder struct {
	dir     string
	lock    *fileLock
	sweeper *exec.Cmd
	input   io.Closer // the sweeper's: must not be garbage collected while the server runs
}

// folderBases are the places where such folders are made, the best one first.
func folderBases() []string {
	bases := []string{os.TempDir()}
	if dir, ok := memoryDir(); ok {
		bases = append([]string{dir}, bases...)
	}
	return bases
}

// newFolder makes a locked folder in the first place that can be written to.
func newFolder() (*folder, error) {
	var failed error
	for _, base := range folderBases() {
		f, err := newFolderIn(base)
		if err == nil {
			return f, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, fmt.Errorf("make a folder for PostgreSQL: %w", failed)
}

func newFolderIn(base string) (_ *folder, err error) {
	hidden, err := os.MkdirTemp(base, hiddenPrefix+"*")
	if err != nil {
		return nil, err
	}
	f := &folder{dir: filepath.Join(base, strings.TrimPrefix(filepath.Base(hidden), "."))}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(hidden), os.RemoveAll(f.dir))
			f.lock.release()
		}
	}()
	if f.lock, err = tryLock(filepath.Join(hidden, lockName)); err != nil {
		return nil, err
	}
	if f.lock == nil {
		return nil, errors.New("the lock of a new folder is taken")
	}
	if err := os.Rename(hidden, f.dir); err != nil {
		return nil, err
	}
	f.sweeper = exec.Command("/bin/sh", "-c", sweeper, f.dir)
	f.sweeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // away from Ctrl-C
	if f.input, err = f.sweeper.StdinPipe(); err == nil {
		err = f.sweeper.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start the sweeper: %w", err)
	}
	return f, nil
}

// remove removes the folder, whose server has stopped.
func (f *folder) remove() error {
	f.input.Close()
	_ = f.sweeper.Wait() // What it leaves, if it was killed for example, we remove.
	err := os.RemoveAll(f.dir)
	f.lock.release()
	return err
}

// halfMadeAge is how old a folder must be that has no lock yet.
const halfMadeAge = time.Hour

// reap removes what dead processes left, and stops the servers in it. The kernel's lock says who is
// dead: a process number could be another process's by now. What fails here is not ours to remove,
// or is left to the next one.
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
				_ = os.RemoveAll(dir)
			}
		}
	}
}

func reapFolder(dir string, seen os.FileInfo) {
	lock, err := tryLock(filepath.Join(dir, lockName))
	if err != nil || lock == nil {
		return
	}
	defer lock.release()
	// Another process may have removed it since, and a new folder may have its name.
	if now, err := os.Lstat(dir); err != nil || !os.SameFile(seen, now) {
		return
	}
	stopLeftover(filepath.Join(dir, dataName))
	_ = os.RemoveAll(dir)
}

// ownedByUs reports whether a folder is ours, or that of the account which PostgreSQL runs as.
// Anybody can make a folder with such a name in a temporary folder.
func ownedByUs(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	if int(stat.Uid) == os.Geteuid() {
		return true
	}
	who, err := serverAccount()
	return err == nil && who.uid != -1 && int(stat.Uid) == who.uid
}
