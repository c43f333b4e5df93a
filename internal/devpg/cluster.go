//go:build unix

package devpg

import (
	"context"
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

// A cluster is a folder with a server's data and log.
type cluster struct {
	install  install
	account  account
	dir      string
	folder   *folder // nil if the data is kept
	password string  // unguessable; it needs no quoting in URLs and SQL
	url      string  // once it answers
}

func (c *cluster) keep() bool   { return c.folder == nil }
func (c *cluster) data() string { return filepath.Join(c.dir, dataName) }
func (c *cluster) log() string  { return filepath.Join(c.dir, logName) }

// command is one of PostgreSQL's programs, as its account runs it.
func (c *cluster) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.install.bin, program), args...)
	cmd.Env = programEnv()
	cmd.Dir = c.dir
	cmd.SysProcAttr = c.account.attr()
	return cmd
}

// initdb makes new data in a folder, with the cluster's password.
func (c *cluster) initdb(ctx context.Context, data string) error {
	pwfile := filepath.Join(c.dir, "pwfile")
	if err := os.WriteFile(pwfile, []byte(c.password), 0o600); err != nil {
		return err
	}
	defer os.Remove(pwfile)
	if err := c.own(); err != nil {
		return err
	}
	cmd := c.command(ctx, "initdb", "--pgdata="+data, "--username=postgres", "--pwfile="+pwfile,
		"--auth=scram-sha-256", "--encoding=UTF8", "--no-locale")
	if !c.keep() {
		cmd.Args = append(cmd.Args, "--no-sync")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run initdb: %w:\n%s", err, lastLines(string(out)))
	}
	return nil
}

// own gives the folder to the account that PostgreSQL runs as.
func (c *cluster) own() error {
	if c.account.uid == -1 {
		return nil
	}
	return filepath.WalkDir(c.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, c.account.uid, c.account.gid)
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
	if c.keep() {
		return settings
	}
	return append(settings,
		"fsync=off",
		"synchronous_commit=off",
		"full_page_writes=off",
		"max_wal_size=256MB",
		"max_connections=300",
		"dynamic_shared_memory_type=mmap", // else a killed server leaves segments in memory
	)
}

// urlAt is how to connect to the server, on a port.
func (c *cluster) urlAt(port int) string {
	return "postgres://postgres:" + c.password + "@127.0.0.1:" + strconv.Itoa(port) + "/postgres?sslmode=disable"
}

// failure adds the end of the server's log to an error.
func (c *cluster) failure(err error) error {
	content, readErr := os.ReadFile(c.log())
	if readErr != nil || len(content) == 0 {
		return err
	}
	text := strings.ReplaceAll(string(content), c.password, "<password>")
	return fmt.Errorf("%w; its log ends:\n%s", err, lastLines(text))
}

// lastLines is the end of a text, for error messages.
func lastLines(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
