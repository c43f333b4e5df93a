package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill/admin"
)

const doctorDescription = `It looks for what is wrong, or about to be, in the schema, in the server's settings and state, and in what stands in the
tables, on each database that has Graphile Worker's tables, also if only Node workers use it. It changes nothing. It says
of each finding what can be done. A healthy database has no finding.

With --fix it puts right what needs no decision, where backfill migrate was run: it shows the statements and a token,
asks for a reason, and runs them in one transaction, with a record (backfill audit). With --token it does what an earlier
preview has shown, once, if nothing has changed since. It needs the owner of the tables.

With --json it writes one object; findings[].code says which kinds of findings there are.

Exit codes: 0, nothing was found, or all of it was put right; 1, something was found, or the command failed; 2, the usage
is wrong; with --fix also 3, there is nothing to put right; 4, the preview does not hold any more; 5, it was not
confirmed, and nothing was changed.`

const (
	flagDeep  = "deep"
	flagFix   = "fix"
	flagToken = "token"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "look for what is wrong with the database of a queue", ArgsUsage: " ", Description: doctorDescription,
		Flags: append(databaseFlags(), &cli.BoolFlag{Name: flagDeep, Usage: "read large tables as a whole, which may take minutes"},
			&cli.BoolFlag{Name: flagFix, Usage: "show what can be put right by itself, and do it if that is confirmed"},
			&cli.StringFlag{Name: flagToken, Usage: "with --fix: do what the preview has shown that this `TOKEN` is of"},
			&cli.StringFlag{Name: flagReason, Usage: "with --fix: why, a `TEXT` for the record of the change"}, byFlag(),
			&cli.BoolFlag{Name: flagYes, Usage: "with --fix: do not ask"}, confirmFlag(),
			&cli.BoolFlag{Name: flagJSON, Usage: "write an object of JSON"}),
		HideHelpCommand: true, OnUsageError: onUsageError, Action: doctor,
	}
}

func doctor(ctx context.Context, cmd *cli.Command) error {
	if cmd.Args().Present() {
		return usageError{errors.New("doctor takes flags only")}
	}
	if cmd.Bool(flagFix) {
		return fix(ctx, cmd)
	}
	if cmd.IsSet(flagToken) || cmd.IsSet(flagReason) {
		return usageError{errors.New("--token and --reason go with --fix")}
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	diagnosis, err := operator.Doctor(ctx, admin.DoctorOptions{Deep: cmd.Bool(flagDeep)})
	if err != nil {
		return err
	}
	out := cmd.Root().Writer
	if cmd.Bool(flagJSON) {
		err = writeJSON(out, diagnosis)
	} else {
		err = writeDiagnosis(out, diagnosis)
	}
	if err == nil && len(diagnosis.Findings) > 0 {
		err = exitError{exitProblem, errors.New(findings(len(diagnosis.Findings)))}
	}
	return err
}

func findings(n int) string {
	if n == 1 {
		return "1 finding"
	}
	return strconv.Itoa(n) + " findings"
}

// writeDiagnosis writes the findings, with a blank line between them.
func writeDiagnosis(w io.Writer, d *admin.Diagnosis) error {
	var text strings.Builder
	for i, finding := range d.Findings {
		if i > 0 {
			fmt.Fprintln(&text)
		}
		fmt.Fprintln(&text, plainText(finding.Text))
		writeRemedies(&text, finding.Remedies)
		writeStack(&text, finding.Stack)
	}
	if len(d.Findings) == 0 {
		fmt.Fprintf(&text, "Nothing was found in the schema %s.\n", plainText(d.Schema))
	}
	for _, note := range d.Notes {
		fmt.Fprintln(&text, plainText(note))
	}
	writeMissing(&text, d.Missing)
	_, err := io.WriteString(w, text.String())
	return err
}
