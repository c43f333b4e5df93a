package main

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// buildRevision builds the benchmark of another revision in a folder. It returns the revision's
// commit and the program's path.
func buildRevision(ctx context.Context, revision, folder string) (commit, program string, err error) {
	root, err := output(ctx, "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return "", "", fmt.Errorf("find the repository: %w", err)
	}
	commit, err = output(ctx, "git", "-C", root, "rev-parse", "--verify", "--quiet", "--end-of-options", revision+"^{commit}")
	if err != nil {
		return "", "", fmt.Errorf("there is no revision %q in %s: name a commit, branch or tag that git knows", revision, root)
	}
	source := filepath.Join(folder, "source")
	if err := checkOut(ctx, root, commit, source); err != nil {
		return "", "", fmt.Errorf("check out %s: %w", revision, err)
	}
	program = filepath.Join(folder, "bench")
	bench := filepath.Join(source, "internal", "bench")
	if _, err := output(ctx, "go", "-C", bench, "build", "-buildvcs=false", "-o", program, "."); err != nil {
		return "", "", fmt.Errorf("build the benchmark of %s: %w", revision, err)
	}
	return commit[:12], program, nil
}

// checkOut writes the files of a commit to a folder. Nothing in the repository changes.
func checkOut(ctx context.Context, root, commit, folder string) error {
	archive := folder + ".zip"
	if _, err := output(ctx, "git", "-C", root, "archive", "--format=zip", "--output="+archive, commit); err != nil {
		return err
	}
	files, err := zip.OpenReader(archive)
	if err != nil {
		return fmt.Errorf("read git's archive: %w", err)
	}
	return errors.Join(os.CopyFS(folder, files), files.Close())
}

// output runs a command and returns what it prints, without the last line's end.
func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(exit.Stderr)))
	}
	return strings.TrimSuffix(string(out), "\n"), err
}
