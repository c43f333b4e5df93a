package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/internal/pg"
)

const (
	flagContext = "context"
	flagConfirm = "confirm"
)

// config is the file of contexts.
type config struct {
	// Default is the context of commands that change nothing, where nothing else says which database
	// is meant.
	Default  string             `toml:"default"`
	Contexts map[string]profile `toml:"context"`
}

// profile is a context: a database with what there is to know of it. Secrets are not in the file.
type profile struct {
	URLEnv     string   `toml:"url_env"`     // the environment variable that has its URL
	URLCommand []string `toml:"url_command"` // or the command that writes it
	Schema     string   `toml:"schema"`
	Colour     string   `toml:"colour"`
	Production bool     `toml:"production"` // changes need the name of the context
	Redact     []string `toml:"redact"`     // names, or JSON pointers, of what is hidden in payloads, beside secrets
}

// target is the database that a command is about.
type target struct {
	context string // its name; "": none
	profile

	url string // "": the PG* variables say where it is
}

// colours are the ones that a context may have, as terminals know them.
var colours = map[string]string{"red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36"}

// targetOf returns the database of the flags, the environment, or a context. A command that changes
// something takes no default: whoever runs it names the context, so that no earlier choice decides
// what is changed.
func targetOf(cmd *cli.Command) (*target, error) {
	root := cmd.Root()
	if t, ok := root.Metadata[keptTarget].(*target); ok {
		return t, nil
	}
	t, err := findTarget(cmd)
	if err != nil {
		return nil, usageError{err}
	}
	switch {
	case cmd.IsSet(flagSchema):
		t.Schema = cmd.String(flagSchema)
	case t.Schema == "":
		t.Schema = pg.DefaultSchema
	}
	if err := pg.CheckSchemaName(t.Schema); err != nil {
		return nil, usageError{err}
	}
	if root.Metadata == nil {
		root.Metadata = map[string]any{}
	}
	root.Metadata[keptTarget] = t
	return t, nil
}

// keptTarget is where the target is kept: a context's command is run once.
const keptTarget = "target"

// schemaOf is the schema of the target, or, where there is none, that of the flags.
func schemaOf(cmd *cli.Command) string {
	if t, ok := cmd.Root().Metadata[keptTarget].(*target); ok {
		return t.Schema
	}
	return cmd.String(flagSchema)
}

func findTarget(cmd *cli.Command) (*target, error) {
	flag, name := cmd.String(flagDatabase), cmd.String(flagContext)
	switch {
	case flag != "" && name != "":
		return nil, errors.New("--database-url and --context: choose one")
	case cmd.IsSet(flagContext) && name == "":
		return nil, errors.New("--context has no name")
	case flag != "":
		return &target{url: flag}, nil
	case name != "":
		return openContext(cmd, name)
	}
	if url := os.Getenv("DATABASE_URL"); url != "" {
		return &target{url: url}, nil
	}
	if pg.EnvironmentConfigured() {
		return &target{}, nil
	}
	c, path, err := readConfig()
	switch {
	case err != nil:
		return nil, err
	case c.Default != "" && changes(cmd):
		return nil, fmt.Errorf("%s changes something, so the default context is not taken: pass --context %s if that is meant", cmd.Name, c.Default)
	case c.Default != "":
		return openContext(cmd, c.Default)
	case len(c.Contexts) > 0:
		return nil, fmt.Errorf("no database is named: pass --context with one of %s, which %s has", strings.Join(names(c), ", "), path)
	}
	return nil, errors.New("no database is configured: pass --database-url postgres://user:password@host:5432/database, " +
		"or set DATABASE_URL, or PGHOST and so on, or pass --context")
}

