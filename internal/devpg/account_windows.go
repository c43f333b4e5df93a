package devpg

import "syscall"

// An account is what PostgreSQL's programs run as.
type account struct {
	attr     func() *syscall.SysProcAttr
	uid, gid int
}

// serverAccount is we ourselves: pg_ctl drops an administrator's rights.
func serverAccount() (account, error) {
	return account{attr: func() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }, uid: -1, gid: -1}, nil
}
