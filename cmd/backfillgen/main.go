// Backfillgen writes the typed code for the tasks of Go packages: functions that carry a
// //backfill:task line. It writes one file, backfill_gen.go, into each package.
//
// Usage:
//
//	backfillgen [flags] [packages]
//
// Packages are patterns as for go build. Default: the package in the current folder, so that this
// line is enough:
//
//	//go:generate go tool backfillgen
//
// A task is a func(context.Context, T) error. With a pgx.Tx or a *sql.Tx behind the context it is
// transactional. T, a struct or a slice of one, can be left out. docs/directives.md has the rest.
//
// Packages do not have to compile. Tasks, and what their args consist of, are in files that every
// build reads: not in tests, nor below build constraints, of which x_linux.go has one in its name.
// With GOOS set to another system, run a backfillgen that is built for this one: go tool would
// build it for the other, and fail with "exec format error".
//
// With -format=github, paths begin at GITHUB_WORKSPACE, the root of the repository that is checked
// out.
//
// Exit codes: 0, all is well; 1, something is wrong with the source, or -check found a file that is
// not current; 2, a usage that cannot be understood.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/token"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/aymanbagabas/go-udiff"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/generate"
)

const (
	exitProblems = 1
	exitUsage    = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main with its surroundings as parameters.
func run(ctx context.Context, arguments []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("backfillgen", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, "usage: backfillgen [flags] [packages]\n\nWrites backfill_gen.go for the //backfill:task functions of each package. Default: the package in this folder.\n\n")
		flags.PrintDefaults()
	}
	check := flags.Bool("check", false, "write nothing; print what would change, and exit with 1 if anything would")
	format := flags.String("format", "text", "`how` to print problems: text, or github for annotations in GitHub Actions")
	tags := flags.String("tags", "", "build `tags`, separated by commas")
	dir := flags.String("C", ".", "the `folder` to run in")
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return exitUsage
	}
	if *format != "text" && *format != "github" {
		fmt.Fprintf(stderr, "backfillgen: unknown -format %q: want text or github\n", *format)
		return exitUsage
	}
	absolute, err := filepath.Abs(*dir)
	if err == nil {
		_, err = os.ReadDir(*dir)
	}
	if err != nil {
		fmt.Fprintln(stderr, "backfillgen: -C:", err)
		return exitUsage
	}
	patterns := flags.Args()
	if len(patterns) == 0 {
		patterns = []string{"."}
	}

	var problems diag.List
	files, err := generate.Run(ctx, generate.Config{Dir: absolute, Patterns: patterns, Tags: *tags}, &problems)
	switch {
	case err != nil:
		problems.Add(diag.Diagnostic{Message: err.Error()})
	case *check:
		printChanges(files, absolute, stdout, &problems)
	}
	if *format == "github" {
		problems.WriteGitHub(stdout, absolute, inWorkspace(absolute))
	} else {
		problems.WriteText(stderr, absolute)
	}
	if problems.Errors() > 0 {
		return exitProblems
	}
	if err := generate.Write(files); err != nil {
		fmt.Fprintln(stderr, "backfillgen:", err)
		return exitProblems
	}
	return 0
}

// inWorkspace returns the path of a folder in the repository that GitHub Actions has checked out,
// or nothing elsewhere.
func inWorkspace(dir string) string {
	workspace, err := filepath.EvalSymlinks(os.Getenv("GITHUB_WORKSPACE"))
	if err != nil || workspace == "" {
		return ""
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return ""
	}
	rel, err := filepath.Rel(workspace, dir)
	if err != nil || !filepath.IsLocal(rel) {
		return ""
	}
	return rel
}

// printChanges prints how the files would change, as a diff.
func printChanges(files []generate.File, dir string, stdout io.Writer, problems *diag.List) {
	for _, file := range files {
		if !file.Stale() {
			continue
		}
		problems.Add(diag.Diagnostic{Pos: token.Position{Filename: file.Path}, Message: "is out of date: run go generate ./..."})
		name, err := filepath.Rel(dir, file.Path)
		if err != nil {
			name = file.Path
		}
		name = filepath.ToSlash(name)
		from, to := "a/"+name, "b/"+name
		if file.Have == nil {
			from = "/dev/null"
		}
		if file.Want == nil {
			to = "/dev/null"
		}
		fmt.Fprint(stdout, udiff.Unified(from, to, string(file.Have), string(file.Want)))
	}
}
