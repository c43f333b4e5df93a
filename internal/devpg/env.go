package devpg

import (
	"os"
	"slices"
	"strings"
)

// existingServer returns the URL of the server that the environment names.
func existingServer() (string, bool) {
	if url := os.Getenv("DATABASE_URL"); url != "" {
		return url, true
	}
	// pgx and libpq take what a URL leaves out from the PG* variables.
	named := func(name string) bool { return os.Getenv(name) != "" }
	return "postgres:///", slices.ContainsFunc([]string{"PGHOST", "PGSERVICE", "PGDATABASE"}, named)
}

// programEnv is the environment of PostgreSQL's own programs: ours, without what would change how
// they behave.
func programEnv() []string {
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LC_") ||
			slices.Contains([]string{"LANG", "LANGUAGE", "TZ", "DATABASE_URL"}, name)
	})
	return append(env, "LC_ALL=C", "TZ=UTC")
}
