package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// What a folder with a lasting database has besides the files of its server.
const (
	usersName = "users" // locked by everybody who uses the server
	urlName   = "url"   // of the server that runs
)

// startShared joins the server that runs in the folder, or starts it. One at a
// time: the folder's lock is held while a server is joined, started or stopped.
func startShared(ctx context.Context, cfg config) (url string, stop func() error, err error) {
	dir, err := filepath.Abs(cfg.dataDir)
	if err != nil {
		return "", nil, fmt.Errorf("find the data folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("make the data folder: %w", err)
	}
	setup, err := waitLock(ctx, filepath.Join(dir, lockName))
	if err != nil {
		return "", nil, fmt.Errorf("use %s, which another process is starting or stopping a server in: %w", dir, err)
	}
	defer setup.release()
	users, err := tryShare(filepath.Join(dir, usersName))
	if err == nil && users == nil {
		err = fmt.Errorf("use %s: another process uses it", dir)
	}
	if err != nil {
		return "", nil, err
	}
	url, p, err := joinOrStart(ctx, dir, cfg.major)
	if err != nil {
		users.release()
		return "", nil, err
	}
	return url, func() error { return leaveShared(dir, users, p) }, nil
}

func joinOrStart(ctx context.Context, dir string, major int) (string, *process, error) {
	made, err := dataMajor(filepath.Join(dir, dataName))
	if err != nil {
		return "", nil, err
	}
	if made != 0 && major != 0 && made != major {
		return "", nil, fmt.Errorf("use %s: its data is of PostgreSQL %d, and %d was asked for", dir, made, major)
	}
	p, err := join(ctx, dir)
	if err != nil {
		return "", nil, fmt.Errorf("join the server in %s: %w", dir, err)
	}
	urlFile := filepath.Join(dir, urlName)
	if p != nil {
		if url, err := os.ReadFile(urlFile); err == nil {
			return string(url), p, nil
		}
		// Its starter died before it was ready; without us it stops.
		p.leave()
		if err := p.wait(); err != nil {
			return "", nil, err
		}
	}
	if err := os.RemoveAll(urlFile); err != nil {
		return "", nil, err
	}
	found, err := newSearch(max(made, major)).find(ctx)
	if err != nil {
		if made != 0 {
			err = fmt.Errorf("use %s, whose data is of PostgreSQL %d: %w", dir, made, err)
		}
		return "", nil, err
	}
	url, p, err := startLasting(ctx, found, dir, made == 0)
	if err != nil {
		return "", nil, fmt.Errorf("start PostgreSQL %s in %s: %w", found.version, dir, err)
	}
	if err := writeFile(urlFile, url); err != nil {
		p.leave()
		return "", nil, errors.Join(err, p.wait())
	}
	return url, p, nil
}

// startLasting starts the server of a folder, whose data it makes if it is new.
func startLasting(ctx context.Context, found install, dir string, fresh bool) (string, *process, error) {
	who, err := serverAccount()
	if err != nil {
		return "", nil, err
	}
	c := &cluster{install: found, account: who, dir: dir, keep: true}
	if err := c.readPassword(fresh); err != nil {
		return "", nil, err
	}
	if fresh {
		// What a killed initdb leaves must not look like data.
		half := filepath.Join(dir, "data.new")
		if err := os.RemoveAll(half); err != nil {
			return "", nil, err
		}
		if err := c.initdb(ctx, half); err != nil {
			return "", nil, err
		}
		if err := os.Rename(half, c.data()); err != nil {
			return "", nil, err
		}
	}
	stopLeftover(c.data())
	for range portAttempts {
		if err := os.RemoveAll(c.log()); err != nil {
			return "", nil, err
		}
		url, p, err := c.start(ctx)
		if err == nil {
			return url, p, nil
		}
		if !errors.Is(err, errPortTaken) {
			return "", nil, err
		}
	}
	return "", nil, errPortTaken
}

// readPassword reads the password of a folder, or chooses it for a fresh one.
func (c *cluster) readPassword(fresh bool) error {
	path := filepath.Join(c.dir, passwordName)
	if fresh {
		c.password = newPassword()
		return writeFile(path, c.password)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the password: %w", err)
	}
	c.password = string(content)
	return nil
}

// leaveShared ends our use of a shared server, and waits for its end when
// nobody else uses it.
func leaveShared(dir string, users *fileLock, p *process) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	setup, err := waitLock(ctx, filepath.Join(dir, lockName))
	if err != nil {
		return fmt.Errorf("leave the server in %s: %w", dir, err)
	}
	defer setup.release()
	users.release()
	last, err := tryLock(filepath.Join(dir, usersName))
	p.leave()
	if err != nil {
		return fmt.Errorf("leave the server in %s: %w", dir, err)
	}
	if last == nil {
		return nil
	}
	defer last.release()
	return p.wait()
}

// dataMajor is the major version of a data folder, 0 if there is none.
func dataMajor(data string) (int, error) {
	content, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the version of the data: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return 0, fmt.Errorf("read the version of the data: %w", err)
	}
	return major, nil
}
