package infra_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/needs"
)

// onDisk says to this program that it has mounts of its own.
const onDisk = "BACKFILL_TEST_ON_DISK"

// The server's disk, with its data and its WAL, becomes full while work goes on. Enqueues fail with
// the reason or are acknowledged, and nothing that was acknowledged is lost, also when the server
// can no longer write its WAL, panics, and stays down. The worker lives on, and works soon after
// there is space again.
//
// The disk is a file system of a limited size, in a mount namespace of a process of its own: it is
// gone with that process however it ends, and where the system lets them, users that are not root
// can make one too.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	long(t)
	if os.Getenv(onDisk) != "" {
		fillDisk(t)
		return
	}
	try := exec.CommandContext(t.Context(), "sleep", "0")
	try.SysProcAttr = ownMounts()
	needs.That(t, try.Run() == nil, "permission to mount a file system: be root, or allow user namespaces")
	self := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFullDisk$", "-test.v", "-test.timeout=3m") //nolint:gosec // this program
	self.Env = append(os.Environ(), onDisk+"=1")
	self.SysProcAttr = ownMounts()
	output, err := self.CombinedOutput()
	t.Logf("%s", output)
	if err != nil {
		t.Error(err)
	}
}

// ownMounts gives a process mounts of its own, and the right to make some.
func ownMounts() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		attr.Cloneflags = syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// mountDisk makes a disk of a limited size.
func mountDisk(t *testing.T) string {
	t.Helper()
	folder := filepath.Dir(serverFolder(t))
	if err := syscall.Mount("none", folder, "tmpfs", 0, "size=176m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(folder, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return folder
}

// fill writes a file until there is no space left on its disk.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 1 << 20; size > 0; {
		if _, err = file.Write(make([]byte, size)); err != nil {
			size /= 4
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
}

// panics makes the server need space for its WAL until it is down.
func panics(t *testing.T, databaseURL string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	within(t, hang, "the server to be down", func() bool {
		conn, err := net.Dial("tcp", u.Host)
		if err != nil {
			return true
		}
		_ = conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		admin, err := pgx.Connect(ctx, databaseURL)
		if err != nil {
			return false
		}
		defer admin.Close(ctx)
		for err == nil {
			_, err = admin.Exec(ctx, "select pg_switch_wal(); select txid_current()")
		}
		return false
	})
}

func fillDisk(t *testing.T) {
	t.Helper()
	disk := mountDisk(t)
	address, restart := ownServer(t, filepath.Join(disk, "pg"))
	admin := dbtest.Connect(t, address)
	for _, setting := range []string{"min_wal_size = '32MB'", "max_wal_size = '32MB'"} {
		dbtest.Run(t, admin, "alter system set "+setting)
	}
	dbtest.Run(t, admin, "select pg_reload_conf()")
	balancer, through := dbtest.NewBalancer(t, address)
	var log logbook
	defer log.show(t)
	client := open(t, through, &log)
	j := newJournal()
	task, registry := j.work()
	w := start(t, client, registry, backfill.WithConcurrency(4))
	stop := j.produce(t, 3, 5*time.Millisecond, func(ctx context.Context) error { return j.enqueue(ctx, client, task, "", backfill.Queue("q")) })
	stopLarge := j.produce(t, 1, 20*time.Millisecond, func(ctx context.Context) error {
		return j.enqueue(ctx, client, task, strings.Repeat(rand.Text(), 2000))
	})
	within(t, hang, "work", func() bool { _, ran, _ := j.counts(); return ran > 50 })

	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	within(t, hang, "enqueues that say why they fail", func() bool {
		fill(t, ballast) // what the server has given back
		for _, err := range j.refusals() {
			if errors.Is(err, backfill.ErrRejected) && strings.Contains(err.Error(), "No space left on device") {
				return true
			}
		}
		return false
	})
	w.lives()
	panics(t, address)
	time.Sleep(time.Second)
	w.lives()
	address = restart(func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	})
	balancer.Lead(t, address)
	_, before, _ := j.counts()
	took := within(t, 10*time.Second, "work", func() bool { _, ran, _ := j.counts(); return ran > before+20 })
	stop()
	stopLarge()
	within(t, hang, "all jobs", func() bool { return len(j.lost()) == 0 })
	w.lives()
	within(t, 15*time.Second, "the line that it is over", func() bool { return len(log.with("claims succeed again")) > 0 })
	acked, ran, refused := j.counts()
	lines := log.from(slog.LevelWarn)
	t.Logf("%d jobs acknowledged, %d have run, %d enqueues failed; 20 jobs had run %v after the restart; %d lines", acked, ran, refused, took, len(lines))
	if len(lines) > 40 {
		t.Errorf("%d lines", len(lines))
	}
}
