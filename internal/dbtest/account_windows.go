package dbtest

import "os/exec"

func asOrdinaryUser(*exec.Cmd) {}
