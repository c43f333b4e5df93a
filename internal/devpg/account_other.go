//go:build unix && !linux

package devpg

// renumbered needs user namespaces, which only Linux has.
func renumbered(_, _ int) (account, bool) { return account{}, false }
