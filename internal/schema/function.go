package schema

import "github.com/backfillhq/go/migrations"

// Function returns the statement that makes a function of Graphile Worker's in a schema, as a
// revision has it; "": there is none.
func Function(schema, name string, revision int) string {
	statement := migrations.Function(name, revision)
	if statement == "" {
		return ""
	}
	return migrations.Render(statement, schema) + ";"
}
