package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/urfave/cli/v3"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
)

const (
	flagVerify   = "verify"
	flagPrint    = "print"
	flagBreaking = "breaking"
	flagEnqueue  = "enqueue-role"
	flagWorker   = "worker-role"
	flagReader   = "reader-role"
	flagOperator = "operator-role"
)

const migrateDescription = `Without flags it does what backfill.Open does, and builds the index for queues: it installs the tables if
there are none, and applies what is missing. Run it as the role that is to own the tables. You can run it again
at any time, and while workers run. It waits at most 50 ms for a lock, and tries again for a minute. If the schema
was renamed or copied, it also makes the functions use this schema's tables.

Row level security hides all jobs from roles that do not own the tables. --enqueue-role lets a role enqueue through
a function, without any right on the tables of jobs. --worker-role lets a role work, and enqueue from its handlers,
with rights and policies of its own. --reader-role lets a role read everything, payloads too, and change nothing.
--operator-role lets a role read everything, and change jobs, dead letters and pauses, which it records.
Each can be given several times. The roles must exist. Run this again after each upgrade, because an upgrade may need
more rights.

With --print it changes nothing and writes SQL for psql, or for any driver's simple query protocol. Without
--database-url this is the SQL of a new schema, in one transaction; on an existing schema it fails at its first
insert and changes nothing. It then connects to no database, not even to DATABASE_URL. With --database-url it is the
SQL of what that database lacks. The rights of roles come last, and can be run again.

   backfill migrate --print | psql -X -v ON_ERROR_STOP=1 -f - DATABASE

--verify can be combined with neither --print nor --breaking. Exit codes: 0, all is well; 1, it failed, or --verify
found something missing; 2, the usage is wrong, which includes names that no schema or role can have.`

// patience is longer than that of an application's start: a person or a deployment can wait.
const patience = time.Minute

func migrateCommand() *cli.Command {
	return &cli.Command{
		Name:        "migrate",
		Usage:       "install or upgrade the tables of a job queue",
		Description: migrateDescription,
		Flags: append(changeFlags(),
			&cli.BoolFlag{Name: flagVerify, Usage: "change nothing; if anything is missing, say what to run and exit with 1"},
			&cli.BoolFlag{Name: flagPrint, Usage: "change nothing; write the SQL to standard output"},
			&cli.BoolFlag{Name: flagBreaking, Usage: "also apply migrations that stop workers of older versions, Graphile Worker 0.16 among them"},
			&cli.StringSliceFlag{Name: flagEnqueue, Usage: "let the role `NAME` enqueue, and nothing else"},
			&cli.StringSliceFlag{Name: flagWorker, Usage: "let the role `NAME` work and enqueue, and nothing else"},
			&cli.StringSliceFlag{Name: flagReader, Usage: "let the role `NAME` read everything, payloads too, and change nothing"},
			&cli.StringSliceFlag{Name: flagOperator, Usage: "let the role `NAME` read everything, and change jobs, dead letters and pauses"},
		),
		DisableSliceFlagSeparator: true, // a name may have commas
		HideHelpCommand:           true,
		OnUsageError:              onUsageError,
		Action:                    migrate,
	}
}

func migrate(ctx context.Context, cmd *cli.Command) error {
	// An argument may be a URL with a password: do not repeat it.
	if cmd.Args().Present() {
		return usageError{errors.New("migrate takes flags only: pass the database as --database-url")}
	}
	if err := checkNames(cmd); err != nil {
		return usageError{err}
	}
	verify, show := cmd.Bool(flagVerify), cmd.Bool(flagPrint)
	switch {
	case verify && show:
		return usageError{errors.New("--verify and --print: choose one")}
	case verify && cmd.Bool(flagBreaking):
		return usageError{errors.New("--verify changes nothing: leave --breaking out")}
	case show && !cmd.IsSet(flagDatabase) && !cmd.IsSet(flagContext):
		return printSQL(ctx, cmd)
	}
	if _, err := targetOf(cmd); err != nil {
		return err
	}
	if show {
		return printSQL(ctx, cmd)
	}
	conn, err := connect(ctx, cmd)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var report schema.Report
	opts := migrateOptions(cmd)
	opts.Report = &report
	if err := checkRoles(ctx, cmd, conn); err != nil { // Before anything is changed.
		return err
	}
	if !verify {
		if err := echoAlone(cmd, "tables and rights"); err != nil {
			return err
		}
	}
	opts.Granting = !verify && slices.Contains(roles(cmd), role{conn.Config().User, schema.WorkerRole})
	if err := schema.Migrate(ctx, conn, opts); err != nil {
		return err
	}
	var problems []error
	if !report.Index && verify {
		problems = append(problems, fmt.Errorf("schema %q lacks its index for queues, or it is invalid: "+
			"run this command as the owner of the tables, without --verify", opts.Schema))
	} else {
		writeReport(cmd.Root().Writer, opts.Schema, report)
	}
	for _, r := range roles(cmd) {
		problems = append(problems, grantRole(ctx, cmd, conn, r))
	}
	return errors.Join(problems...)
}

