package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// What Linux tells about processes and itself. Elsewhere there is no /proc, and these numbers are not reported.

// tick is the unit of CPU time in /proc, the same on all of Linux's platforms.
const tick = 10 * time.Millisecond

// stat returns the fields of /proc/PID/stat from the third on, the state, and the name of the program.
func stat(pid int) (program string, fields []string) {
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", nil
	}
	// The name is in brackets, and may have some itself.
	line := string(content)
	from, to := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if from < 0 || to < from {
		return "", nil
	}
	return line[from+1 : to], strings.Fields(line[to+1:])
}

// field is a field of stat by its number in proc(5); 0 if there is none.
func field(fields []string, number int) int {
	if number-3 >= len(fields) {
		return 0
	}
	n, err := strconv.Atoi(fields[number-3])
	if err != nil {
		return 0
	}
	return n
}

// ownCPU is what this process has used so far; 0 if that cannot be seen.
func ownCPU() time.Duration {
	_, fields := stat(os.Getpid())
	return time.Duration(field(fields, 14)+field(fields, 15)) * tick
}

// parentOfPostgres returns the parent of one of PostgreSQL's processes; 0 if it does not run here.
func parentOfPostgres(pid int) int {
	if program, fields := stat(pid); strings.HasPrefix(program, "postgres") {
		return field(fields, 4)
	}
	return 0
}

// serverUse is what the server has used so far.
type serverUse struct {
	lab *lab
	cpu time.Duration
	wal int64
}

func (l *lab) serverUse(ctx context.Context) (serverUse, error) {
	u := serverUse{lab: l, cpu: l.serverCPU()}
	if err := l.admin.QueryRow(ctx, "select (pg_current_wal_insert_lsn() - '0/0')::bigint").Scan(&u.wal); err != nil {
		return u, fmt.Errorf("ask for the end of the WAL: %w", err)
	}
	return u, nil
}

// add adds to a sample what the server has used since, for each job.
func (u serverUse) add(ctx context.Context, s sample, jobs int) error {
	now, err := u.lab.serverUse(ctx)
	if err != nil {
		return err
	}
	s[wal] = float64(now.wal-u.wal) / float64(jobs)
	if u.cpu > 0 {
		s[serverCPU] = float64((now.cpu - u.cpu).Microseconds()) / float64(jobs)
	}
	return nil
}

// serverCPU is what PostgreSQL's processes have used so far, those that have ended included; 0 if that cannot be seen.
func (l *lab) serverCPU() time.Duration {
	if l.postmaster == 0 {
		return 0
	}
	// What a process has used passes to its parent when that learns of its end: look again if it did meanwhile.
	for {
		before := ended(l.postmaster)
		_, fields := stat(l.postmaster)
		ticks := field(fields, 14) + field(fields, 15) + childrenOf(l.postmaster)
		if after := ended(l.postmaster); after == before {
			return time.Duration(ticks+after) * tick
		}
	}
}

// ended is the CPU time of a process's children that have ended, in ticks.
func ended(pid int) int {
	_, fields := stat(pid)
	return field(fields, 16) + field(fields, 17)
}

// childrenOf is that of those that run.
func childrenOf(pid int) (ticks int) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0
	}
	for _, path := range processes {
		child, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			continue
		}
		if _, fields := stat(child); field(fields, 4) == pid {
			ticks += field(fields, 14) + field(fields, 15)
		}
	}
	return ticks
}

// memoryOf reads a size from /proc/PID/status, such as VmRSS, in MB (10⁶ bytes); 0 if there is none.
func memoryOf(pid int, name string) float64 {
	return kilobytes(filepath.Join("/proc", strconv.Itoa(pid), "status"), name) * 1024 / 1e6
}

func machineMemory() float64 { return kilobytes("/proc/meminfo", "MemTotal") * 1024 / 1e6 }

func kilobytes(path, name string) float64 {
	value, _, _ := strings.Cut(keyed(path, name), " ")
	kb, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return 0
	}
	return kb
}

func processor() string {
	if model := keyed("/proc/cpuinfo", "model name"); model != "" {
		return model
	}
	return "unknown CPU"
}

// keyed returns the first value of a name in a file of lines "name: value".
func keyed(path, name string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(content)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// loadAverage is the load of the last minute: above the benchmark's own it says that others were at work.
func loadAverage() string {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	load, _, _ := strings.Cut(string(content), " ")
	return load
}

// fileSystem is the type of the file system that a path is on.
func fileSystem(path string) string {
	content, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return "unknown"
	}
	best, kind := "", "unknown"
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || len(fields[1]) < len(best) {
			continue
		}
		if mount := fields[1]; mount == "/" || path == mount || strings.HasPrefix(path, mount+"/") {
			best, kind = mount, fields[2]
		}
	}
	return kind
}
