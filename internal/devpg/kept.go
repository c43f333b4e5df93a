//go:build unix

package devpg

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// urlName is the file with the URL of the server that runs in a kept folder.
const urlName = "url"

// startKept starts the server of a folder that only this process may use.
func startKept(ctx context.Context, cfg Config) (string, func() error, error) {
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return "", nil, fmt.Errorf("find the data folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("make the data folder: %w", err)
	}
	lock, err := lockKept(ctx, dir)
	if err != nil {
		return "", nil, err
	}
	c, p, err := startLocked(ctx, cfg, dir)
	if err != nil {
		lock.release()
		return "", nil, err
	}
	return c.url, func() error {
		defer lock.release()
		return errors.Join(os.Remove(filepath.Join(dir, urlName)), p.stop(true))
	}, nil
}

// lockKept takes the lock of a folder. It waits for a process that is starting or stopping a server
// there, and returns an [InUseError] if one runs.
func lockKept(ctx context.Context, dir string) (*fileLock, error) {
	var lock *fileLock
	err := poll(ctx, 20*time.Millisecond, func() (_ bool, err error) {
		if lock, err = tryLock(filepath.Join(dir, lockName)); lock != nil || err != nil {
			return true, err
		}
		url, err := os.ReadFile(filepath.Join(dir, urlName))
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		if err == nil {
			err = &InUseError{Dir: dir, URL: string(url)}
		}
		return false, err
	})
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("wait for the process that starts or stops a server in %s: %w", dir, err)
	}
	return lock, err
}

func startLocked(ctx context.Context, cfg Config, dir string) (*cluster, *process, error) {
	c := &cluster{dir: dir}
	urlFile := filepath.Join(dir, urlName)
	if err := os.RemoveAll(urlFile); err != nil { // of a process that was killed
		return nil, nil, err
	}
	made, err := dataMajor(c.data())
	if err != nil {
		return nil, nil, err
	}
	if made != 0 && cfg.Major != 0 && made != cfg.Major {
		return nil, nil, fmt.Errorf("use %s: its data is of PostgreSQL %d, and %d was asked for",
			dir, made, cfg.Major)
	}
	cfg.Major = max(made, cfg.Major)
	if c.install, err = newSearch(cfg).find(ctx); err != nil {
		if made != 0 {
			err = fmt.Errorf("use %s, whose data is of PostgreSQL %d: %w", dir, made, err)
		}
		return nil, nil, err
	}
	if c.account, err = serverAccount(); err != nil {
		return nil, nil, err
	}
	if err = c.prepare(ctx, made == 0); err != nil {
		return nil, nil, fmt.Errorf("prepare %s for PostgreSQL %s: %w", dir, c.install.version, err)
	}
	p, err := c.start(ctx)
	if err == nil {
		if err = writeFile(urlFile, c.url); err != nil {
			err = errors.Join(err, p.stop(true))
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("start PostgreSQL %s in %s: %w", c.install.version, dir, err)
	}
	return c, p, nil
}

// prepare makes the data and the password of a fresh folder, or reads the password of another and
// stops the server that a killed process may have left there.
func (c *cluster) prepare(ctx context.Context, fresh bool) error {
	passwordFile := filepath.Join(c.dir, passwordName)
	if !fresh {
		content, err := os.ReadFile(passwordFile)
		if err != nil {
			return fmt.Errorf("read the password: %w", err)
		}
		c.password = string(content)
		stopLeftover(c.data())
		return nil
	}
	c.password = rand.Text()
	if err := writeFile(passwordFile, c.password); err != nil {
		return err
	}
	// What a killed initdb leaves must not look like data.
	half := filepath.Join(c.dir, "data.new")
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	if err := c.initdb(ctx, half); err != nil {
		return err
	}
	return os.Rename(half, c.data())
}

// dataMajor is the major version of a data folder, 0 if there is none.
func dataMajor(data string) (major int, err error) {
	content, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err == nil {
		major, err = strconv.Atoi(strings.TrimSpace(string(content)))
	}
	if err != nil {
		err = fmt.Errorf("read the version of the data: %w", err)
	}
	return major, err
}