// checkNames refuses names that no schema or role can have.
func checkNames(cmd *cli.Command) error {
	problems := []error{pg.CheckSchemaName(cmd.String(flagSchema))}
	for _, r := range roles(cmd) {
		problems = append(problems, schema.CheckRoleName(r.name))
	}
	return errors.Join(problems...)
}

// checkRoles names the roles that do not exist.
func checkRoles(ctx context.Context, cmd *cli.Command, conn *pgx.Conn) error {
	var problems []error
	for _, r := range roles(cmd) {
		problems = append(problems, schema.CheckRole(ctx, conn, r.name))
	}
	return errors.Join(problems...)
}

// role is a role that a flag names.
type role struct {
	name string
	kind schema.RoleKind
}

func roles(cmd *cli.Command) []role {
	var list []role
	for _, name := range cmd.StringSlice(flagEnqueue) {
		list = append(list, role{name, schema.EnqueueRole})
	}
	for _, name := range cmd.StringSlice(flagWorker) {
		list = append(list, role{name, schema.WorkerRole})
	}
	for _, name := range cmd.StringSlice(flagReader) {
		list = append(list, role{name, schema.ReaderRole})
	}
	for _, name := range cmd.StringSlice(flagOperator) {
		list = append(list, role{name, schema.OperatorRole})
	}
	return list
}

// grantRole gives a role the rights that it lacks, or says which they are.
func grantRole(ctx context.Context, cmd *cli.Command, conn *pgx.Conn, r role) error {
	opts := migrateOptions(cmd)
	name, verify := opts.Schema, cmd.Bool(flagVerify)
	lacked, err := schema.GrantRole(ctx, conn, r.name, r.kind, opts)
	switch {
	case err != nil:
		return err
	case verify && len(lacked) > 0:
		return fmt.Errorf("schema %q: role %q lacks rights: run this command as the owner of the tables, without --verify; what is missing is:\n%s",
			name, r.name, strings.Join(lacked, "\n"))
	case len(lacked) == 0:
		fmt.Fprintf(cmd.Root().Writer, "role %q has its rights\n", r.name)
		return nil
	}
	fmt.Fprintf(cmd.Root().Writer, "role %q was given its rights\n", r.name)
	for _, statement := range lacked {
		fmt.Fprintln(cmd.Root().Writer, "  ran", statement)
	}
	return nil
}

func migrateOptions(cmd *cli.Command) schema.Options {
	mode := schema.MigrateAuto
	switch {
	case cmd.Bool(flagVerify):
		mode = schema.MigrateVerify
	case cmd.Bool(flagBreaking):
		mode = schema.MigrateBreaking
	}
	return schema.Options{
		Schema: schemaOf(cmd), Mode: mode, Patience: patience, Repair: mode != schema.MigrateVerify,
		Logger: slog.New(slog.NewTextHandler(cmd.Root().ErrWriter, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// writeReport writes what was done.
func writeReport(w io.Writer, name string, report schema.Report) {
	from, to := report.From, report.To
	switch {
	case from == to && len(report.Files) > 0:
		fmt.Fprintf(w, "schema %q is repaired: Graphile Worker's revision %d, backfill's %d\n", name, to.Revision, to.Own)
	case from == to:
		fmt.Fprintf(w, "schema %q is up to date: Graphile Worker's revision %d, backfill's %d\n", name, to.Revision, to.Own)
	case from == (schema.Version{}):
		fmt.Fprintf(w, "schema %q is installed: Graphile Worker's revision %d, backfill's %d\n", name, to.Revision, to.Own)
	default:
		fmt.Fprintf(w, "schema %q is migrated: Graphile Worker's revision %d → %d, backfill's %d → %d\n",
			name, from.Revision, to.Revision, from.Own, to.Own)
	}
	for _, file := range report.Files {
		fmt.Fprintln(w, "  ran", file)
	}
	if !report.Index {
		fmt.Fprintln(w, "  without the index for queues, see the warning: workers run, but more slowly")
	}
}

// printSQL writes the SQL that a migration would run.
func printSQL(ctx context.Context, cmd *cli.Command) error {
	opts := migrateOptions(cmd)
	script, err := schema.FreshScript(opts.Schema)
	if cmd.IsSet(flagDatabase) || cmd.IsSet(flagContext) {
		conn, connectErr := connect(ctx, cmd)
		if connectErr != nil {
			return connectErr
		}
		defer conn.Close(context.WithoutCancel(ctx))
		if script, err = schema.MissingScript(ctx, conn, opts); err == nil {
			err = checkRoles(ctx, cmd, conn)
		}
	}
	if err != nil {
		return err
	}
	if script == "" {
		script = fmt.Sprintf("-- schema %q is up to date: there is nothing to run\n", opts.Schema)
	}
	scripts := []string{script}
	for _, r := range roles(cmd) {
		scripts = append(scripts, schema.RoleScript(opts.Schema, r.name, r.kind))
	}
	_, err = io.WriteString(cmd.Root().Writer, strings.Join(scripts, "\n"))
	return err
}
