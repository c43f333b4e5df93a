package devpg

import (
	"os"
	"os/exec"
	"syscall"
)

// renumbered is root within a user namespace of one entry, where it has another
// number: neither a second account nor a change of owner is needed. The number
// must have a name, for initdb asks. Not every container allows it, so it is
// tried out.
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
