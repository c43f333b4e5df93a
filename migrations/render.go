package migrations

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// DefaultSchema is Graphile Worker's default schema, and the name that all SQL text is written
// with.
const DefaultSchema = "graphile_worker"

// maxNameBytes is PostgreSQL's limit (NAMEDATALEN - 1). It cuts longer names without an error.
const maxNameBytes = 63

// tokens matches what Render has to distinguish: comments, string literals and quoted identifiers,
// which stay; dollar quotes, which may clash with the name; and the name itself. The text between
// dollar quotes is SQL and is treated like the rest.
var tokens = regexp.MustCompile(`--[^\n]*` +
	`|/\*(?s:.*?)\*/` +
	`|'(?:[^']|'')*'` +
	`|"(?:[^"]|"")*"` +
	`|\$(?:[A-Za-z_][A-Za-z0-9_]*)?\$` +
	`|\bgraphile_worker\b`)

// Render puts the schema's name, quoted, in the place of the bare word graphile_worker. It leaves
// string literals, comments and quoted identifiers alone, so SQL text must not name the schema in
// a literal. The name must have passed [CheckSchemaName].
func Render(sql, schema string) string {
	quoted := QuoteIdentifier(schema)
	return tokens.ReplaceAllStringFunc(sql, func(token string) string {
		switch {
		case token == DefaultSchema:
			return quoted
		case token[0] == '$':
			return dollarQuote(token, quoted, sql)
		default:
			return token
		}
	})
}

// dollarQuote returns the dollar quote itself, or one like it if the name would end it early.
func dollarQuote(tag, quoted, sql string) string {
	if !strings.Contains(quoted, tag) {
		return tag
	}
	for i := 0; ; i++ {
		other := "$" + strings.Trim(tag, "$") + "_" + strconv.Itoa(i) + "$"
		if !strings.Contains(quoted, other) && !strings.Contains(sql, other) {
			return other
		}
	}
}

// QuoteIdentifier returns the name as SQL text, whatever characters it has.
func QuoteIdentifier(name string) string {
	return pgx.Identifier{name}.Sanitize()
}

// CheckSchemaName says why PostgreSQL would refuse a schema of this name, or silently make one of
// another name.
func CheckSchemaName(schema string) error {
	switch {
	case schema == "":
		return errors.New("schema name is empty")
	case len(schema) > maxNameBytes:
		return fmt.Errorf("schema name %.70q has %d bytes: PostgreSQL allows %d", schema, len(schema), maxNameBytes)
	case strings.ContainsRune(schema, 0):
		return fmt.Errorf("schema name %q contains a NUL character", schema)
	case !utf8.ValidString(schema):
		return fmt.Errorf("schema name %q is not valid UTF-8", schema)
	case strings.HasPrefix(schema, "pg_"):
		return fmt.Errorf("schema name %q starts with pg_: PostgreSQL keeps such names for itself", schema)
	default:
		return nil
	}
}
