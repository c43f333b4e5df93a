// Package generate writes the code that stands between a user's task functions and the backfill
// package. It reads a module's //backfill: directives, checks them and the functions that they
// stand above, and emits one file a package.
//
// The packages do not have to compile: handlers call functions that are not generated yet. So
// function bodies are never type-checked, and type errors matter only where a task's signature or
// args are concerned. See docs/design.md.
package generate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

// FileName is the name of the generated file of a package.
const FileName = "backfill_gen.go"

// runtimePath is the package that generated code stands on.
const runtimePath = "github.com/backfillhq/go/backfill"

// Config says what to generate.
type Config struct {
	Dir      string   // where patterns are relative to; absolute
	Patterns []string // packages, as for go build
	Tags     string   // build tags, separated by commas
}

// A File is a generated file, as it should be and as it is.
type File struct {
	Path string // absolute
	Want []byte // nil: there should be none, since the package has no task any more
	Have []byte // nil: there is none
}

// Stale reports whether the file on disk is not what it should be. Git may have given it the line
// endings of Windows.
func (f File) Stale() bool {
	return (f.Want == nil) != (f.Have == nil) || !bytes.Equal(f.Want, bytes.ReplaceAll(f.Have, []byte("\r\n"), []byte("\n")))
}

// Run generates in memory. What is wrong with the source goes into problems; if that holds errors,
// there are no files. The error is for what keeps it from looking at the source at all.
func Run(ctx context.Context, config Config, problems *diag.List) ([]File, error) {
	candidates, err := find(ctx, config, problems)
	if err != nil {
		return nil, err
	}
	packages, err := load(ctx, config, candidates, problems)
	if err != nil {
		return nil, err
	}
	for _, p := range packages { // before the first is checked: they may need each other
		p.collect(problems)
		if err := p.takeNames(ctx, config); err != nil {
			return nil, err
		}
	}
	if len(packages) > 0 {
		packages[0].reportConditional(problems) // of all that were read
	}
	tasks := make([][]*task, len(packages))
	for i, p := range packages {
		tasks[i] = p.tasks(problems)
	}
	checkModule(packages, tasks, problems)
	var files []File
	for i, p := range packages {
		file := File{Path: filepath.Join(p.dir(), FileName)}
		if file.Have, err = os.ReadFile(file.Path); err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("read the generated file: %w", err)
		}
		if file.Have != nil && !generated(file.Have) {
			problems.Errorf(token.Position{Filename: file.Path, Line: 1, Column: 1}, "this file is not backfillgen's, which would overwrite it: rename it")
			continue
		}
		if len(tasks[i]) > 0 && problems.Errors() == 0 {
			if file.Want, err = emit(p, tasks[i]); err != nil {
				return nil, fmt.Errorf("emit %s: %w", file.Path, err)
			}
		}
		files = append(files, file)
	}
	if problems.Errors() > 0 {
		return nil, nil
	}
	return files, nil
}

// Write brings the files up to date, each at once as a whole, and none if one of them cannot be
// written. A file that is right is not touched, so that tools which look at times have nothing to
// do.
func Write(files []File) error {
	var staged []stagedFile
	defer func() {
		for _, s := range staged {
			os.Remove(s.temp) // which is gone after the rename
		}
	}()
	for _, file := range files {
		if !file.Stale() || file.Want == nil {
			continue
		}
		s, err := stage(file.Path, file.Want)
		if err != nil {
			return fmt.Errorf("write %s: %w", file.Path, withoutPath(err))
		}
		staged = append(staged, s)
	}
	for _, s := range staged {
		if err := os.Rename(s.temp, s.target); err != nil {
			return fmt.Errorf("write %s: %w", s.target, withoutPath(err))
		}
	}
	for _, file := range files {
		if file.Stale() && file.Want == nil {
			if err := os.Remove(file.Path); err != nil {
				return fmt.Errorf("remove %s: %w", file.Path, withoutPath(err))
			}
		}
	}
	return nil
}

// stagedFile is a new content beside the file that it will replace.
type stagedFile struct{ temp, target string }

// stage writes a file beside path, or beside what path is a link to.
func stage(path string, content []byte) (s stagedFile, err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".backfill_gen-*")
	if err != nil {
		return s, err
	}
	_, err = temp.Write(content)
	if chmodErr := temp.Chmod(mode); err == nil {
		err = chmodErr
	}
	if closeErr := temp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(temp.Name())
	}
	return stagedFile{temp.Name(), path}, err
}

// withoutPath is the cause of an error of package os, which would name a file that the user has
// never seen.
func withoutPath(err error) error {
	if problem, ok := errors.AsType[*fs.PathError](err); ok {
		return problem.Err
	}
	if problem, ok := errors.AsType[*os.LinkError](err); ok {
		return problem.Err
	}
	return err
}
