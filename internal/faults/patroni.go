//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cluster is three PostgreSQL servers with Patroni, which keep their state in an etcd. Replication
// is synchronous: what was acknowledged is on two of them. Who leads is asked as a balancer asks,
// and the links lead there.
type cluster struct {
	folder string
	etcd   *exec.Cmd
	nodes  []*node
	as     *syscall.Credential // nil: us
	lead   func(url string)
	cancel context.CancelFunc
	ended  chan struct{}
}

// node is one server with its Patroni.
type node struct {
	name     string
	folder   string
	postgres string // address
	rest     string // address
	cmd      *exec.Cmd
}

const (
	nodeCount = 3
	// clusterTimeout is for the start of all, and for one to come back.
	clusterTimeout = 90 * time.Second
)

// The programs, where Debian puts them.
const (
	pythonProgram  = "/usr/bin/python3"
	patroniProgram = "/usr/bin/patroni"
	etcdProgram    = "/usr/bin/etcd"
)

// clusterPossible says what is missing.
func clusterPossible() error {
	for _, program := range []string{pythonProgram, patroniProgram, etcdProgram} {
		if _, err := os.Stat(program); err != nil {
			return fmt.Errorf("find Patroni, which -patroni=0 leaves out: %w", err)
		}
	}
	return nil
}

