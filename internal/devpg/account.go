//go:build unix

package devpg

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"sync"
	"syscall"
)

// An account is what PostgreSQL's programs run as. They refuse to run as root.
type account struct {
	attr     func() *syscall.SysProcAttr
	uid, gid int // the owner that their files must have; -1 for us
}

// serverAccount is our own account, unless we are root: then it is root under another number where
// the kernel can do that, else the user postgres or nobody.
var serverAccount = sync.OnceValues(func() (account, error) {
	if os.Geteuid() != 0 {
		ours := func() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
		return account{attr: ours, uid: -1, gid: -1}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(found.Uid)
		gid, gidErr := strconv.Atoi(found.Gid)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return account{}, fmt.Errorf("read account %s: %w", name, err)
		}
		if ours, ok := renumbered(uid, gid); ok {
			return ours, nil
		}
		other := func() *syscall.SysProcAttr {
			return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		}
		return account{attr: other, uid: uid, gid: gid}, nil
	}
	return account{}, errors.New("run PostgreSQL as root: it refuses to, " +
		"and there is no user postgres or nobody to run it as")
})
