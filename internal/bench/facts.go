package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// facts are what the numbers depend on.
type facts struct {
	Time       time.Time         `json:"time"`
	Commit     string            `json:"commit"`
	Go         string            `json:"go"`
	System     string            `json:"system"`
	CPU        string            `json:"cpu"`
	Cores      int               `json:"cores"`
	MemoryMB   float64           `json:"memory_mb"`
	PostgreSQL string            `json:"postgresql"`
	Settings   map[string]string `json:"settings"`
	DataDisk   string            `json:"data_disk,omitempty"` // file system of the private server's data
	SyncMS     float64           `json:"sync_ms,omitempty"`   // median of writing 8 kB there durably
	LoadBefore string            `json:"load_before"`
	LoadAfter  string            `json:"load_after"`
	Runs       int               `json:"runs"`
}

// facts asks the machine and the server. What cannot be known is left out: nothing is measured with it.
func (l *lab) facts(ctx context.Context) facts {
	f := facts{
		Time: time.Now().UTC().Truncate(time.Second), Commit: commit(ctx), Go: runtime.Version(),
		System: runtime.GOOS + "/" + runtime.GOARCH, CPU: processor(), Cores: runtime.NumCPU(), MemoryMB: machineMemory(),
		Settings: map[string]string{}, LoadBefore: loadAverage(), Runs: l.opts.runs,
	}
	for _, name := range []string{
		"server_version", "shared_buffers", "max_wal_size", "max_connections", "fsync", "synchronous_commit", "full_page_writes",
		"wal_sync_method", "wal_level", "commit_delay", "checkpoint_timeout", "autovacuum", "synchronous_standby_names",
	} {
		var value string
		if err := l.admin.QueryRow(ctx, "select current_setting($1)", name).Scan(&value); err == nil {
			f.Settings[name] = value
		}
	}
	f.PostgreSQL = f.Settings["server_version"]
	delete(f.Settings, "server_version")
	if l.folder != "" {
		f.DataDisk = fileSystem(l.folder)
		f.SyncMS = syncTime(l.folder)
	}
	return f
}

// commit is what was built, with a mark if the working tree differs from it.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// syncTime is the median time in milliseconds of a durable write in a folder; 0 if it cannot be had.
func syncTime(folder string) float64 {
	path := filepath.Join(folder, "sync")
	file, err := os.Create(path)
	if err != nil {
		return 0
	}
	defer os.Remove(path)
	defer file.Close()
	var took []float64
	block := make([]byte, 8192)
	for range 200 {
		started := time.Now()
		if _, err := file.WriteAt(block, 0); err != nil {
			return 0
		}
		if err := file.Sync(); err != nil {
			return 0
		}
		took = append(took, float64(time.Since(started))/float64(time.Millisecond))
	}
	return median(took)
}

func (f facts) markdown() string {
	names := make([]string, 0, len(f.Settings))
	for name, value := range f.Settings {
		if value != "" {
			names = append(names, name+" "+value)
		}
	}
	slices.Sort(names)
	disk := "a server that was there"
	if f.DataDisk != "" {
		disk = fmt.Sprintf("data on %s, durable write of 8 kB %.2f ms", f.DataDisk, f.SyncMS)
	}
	return fmt.Sprintf("%s, commit %s, %s, %s, %s, %d cores, %s MB.\nPostgreSQL %s: %s; %s.\nMedians of %d runs. Load of the machine %s before, %s after.\n",
		f.Time.Format(time.RFC3339), f.Commit, f.Go, f.System, f.CPU, f.Cores, thousands(f.MemoryMB),
		f.PostgreSQL, strings.Join(names, ", "), disk, f.Runs, f.LoadBefore, f.LoadAfter)
}
