package devpg

import "syscall"

// shmRoom is how much room in shared memory we ask for: Docker gives 64 MB.
const shmRoom = 512 << 20

// memoryDir is a folder in memory with room for a cluster, if there is one.
func memoryDir() (string, bool) {
	const dir = "/dev/shm"
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return "", false
	}
	if stat.Bavail*uint64(stat.Bsize) < shmRoom {
		return "", false
	}
	return dir, true
}
