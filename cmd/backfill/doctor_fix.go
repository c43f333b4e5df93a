package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill/admin"
)

// fix shows what can be put right by itself, and does it once somebody has agreed: at once, or, with
// the token of an earlier preview, in another call.
func fix(ctx context.Context, cmd *cli.Command) error {
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	ctx = asOperator(ctx, cmd)
	token, reason, out := cmd.String(flagToken), cmd.String(flagReason), cmd.Root().Writer
	if reason == "" && (token != "" || cmd.Bool(flagYes)) {
		return usageError{errors.New("--fix needs a --reason, for the record of the change")}
	}
	if err := echo(cmd, "schema and tables", ""); err != nil {
		return err
	}
	if token == "" {
		preview, err := operator.PreviewFixes(ctx)
		if err != nil {
			return err
		}
		if err := writePreview(cmd, preview); err != nil {
			return err
		}
		if len(preview.Fixes) == 0 {
			return exitError{exitNothing, errors.New("there is nothing that can be put right by itself")}
		}
		asked, err := confirmProduction(cmd)
		if err != nil {
			return err
		}
		if !asked && !cmd.Bool(flagYes) {
			if !isTerminal(cmd.Root().Reader) {
				return exitError{exitUnconfirmed, errors.New("nothing was changed: standard input is not a terminal, so pass --reason, and --yes or --token with the token above")}
			}
			in := bufio.NewReader(cmd.Root().Reader)
			if reason == "" {
				fmt.Fprint(cmd.Root().ErrWriter, "Reason: ")
				line, _ := in.ReadString('\n') // without one, no reason
				if reason = strings.TrimSpace(line); reason == "" {
					return exitError{exitUnconfirmed, errors.New("nothing was changed: there is no reason")}
				}
			}
			if err := confirmedBy(in, cmd, "To put them right"); err != nil {
				return err
			}
		}
		token = preview.Token
	} else if _, err := confirmProduction(cmd); err != nil {
		return err
	}
	fixed, err := operator.Fix(ctx, token, admin.ChangeOptions{Reason: reason})
	if errors.Is(err, admin.ErrFixChanged) {
		return exitError{exitSkipped, err}
	}
	if err != nil {
		return err
	}
	if cmd.Bool(flagJSON) {
		return writeJSON(out, fixed)
	}
	_, err = fmt.Fprintf(out, "put right: %s\n", findings(len(fixed.Fixes)))
	return err
}

// writePreview shows what would be changed, and what somebody has to decide about.
func writePreview(cmd *cli.Command, preview *admin.FixPreview) error {
	out := cmd.Root().Writer
	if cmd.Bool(flagJSON) && !cmd.Bool(flagYes) {
		return writeJSON(out, preview)
	}
	notes := cmd.Root().ErrWriter
	for _, f := range preview.Fixes {
		fmt.Fprintf(notes, "%s\nTo put it right:\n", plainText(f.Text))
		for line := range strings.Lines(strings.TrimSpace(f.Fix)) {
			fmt.Fprintf(notes, "  %s\n", plainText(strings.TrimRight(line, "\n")))
		}
		fmt.Fprintln(notes)
	}
	for _, f := range preview.Left {
		fmt.Fprintf(notes, "To be decided by somebody: %s\n", plainText(f.Text))
	}
	if preview.Token != "" {
		fmt.Fprintf(notes, "token     %s\n", preview.Token)
	}
	return nil
}
