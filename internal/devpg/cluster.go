package devpg

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// What is in the folder of a server.
const (
	dataName     = "data"
	logName      = "log"
	passwordName = "password"
)

// A cluster is a folder with a server's data, log and watchdog.
type cluster struct {
	install  install
	account  account
	dir      string
	keep     bool      // survives the server
	lock     *fileLock // of an ephemeral one
	password string
}

func (c *cluster) data() string { return filepath.Join(c.dir, dataName) }
func (c *cluster) log() string  { return filepath.Join(c.dir, logName) }

// initdb makes new data in a folder, with the cluster's password.
func (c *cluster) initdb(ctx context.Context, data string) error {
	pwfile := filepath.Join(c.dir, "pwfile")
	if err := os.WriteFile(pwfile, []byte(c.password), 0o600); err != nil {
		return err
	}
	defer os.Remove(pwfile)
	if err := c.own(c.dir, pwfile); err != nil {
		return err
	}
	args := []string{
		"--pgdata=" + data, "--username=postgres", "--pwfile=" + pwfile,
		"--auth=scram-sha-256", "--encoding=UTF8", "--no-locale",
	}
	if !c.keep {
		args = append(args, "--no-sync")
	}
	cmd := exec.CommandContext(ctx, c.install.program("initdb"), args...)
	cmd.Env = programEnv()
	cmd.Dir = c.dir
	cmd.SysProcAttr = c.account.attr()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run initdb: %w:\n%s", err, lastLines(string(out)))
	}
	return nil
}

// own gives files to the account that PostgreSQL runs as.
func (c *cluster) own(paths ...string) error {
	if c.account.uid == -1 {
		return nil
	}
	for _, path := range paths {
		if err := os.Lchown(path, c.account.uid, c.account.gid); err != nil {
			return err
		}
	}
	return nil
}

// ownAll is own for everything in the data folder.
func (c *cluster) ownAll() error {
	if c.account.uid == -1 {
		return nil
	}
	return filepath.WalkDir(c.data(), func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return c.own(path)
	})
}

// settings are the server's own settings, as name=value.
func (c *cluster) settings(port int) []string {
	settings := []string{
		"listen_addresses=127.0.0.1",
		"port=" + strconv.Itoa(port),
		"unix_socket_directories=",
		"logging_collector=off",
		"log_destination=stderr",
	}
	if c.keep {
		return settings
	}
	return append(settings,
		"fsync=off",
		"synchronous_commit=off",
		"full_page_writes=off",
		"max_wal_size=256MB",
		"max_connections=300",
	)
}

// url is how to connect to the server, on a port.
func (c *cluster) url(port int) string {
	return "postgres://postgres:" + c.password + "@127.0.0.1:" + strconv.Itoa(port) + "/postgres?sslmode=disable"
}

// failure adds the end of the server's log to an error.
func (c *cluster) failure(err error) error {
	content, readErr := os.ReadFile(c.log())
	if readErr != nil || len(content) == 0 {
		return err
	}
	text := string(content)
	if c.password != "" {
		text = strings.ReplaceAll(text, c.password, "<password>")
	}
	return fmt.Errorf("%w; its log ends:\n%s", err, lastLines(text))
}

// lastLines is the end of a text, for error messages.
func lastLines(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if n := len(lines) - 15; n > 0 {
		lines = lines[n:]
	}
	return strings.Join(lines, "\n")
}

// newPassword is unguessable, and needs no quoting in URLs and SQL.
func newPassword() string { return rand.Text() }

// writeFile writes a file that is either whole or not there.
func writeFile(path, content string) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".write-*")
	if err != nil {
		return err
	}
	_, err = temp.WriteString(content)
	err = errors.Join(err, temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}
