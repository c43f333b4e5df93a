package schema

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/migrations"
)

// FreshScript returns the SQL that makes a new schema, for psql or any driver's simple query
// protocol: the statements of [Migrate], in one transaction. On an existing schema it fails at its
// first insert, and changes nothing.
func FreshScript(schema string) (string, error) {
	if err := migrations.CheckSchemaName(schema); err != nil {
		return "", err
	}
	m := newMigrator(nil, Options{Schema: schema})
	p, err := m.plan(&schemaState{version: minServerVersion}) // of a database without it
	if err != nil {
		return "", err
	}
	return p.script(schema), nil
}

// MissingScript returns the SQL that [Migrate] would run on a database with these options, "" if
// nothing is missing. An index on a table with jobs comes after the transaction and cannot be built
// in one: run such a script statement by statement, as psql does.
func MissingScript(ctx context.Context, conn *pgx.Conn, opts Options) (string, error) {
	if err := migrations.CheckSchemaName(opts.Schema); err != nil {
		return "", err
	}
	m := newMigrator(conn, opts)
	state, err := m.inspect(ctx)
	if err != nil {
		return "", m.explain(ctx, opInspect, err)
	}
	p, err := m.plan(state)
	if err != nil {
		return "", err
	}
	if p.fresh {
		return p.script(m.Schema), nil
	}
	var functions []string
	var late []sequence
	err = reading(ctx, conn, func() (err error) {
		if functions, err = replacements(ctx, conn, m.Schema, p.foreign); err != nil {
			return err
		}
		late, err = behind(ctx, conn, state)
		return err
	})
	if err != nil {
		return "", m.explain(ctx, opInspect, err)
	}
	return p.missingScript(m.Schema, functions, late), nil
}

// setPath is the setting of localSettings, in a form that shows nothing in psql.
const setPath = "set local search_path = pg_catalog, pg_temp"

// script returns the plan of a new schema as SQL text. Nobody uses its tables yet, so no statement
// waits for a lock; and tools that read SQL understand plain statements only.
func (p plan) script(schema string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "begin;\n%s;\n", setPath)
	for _, file := range p.files {
		fmt.Fprintf(&b, "\n-- %s\n\n%s", file.Path, migrations.Render(file.SQL, schema))
	}
	writeIndex(&b, schema, false)
	b.WriteString("\ncommit;\n")
	return b.String()
}

// missingScript returns the plan of a schema in use as SQL text.
func (p plan) missingScript(schema string, functions []string, late []sequence) string {
	var b strings.Builder
	if !p.empty() {
		var body strings.Builder
		for _, function := range functions {
			body.WriteString(function + ";\n")
		}
		for _, file := range p.files {
			fmt.Fprintf(&body, "\n-- %s\n\n%s", file.Path, migrations.Render(file.SQL, schema))
			if file.Wire() {
				fmt.Fprintf(&body, "\nnotify \"worker:migrate\", '%s';\n", migrateNotification(file.ID))
			}
		}
		b.WriteString(retrying(schema, body.String()) + "\n")
	}
	for _, s := range late {
		lock := "lock table " + s.Table + " in share row exclusive mode;\n"
		b.WriteString("\n" + retrying(schema, lock+s.statement()) + "\n")
	}
	if p.index != indexValid {
		if p.index == indexInvalid {
			b.WriteString(migrations.Render("\n"+dropIndex+";\n", schema))
		}
		writeIndex(&b, schema, true)
	}
	return b.String()
}

func writeIndex(b *strings.Builder, schema string, concurrently bool) {
	for _, statement := range indexStatements(concurrently) {
		fmt.Fprintf(b, "\n%s;\n", migrations.Render(strings.TrimSpace(strings.TrimPrefix(statement, "-- no-transaction\n--\n")), schema))
	}
}

// A script tries as long as the command does: for about a minute.
const (
	scriptTries = 60
	scriptPause = 1 // in seconds
)

// retrying returns a transaction that runs statements under the rule of lock.go. While the block
// sleeps it keeps its snapshot, but no lock: a failed try is a subtransaction that was rolled back.
func retrying(schema, statements string) string {
	const text = `begin;
do %[1]s
begin
  set local lock_timeout = '%[2]dms';
  set local idle_in_transaction_session_timeout = '%[8]dms';
  set local client_min_messages = warning;
  set local search_path = pg_catalog, pg_temp;
  for attempt in 1..%[3]d loop
    begin
      execute %[4]s
%[5]s
%[4]s;
      return;
    exception when lock_not_available then
      perform pg_sleep(case when attempt < %[3]d then %[6]d else 0 end);
    end;
  end loop;
  raise lock_not_available using
    message = format('schema %%I: its tables were in use at each of %[3]d tries', %[7]s),
    detail = coalesce((
      select string_agg(distinct format('pid %%s (%%s) holds %%s on %%s', l.pid, a.application_name, l.mode, c.relname), '; ')
      from pg_catalog.pg_locks as l
      join pg_catalog.pg_class as c on c.oid = l.relation
      join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
      left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
      where l.granted and l.pid <> pg_backend_pid() and n.nspname = %[7]s and c.relkind = 'r'
        and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
    ), 'nobody holds a lock on them now'),
    hint = 'Let those sessions finish, or end them with pg_terminate_backend(pid), and run this again.';
end
%[1]s;
commit;`
	outer, inner := dollarTag("try", schema+statements), dollarTag("statements", schema+statements)
	return fmt.Sprintf(text, outer, lockTimeout.Milliseconds(), scriptTries, inner, strings.TrimSpace(statements), scriptPause, quoteLiteral(schema), idleLimit.Milliseconds())
}

// dollarTag returns a dollar quote that does not occur in a text.
func dollarTag(name, text string) string {
	tag := "$" + name + "$"
	for i := 1; strings.Contains(text, tag); i++ {
		tag = fmt.Sprintf("$%s%d$", name, i)
	}
	return tag
}

// quoteLiteral returns a text as an SQL literal, whatever standard_conforming_strings says.
func quoteLiteral(text string) string {
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(text, `\`) {
		quoted = " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
