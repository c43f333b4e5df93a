package devpg

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// stopWithParent has the kernel stop a child when the thread that started it ends. A change of the
// account would undo that; Go changes the account first.
func stopWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }

// renumbered is root within a user namespace of one entry, where it has another number: neither a
// second account nor a change of owner is needed. The number must have a name, because initdb asks
// for it. Not every container allows namespaces, so a child tries it.
func renumbered(uid, gid int) (account, bool) {
	attr := func() *syscall.SysProcAttr {
		return &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: os.Getegid(), Size: 1}},
		}
	}
	probe := exec.Command("/bin/sh", "-c", ":")
	probe.SysProcAttr = attr()
	if err := probe.Run(); err != nil {
		return account{}, false
	}
	return account{attr: attr, uid: -1, gid: -1}, true
}

// describe returns who runs a process, and its command line.
func describe(pid int) (uid int, command string, ok bool) {
	dir := fmt.Sprintf("/proc/%d", pid)
	info, err := os.Stat(dir)
	if err != nil {
		return 0, "", false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, "", false
	}
	line, err := os.ReadFile(dir + "/cmdline")
	return int(stat.Uid), string(line), err == nil
}

// shmRoom is how much room in shared memory we ask for: Docker gives 64 MB.
const shmRoom = 512 << 20

// memoryDir is a folder in memory with room for a cluster, if there is one.
func memoryDir() (string, bool) {
	const dir = "/dev/shm"
	var stat syscall.Statfs_t
	err := syscall.Statfs(dir, &stat)
	return dir, err == nil && stat.Bavail*uint64(stat.Bsize) >= shmRoom
}
