//go:build !linux

package devpg

// memoryDir is a folder in memory with room for a cluster, if there is one.
func memoryDir() (string, bool) { return "", false }