// changes reports whether a command, as it was called, changes something.
func changes(cmd *cli.Command) bool {
	has := func(name string) bool {
		return slices.ContainsFunc(cmd.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
	}
	return has(flagConfirm) && !cmd.Bool(flagDryRun) && !cmd.Bool(flagVerify) && !cmd.Bool(flagPrint) && !cmd.Bool(flagPauses) &&
		(!has(flagFix) || cmd.Bool(flagFix))
}

func names(c *config) []string { return slices.Sorted(maps.Keys(c.Contexts)) }

// openContext returns the database of a context.
func openContext(cmd *cli.Command, name string) (*target, error) {
	c, path, err := readConfig()
	if err != nil {
		return nil, err
	}
	p, there := c.Contexts[name]
	switch {
	case !there && len(c.Contexts) == 0:
		return nil, fmt.Errorf("there is no context: write [context.NAME] with url_env into %s", path)
	case !there:
		return nil, fmt.Errorf("there is no such context: %s has %s", path, strings.Join(names(c), ", "))
	}
	t := &target{context: name, profile: p}
	if p.URLEnv != "" {
		if t.url = os.Getenv(p.URLEnv); t.url == "" {
			return nil, fmt.Errorf("the context %s takes its URL from %s, which is not set", name, p.URLEnv)
		}
		return t, nil
	}
	if t.url, err = runURLCommand(cmd, p.URLCommand); err != nil {
		return nil, fmt.Errorf("the url_command of the context %s: %w", name, err)
	}
	return t, nil
}

// urlPatience is how long a command may take to write a URL: it may ask for a finger or a password.
const urlPatience = time.Minute

// runURLCommand returns the first line that a command writes. What it writes is not repeated.
func runURLCommand(cmd *cli.Command, command []string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), urlPatience)
	defer cancel()
	var out bytes.Buffer
	run := exec.CommandContext(ctx, command[0], command[1:]...) //nolint:gosec // the user's own configuration
	run.Stdin, run.Stdout, run.Stderr = cmd.Root().Reader, &out, cmd.Root().ErrWriter
	if err := run.Run(); err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(out.String(), "\n")
	if line = strings.TrimSpace(line); line == "" {
		return "", errors.New("it has written nothing")
	}
	return line, nil
}

// configPath is where the contexts are.
func configPath() (string, error) {
	folder := os.Getenv("XDG_CONFIG_HOME")
	if folder == "" {
		home, err := os.UserConfigDir()
		if err != nil {
			return "", err
		}
		folder = home
	}
	return filepath.Join(folder, "backfill", "config.toml"), nil
}

// readConfig reads the file of contexts, which need not be there.
func readConfig() (c *config, path string, err error) {
	c = &config{}
	if path, err = configPath(); err != nil {
		return c, "", nil //nolint:nilerr // nobody has a home, so nobody has contexts
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, path, nil
	}
	if err != nil {
		return nil, path, err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o022 != 0 { // it names commands to run
		return nil, path, fmt.Errorf("others may write %s: run chmod go-w on it", path)
	}
	keys, err := toml.DecodeFile(path, c)
	if err != nil {
		return nil, path, fmt.Errorf("read %s: %w", path, err)
	}
	for _, key := range keys.Undecoded() {
		return nil, path, fmt.Errorf("%s: %s is not known: a context has url_env or url_command, schema, colour, production and redact", path, key)
	}
	return c, path, c.check(path)
}

func (c *config) check(path string) error {
	for _, name := range names(c) {
		p := c.Contexts[name]
		var problem error
		switch {
		case name == "" || strings.Map(printable, name) != name:
			problem = errors.New("its name cannot be typed")
		case (p.URLEnv == "") == (len(p.URLCommand) == 0):
			problem = errors.New("want url_env, the environment variable that has the database's URL, or url_command, the command that writes it")
		case p.Colour != "" && colours[p.Colour] == "":
			problem = fmt.Errorf("the colour %q is none: want one of %s", p.Colour, strings.Join(slices.Sorted(maps.Keys(colours)), ", "))
		case slices.Contains(p.Redact, ""):
			problem = errors.New("a name of redact is empty")
		}
		if problem != nil {
			return fmt.Errorf("%s: context %q: %w", path, name, problem)
		}
	}
	if _, there := c.Contexts[c.Default]; c.Default != "" && !there {
		return fmt.Errorf("%s: the default context %q is not there", path, c.Default)
	}
	return nil
}

// hides is what a context hides in payloads: a name, wherever it is, or what a JSON pointer leads to.
func (t *target) hides(path string) bool {
	name := path[strings.LastIndexByte(path, '/')+1:]
	return slices.ContainsFunc(t.Redact, func(what string) bool {
		return strings.EqualFold(what, name) || strings.HasPrefix(what, "/") && what == path
	})
}

// paint colours a text that a terminal shows.
func paint(w any, colour, text string) string {
	if colours[colour] == "" || os.Getenv("NO_COLOR") != "" || !isTerminal(w) {
		return text
	}
	return "\x1b[" + colours[colour] + "m" + text + "\x1b[0m"
}
