package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
)

const (
	flagRequeued = "requeued"
	flagLimit    = "limit"
	flagPage     = "page"
)

func listLetters(ctx context.Context, cmd *cli.Command) error {
	if cmd.Args().Present() {
		return usageError{errors.New("list takes flags only: pass numbers of dead letters as --id")}
	}
	filter, words, err := filterOf(cmd, nil)
	if err != nil {
		return err
	}
	filter.Requeued = cmd.Bool(flagRequeued)
	size := cmd.Int(flagLimit)
	if size < 1 || size > 1000 {
		return usageError{errors.New("--limit: want 1 to 1000")}
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	list, err := operator.Letters(ctx, letterFilter(filter), admin.LetterPage{After: cmd.String(flagPage), Size: size})
	if err != nil {
		return refusedByAdmin(err)
	}
	out, notes := cmd.Root().Writer, cmd.Root().ErrWriter
	switch {
	case cmd.Bool(flagJSON):
		for _, letter := range list.Letters {
			if err := writeJSON(out, letterLine(&letter)); err != nil {
				return err
			}
		}
	case len(list.Letters) > 0:
		if err := writeLetters(out, list.Letters); err != nil {
			return err
		}
	case len(list.Missing) == 0:
		fmt.Fprintf(notes, "no dead letters: %s\n", words)
	}
	if writeMissing(notes, list.Missing); len(list.Missing) > 0 && len(list.Letters) == 0 {
		return exitError{exitProblem, errors.New("not all could be read, so it is not known whether something matches")}
	}
	if list.Next != "" {
		fmt.Fprintf(notes, "there are more: --page=%s\n", list.Next)
	}
	return nil
}

// letterFilter is a filter of the client's for a list.
func letterFilter(f backfill.DeadLetterFilter) admin.LetterFilter {
	var reasons []string
	for _, reason := range f.Reasons {
		reasons = append(reasons, string(reason))
	}
	return admin.LetterFilter{
		IDs: f.IDs, JobIDs: f.JobIDs, Tasks: f.Tasks, Queues: f.Queues, Keys: f.Keys, Reasons: reasons,
		FailedFrom: f.FailedAfter, FailedBefore: f.FailedBefore, ErrorContains: f.ErrorContains, Requeued: f.Requeued,
	}
}

// writeLetters writes a table.
func writeLetters(w io.Writer, letters []admin.Letter) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tFAILED AT\tTASK\tREASON\tATTEMPTS\tQUEUE\tKEY\tREQUEUED AS\tLAST ERROR")
	for _, l := range letters {
		requeued := ""
		if l.RequeuedJobID != 0 {
			requeued = fmt.Sprint("job ", l.RequeuedJobID)
		}
		cells := []string{
			strconv.FormatInt(l.ID, 10), stamp(l.FailedAt), oneLine(l.Task), l.Reason, fmt.Sprintf("%d/%d", l.Attempts, l.MaxAttempts),
			oneLine(l.Queue), oneLine(l.Key), requeued, oneLine(l.LastError),
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	return table.Flush()
}

// oneLine is the beginning of a text, without what a terminal could take for a command.
func oneLine(text string) string {
	const limit = 80
	runes := []rune(text)
	end := ""
	if len(runes) > limit {
		runes, end = runes[:limit], "…"
	}
	return strings.Map(printable, string(runes)) + end
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return ' '
}

func showLetter(ctx context.Context, cmd *cli.Command) error {
	ids, err := parseIDs(cmd)
	if err != nil {
		return err
	}
	if len(ids) != 1 {
		return usageError{errors.New("show takes the number of one dead letter")}
	}
	operator, err := openAdmin(cmd)
	if err != nil {
		return err
	}
	defer operator.Close()
	letter, err := operator.Letter(ctx, ids[0])
	if errors.Is(err, admin.ErrNotFound) {
		return exitError{exitNothing, fmt.Errorf("get dead letter %d: %w", ids[0], backfill.ErrDeadLetterNotFound)}
	}
	if err != nil {
		return err
	}
	if cmd.Bool(flagJSON) {
		return writeJSON(cmd.Root().Writer, letterLine(letter))
	}
	for _, row := range [][2]string{
		{"id", strconv.FormatInt(letter.ID, 10)},
		{"job", strconv.FormatInt(letter.JobID, 10)},
		{"task", letter.Task},
		{"queue", letter.Queue},
		{"key", letter.Key},
		{"priority", strconv.Itoa(letter.Priority)},
		{"flags", strings.Join(letter.Flags, ", ")},
		{"attempts", fmt.Sprintf("%d of %d", letter.Attempts, letter.MaxAttempts)},
		{"reason", letter.Reason},
		{"failed at", stamp(letter.FailedAt)},
		{"failures", strconv.Itoa(letter.Failures)},
		{"first failed", stamp(letter.FirstFailedAt)},
		{"created at", stamp(letter.CreatedAt)},
		{"was due at", stamp(letter.RunAt)},
		{"requeues", strconv.Itoa(letter.Requeues)},
		{"requeued at", stamp(letter.RequeuedAt)},
		{"requeued as", optionalID(letter.RequeuedJobID)},
		{"notes", letter.Notes},
		{"first error", letter.FirstError},
		{"last error", letter.LastError},
		{"args", argsOf(letter)},
	} {
		if row[1] != "" {
			fmt.Fprintf(cmd.Root().Writer, "%-13s %s\n", row[0], indented(row[1]))
		}
	}
	return nil
}

// argsOf is the payload of a dead letter, as text.
func argsOf(l *admin.Letter) string {
	if l.Payload == nil {
		return fmt.Sprintf("(%d bytes: too large to show)", l.PayloadBytes)
	}
	return string(l.Payload)
}

func optionalID(id int64) string {
	if id == 0 {
		return ""
	}
	return fmt.Sprint("job ", id)
}

// indented is a text of several lines, each below the first.
func indented(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.Map(printable, lines[i])
	}
	return strings.Join(lines, "\n"+strings.Repeat(" ", 14))
}

// letterJSON is a line of list and show.
type letterJSON struct {
	ID          int64           `json:"id"`
	JobID       int64           `json:"job_id"`
	Task        string          `json:"task"`
	Args        json.RawMessage `json:"args,omitzero"`        // left out of a list if it is over 4,000 bytes
	ArgsBytes   int64           `json:"args_bytes,omitempty"` // if it is left out
	Redacted    bool            `json:"redacted,omitempty"`   // some of the args is hidden
	Queue       string          `json:"queue,omitempty"`
	Key         string          `json:"key,omitempty"`
	Priority    int             `json:"priority"`
	Flags       []string        `json:"flags,omitempty"`
	Attempts    int             `json:"attempts"`
	MaxAttempts int             `json:"max_attempts"`
	Reason      string          `json:"reason"`
	LastError   string          `json:"last_error"`
	FailedAt    time.Time       `json:"failed_at"`
	Failures    int             `json:"failures"`
	FirstError  string          `json:"first_error"`
	FirstFailed time.Time       `json:"first_failed_at"`
	CreatedAt   time.Time       `json:"created_at"`
	RunAt       time.Time       `json:"run_at"`
	Requeues    int             `json:"requeues"`
	RequeuedAt  time.Time       `json:"requeued_at,omitzero"`
	RequeuedJob int64           `json:"requeued_job_id,omitempty"`
	Notes       string          `json:"notes,omitempty"`
}

func letterLine(l *admin.Letter) letterJSON {
	size := l.PayloadBytes
	if l.Payload != nil {
		size = 0
	}
	return letterJSON{
		ID: l.ID, JobID: l.JobID, Task: l.Task, Args: l.Payload, ArgsBytes: size, Redacted: l.Redacted, Queue: l.Queue, Key: l.Key, Priority: l.Priority, Flags: l.Flags,
		Attempts: l.Attempts, MaxAttempts: l.MaxAttempts, Reason: l.Reason, LastError: l.LastError, FailedAt: l.FailedAt.UTC(),
		Failures: l.Failures, FirstError: l.FirstError, FirstFailed: l.FirstFailedAt.UTC(), CreatedAt: l.CreatedAt.UTC(),
		RunAt: l.RunAt.UTC(), Requeues: l.Requeues, RequeuedAt: l.RequeuedAt.UTC(), RequeuedJob: l.RequeuedJobID, Notes: l.Notes,
	}
}
