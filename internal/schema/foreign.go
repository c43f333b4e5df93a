package schema

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/migrations"
)

// Tables and views refer to each other by number, but functions by name: their bodies name the
// schema. After ALTER SCHEMA … RENAME, or in a copy under another name, they still use the tables
// of the old name, which may be another system's.

// foreign returns how the schema's functions name other schemas, as identifiers in SQL text.
func (s *schemaState) foreign(schema string) []string {
	return slices.DeleteFunc(slices.Clone(s.qualifiers), func(qualifier string) bool { return unquote(qualifier) == schema })
}

// unquote returns the name that an identifier in SQL text stands for.
func unquote(identifier string) string {
	if inner, quoted := strings.CutPrefix(identifier, `"`); quoted {
		return strings.ReplaceAll(strings.TrimSuffix(inner, `"`), `""`, `"`)
	}
	return strings.ToLower(identifier)
}

// definitionsSQL returns the definitions of the schema's functions.
const definitionsSQL = `
  select pg_catalog.pg_get_functiondef(p.oid)
  from pg_catalog.pg_proc as p
  join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
  where n.nspname = $1 and p.proname = any($2::text[])
  order by p.oid`

// replacements returns a "create or replace function" for each function that names another schema.
// Owner and rights of a function outlive it.
func replacements(ctx context.Context, db querier, schema string, others []string) ([]string, error) {
	rows, _ := db.Query(ctx, definitionsSQL, pgx.QueryExecModeExec, schema, schemaFunctions) // CollectRows returns its error.
	definitions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	var statements []string
	for _, definition := range definitions {
		replaced := definition
		for _, other := range others {
			replaced = requalify(replaced, other)
		}
		if replaced != definition {
			statements = append(statements, strings.TrimSpace(migrations.Render(replaced, schema)))
		}
	}
	return statements, nil
}

// requalify puts the name that [migrations.Render] replaces in the place of another schema's.
func requalify(sql, other string) string {
	pattern := regexp.QuoteMeta(other + ".")
	if other[0] != '"' {
		pattern = `\b` + pattern
	}
	return regexp.MustCompile(pattern).ReplaceAllLiteralString(sql, migrations.DefaultSchema+".")
}
