package migrations

import "strings"

// Function returns the statement that makes a function of Graphile Worker's, as its revision has
// it, or replaces what has its name and arguments; "": there is none. It names the schema
// graphile_worker, see [Render].
func Function(name string, revision int) (statement string) {
	for _, m := range Wire() {
		if m.ID > revision {
			break
		}
		for _, create := range []string{"create function ", "create or replace function "} {
			_, rest, ok := strings.Cut(m.SQL, "\n"+create+"graphile_worker."+name+"(")
			if !ok {
				continue
			}
			body, _, ok := strings.Cut(rest, "\n$fn$;") // each ends so
			if ok {
				statement = "create or replace function graphile_worker." + name + "(" + body + "\n$fn$"
			}
		}
	}
	return statement
}