// startCluster starts all, and waits until one leads and the others follow.
func startCluster(ctx context.Context, folder string, lead func(string)) (*cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	c := &cluster{folder: folder, lead: lead, ended: make(chan struct{})}
	if err := c.start(ctx); err != nil {
		c.killAll()
		return nil, fmt.Errorf("start Patroni: %w", err)
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = stop
	go c.watch(watching)
	return c, nil
}

func (c *cluster) start(ctx context.Context) error {
	if os.Getuid() == 0 { // as whom PostgreSQL refuses to run
		var err error
		if c.as, err = account("postgres"); err != nil {
			return err
		}
	}
	if err := c.makeFolder(c.folder); err != nil {
		return err
	}
	var addresses []string
	for range 2 + 2*nodeCount {
		address, err := freeAddress(ctx)
		if err != nil {
			return err
		}
		addresses = append(addresses, address)
	}
	client, peer := addresses[0], addresses[1]
	var err error
	c.etcd, err = c.spawn("etcd", etcdProgram, "--data-dir", filepath.Join(c.folder, "etcd"), "--log-level", "error",
		"--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer, "--initial-cluster", "default=http://"+peer)
	if err != nil {
		return err
	}
	for i := range nodeCount {
		n := &node{name: "node" + strconv.Itoa(i+1), postgres: addresses[2+2*i], rest: addresses[3+2*i]}
		n.folder = filepath.Join(c.folder, n.name)
		if err := c.configure(n, client); err != nil {
			return err
		}
		if err := c.launch(n); err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
	}
	return c.complete(ctx)
}

func (c *cluster) makeFolder(folder string) error {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	if c.as == nil {
		return nil
	}
	return os.Chown(folder, int(c.as.Uid), int(c.as.Gid))
}

// configure writes a node's configuration. The leader's key lives for 20 s, which is the least that
// Patroni takes.
func (c *cluster) configure(n *node, etcd string) error {
	if err := c.makeFolder(n.folder); err != nil {
		return err
	}
	programs, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // where Debian, which Patroni comes from, puts it
	if err != nil || len(programs) == 0 {
		return errors.New("there is no /usr/lib/postgresql/*/bin/postgres")
	}
	text := fmt.Sprintf(`scope: faults
name: %s
restapi: {listen: "%s", connect_address: "%s"}
etcd3: {host: "%s"}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 5
    retry_timeout: 5
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      parameters: {max_connections: 100, wal_log_hints: "on"}
  initdb: [{encoding: UTF8}, {locale: C}]
postgresql:
  listen: "%s"
  connect_address: "%s"
  data_dir: %s
  bin_dir: %s
  pgpass: %s
  authentication:
    superuser: {username: postgres, password: %s}
    replication: {username: replicator, password: %s}
    rewind: {username: postgres, password: %s}
  parameters: {unix_socket_directories: ""}
  pg_hba:
    - host all all 127.0.0.1/32 scram-sha-256
    - host replication replicator 127.0.0.1/32 scram-sha-256
`, n.name, n.rest, n.rest, etcd, n.postgres, n.postgres, filepath.Join(n.folder, "data"), filepath.Dir(slices.Max(programs)),
		filepath.Join(n.folder, "pgpass"), password, password, password)
	return os.WriteFile(filepath.Join(n.folder, "patroni.yml"), []byte(text), 0o644) //nolint:gosec // its own user reads it, and nothing in it is secret
}

func (c *cluster) launch(n *node) (err error) {
	n.cmd, err = c.spawn(n.name, pythonProgram, patroniProgram, filepath.Join(n.folder, "patroni.yml"))
	return err
}

// spawn starts a program as the cluster's account.
func (c *cluster) spawn(name, program string, args ...string) (*exec.Cmd, error) {
	log, err := os.OpenFile(filepath.Join(filepath.Dir(c.folder), name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir = c.folder
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.as}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return cmd, nil
}

// complete waits until one node leads, and the others follow, one of them synchronously.
func (c *cluster) complete(ctx context.Context) error {
	for {
		leaders, replicas, sync := 0, 0, 0
		for _, n := range c.nodes {
			switch {
			case n.is(ctx, "primary"):
				leaders++
				c.lead(n.url())
			case n.is(ctx, "replica"):
				replicas++
			}
			if n.is(ctx, "sync") {
				sync++
			}
		}
		if leaders == 1 && replicas == nodeCount-1 && sync == 1 {
			return nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return fmt.Errorf("wait for a leader and its followers: %w", err)
		}
	}
}

// is asks Patroni whether a node has a role.
func (n *node) is(ctx context.Context, role string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.rest+"/"+role, http.NoBody)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	return response.StatusCode == http.StatusOK
}

func (n *node) url() string {
	return "postgres://postgres:" + password + "@" + n.postgres + "/postgres?sslmode=disable"
}

// watch leads the links to the leader, as a balancer does that asks twice a second.
func (c *cluster) watch(ctx context.Context) {
	defer close(c.ended)
	for {
		for _, n := range c.nodes {
			if n.is(ctx, "primary") {
				c.lead(n.url())
			}
		}
		if pause(ctx, 500*time.Millisecond) != nil {
			return
		}
	}
}

// killLeader kills Patroni and PostgreSQL, all processes at once.
func (c *cluster) killLeader() (*node, error) {
	for _, n := range c.nodes {
		if n.is(context.Background(), "primary") {
			return n, c.kill(n)
		}
	}
	return nil, errors.New("kill the leader: nobody leads")
}

func (c *cluster) kill(n *node) error {
	n.cmd.Process.Kill()
	_ = n.cmd.Wait() // killed
	pid, err := postmaster(filepath.Join(n.folder, "data"))
	if err != nil {
		return err
	}
	for _, pid := range append(childrenOf(pid), pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	return nil
}

// childrenOf are the processes whose parent a process is.
func childrenOf(parent int) (children []int) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, after, _ := strings.Cut(string(content), ") ")
		if fields := strings.Fields(after); len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				children = append(children, pid)
			}
		}
	}
	return children
}

// rejoin starts a node that was killed, and waits until all three are there.
func (c *cluster) rejoin(ctx context.Context, n *node) error {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	if err := c.launch(n); err != nil {
		return fmt.Errorf("start %s again: %w", n.name, err)
	}
	return c.complete(ctx)
}

func (c *cluster) stop() {
	c.cancel()
	<-c.ended
	c.killAll()
}

func (c *cluster) killAll() {
	for _, n := range c.nodes {
		_ = c.kill(n) // PostgreSQL may not run
	}
	if c.etcd != nil {
		c.etcd.Process.Kill()
		_ = c.etcd.Wait() // killed
	}
}
