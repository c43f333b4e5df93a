package schema

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/migrations"
)

// FreshScript returns the SQL that makes a new schema, for psql or any driver's simple query protocol: what [Migrate] runs, in
// one transaction. On a schema that is there it fails at its first insert, and changes nothing.
func FreshScript(schema string) (string, error) {
	if err := migrations.CheckSchemaName(schema); err != nil {
		return "", err
	}
	m := migrator{schema: schema}
	p, err := m.plan(&schemaState{version: minServerVersion}) // of a database without it
	if err != nil {
		return "", err
	}
	return p.script(schema), nil
}

// MissingScript returns the SQL that [Migrate] would run on a database with these options; "" if there is nothing to do. An index
// on a table with jobs stands behind the transaction: run such a script statement by statement, as psql does.
func MissingScript(ctx context.Context, conn *pgx.Conn, opts Options) (string, error) {
	if err := migrations.CheckSchemaName(opts.Schema); err != nil {
		return "", err
	}
	m := migrator{conn: conn, schema: opts.Schema, mode: opts.Mode}
	state, err := inspect(ctx, conn, m.schema)
	if err != nil {
		return "", m.explain(ctx, opInspect, err)
	}
	p, err := m.plan(state)
	if err != nil {
		return "", settled(err)
	}
	return p.script(m.schema), nil
}

// script returns a plan as SQL text.
func (p plan) script(schema string) string {
	var b strings.Builder
	if !p.empty() {
		b.WriteString("begin;\n")
		for _, file := range p.files {
			fmt.Fprintf(&b, "\n-- %s\n\n%s", file.Path, migrations.Render(file.SQL, schema))
			if file.Wire() && !p.fresh {
				fmt.Fprintf(&b, "\nnotify \"worker:migrate\", '%s';\n", migrateNotification(file.ID))
			}
		}
		if p.fresh {
			writeIndex(&b, schema, false)
		}
		b.WriteString("\ncommit;\n")
	}
	if !p.fresh && p.index != indexValid {
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
