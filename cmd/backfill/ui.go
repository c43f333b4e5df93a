package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill/admin"
)

const (
	flagListen    = "listen"
	flagAllowHost = "allow-host"
	flagTokenFile = "token-file"
	flagUsers     = "users"
	flagOrigin    = "trust-origin"
)

// uiAddress is where ui listens by default: who is on this machine can reach it, and nobody else.
const uiAddress = "127.0.0.1:5678"

const uiDescription = `It serves the HTTP API, which docs/http-api.md describes: openapi.json says for programs what there is.

Without --users and --token-file everybody on this machine can read, payloads excepted, and change nothing; it listens on
a loopback address only, and answers no request that a proxy has passed on. With one of them it can listen anywhere, and
who asks needs a password: put TLS in front of it, and name the proxy's host by --allow-host.

The file of --users has a line for each, "NAME ROLE SECRET", with "EXPIRES" behind if it does, as in
2027-01-31T00:00:00Z. The roles, with commas between them, are reader, operator and admin. The secret is a bearer token and
the password of basic authentication: take what "openssl rand -hex 32" writes, or sha256: and its SHA-256. The file of
--token-file has a token alone, whose role is admin. Others may read neither.

Exit codes: 0, it was told to end; 1, it failed; 2, the usage is wrong.`

func uiCommand() *cli.Command {
	return &cli.Command{
		Name: "ui", Usage: "serve the HTTP API", ArgsUsage: " ", Description: uiDescription,
		Flags: append(databaseFlags(),
			&cli.StringFlag{Name: flagListen, Usage: "listen on `ADDRESS:PORT`", Value: uiAddress},
			&cli.StringSliceFlag{Name: flagAllowHost, Usage: "it is reached by the host `NAME`, beside localhost and addresses"},
			&cli.StringSliceFlag{Name: flagOrigin, Usage: "pages of this `ORIGIN`, as in https://intern.example.com, may send changes, and show it in a frame"},
			&cli.StringFlag{Name: flagUsers, Usage: "let in those of the `FILE`"},
			&cli.StringFlag{Name: flagTokenFile, Usage: "let in who has the token of the `FILE`"},
		),
		DisableSliceFlagSeparator: true, HideHelpCommand: true, OnUsageError: onUsageError, Action: serveUI,
	}
}

func serveUI(ctx context.Context, cmd *cli.Command) error {
	if cmd.Args().Present() {
		return usageError{errors.New("ui takes flags only")}
	}
	options, authenticated, err := uiOptions(cmd)
	if err != nil {
		return usageError{err}
	}
	t, err := targetOf(cmd)
	if err != nil {
		return err
	}
	if authenticated && t.context != "" && !cmd.IsSet(flagContext) {
		return usageError{fmt.Errorf("those who are let in can change something, so the default context is not taken: pass --context %s if that is meant", t.context)}
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	server, err := admin.Listen(ctx, operator, cmd.String(flagListen), options...)
	if _, network := errors.AsType[*net.OpError](err); network {
		return err
	}
	if err != nil {
		return usageError{err}
	}
	if err := echo(cmd, "all", ""); err != nil {
		server.Close()
		return err
	}
	what := "for who has a password of the file"
	if server.Anonymous() {
		what = "for everybody on this machine, to read all but payloads"
	} else if end, err := netip.ParseAddrPort(server.Addr().String()); err == nil && !end.Addr().IsLoopback() {
		fmt.Fprintln(cmd.Root().ErrWriter, "passwords and payloads are not encrypted on the way: put a proxy with TLS in front of it")
	}
	fmt.Fprintf(cmd.Root().Writer, "http://%s/ is there %s\n", server.Addr(), what)
	return server.Serve(ctx)
}

// uiOptions reads the flags, and the files that they name.
func uiOptions(cmd *cli.Command) (options []admin.HandlerOption, authenticated bool, err error) {
	options = []admin.HandlerOption{admin.WithHosts(cmd.StringSlice(flagAllowHost)...), admin.WithTrustedOrigins(cmd.StringSlice(flagOrigin)...)}
	var credentials []admin.Credential
	for _, flag := range []string{flagUsers, flagTokenFile} {
		if !cmd.IsSet(flag) {
			continue
		}
		text, err := readSecrets(cmd.String(flag))
		if err != nil {
			return nil, false, fmt.Errorf("--%s: %w", flag, err)
		}
		parse := parseUsers
		if flag == flagTokenFile {
			parse = parseToken
		}
		found, err := parse(text)
		if err != nil {
			return nil, false, fmt.Errorf("--%s: %w", flag, err)
		}
		credentials = append(credentials, found...)
	}
	if credentials == nil {
		return options, false, nil
	}
	return append(options, admin.WithCredentials(credentials...)), true, nil
}

// readSecrets reads a file that others may not read.
func readSecrets(name string) (string, error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", errors.New("there is no such file: write one, and see backfill help ui for what is in it")
	case err != nil:
		return "", err
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o007 != 0:
		return "", errors.New("everybody on this machine may read or write the file: run chmod o= on it")
	}
	text, err := os.ReadFile(name)
	return string(text), err
}

// parseUsers reads the lines of a file of users. What it has of secrets is not repeated.
func parseUsers(text string) (found []admin.Credential, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 3 || len(fields) > 4 {
			return nil, fmt.Errorf("line %d has %d words: want NAME ROLE SECRET, and EXPIRES if it does", n, len(fields))
		}
		c := admin.Credential{Name: fields[0], Roles: strings.Split(fields[1], ","), Secret: fields[2]}
		for _, role := range c.Roles {
			if role != "reader" && role != "operator" && role != "admin" {
				return nil, fmt.Errorf("line %d: a role is none: want reader, operator or admin, with commas between several", n)
			}
		}
		if len(fields) == 4 {
			if c.Expires, err = time.Parse(time.RFC3339, fields[3]); err != nil {
				return nil, fmt.Errorf("line %d: the fourth word is no time: want one such as 2027-01-31T00:00:00Z", n)
			}
		}
		found = append(found, c)
	}
	if len(found) == 0 {
		return nil, errors.New("the file has no user: write a line NAME ROLE SECRET")
	}
	return found, nil
}

func parseToken(text string) ([]admin.Credential, error) {
	fields := strings.Fields(text)
	if len(fields) != 1 {
		return nil, fmt.Errorf("the file has %d words: want a token alone, such as openssl rand -hex 32 writes", len(fields))
	}
	return []admin.Credential{{Name: "token", Roles: []string{"admin"}, Secret: fields[0]}}, nil
}
