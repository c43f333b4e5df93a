package devpg

import (
	"os"
	"strings"
)

// existingServer returns the URL of the server that the environment names.
func existingServer() (string, bool) {
	if url := os.Getenv("DATABASE_URL"); url != "" {
		return url, true
	}
	for _, name := range []string{"PGHOST", "PGSERVICE", "PGDATABASE"} {
		if os.Getenv(name) != "" {
			// pgx and libpq take what a URL leaves out from the PG* variables.
			return "postgres:///", true
		}
	}
	return "", false
}

// programEnv is the environment of PostgreSQL's own programs: ours, without what would change how
// they behave.
func programEnv() []string {
	var env []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		switch {
		case strings.HasPrefix(name, "PG"), strings.HasPrefix(name, "LC_"),
			name == "LANG", name == "LANGUAGE", name == "TZ", name == "DATABASE_URL":
		default:
			env = append(env, entry)
		}
	}
	return append(env, "LC_ALL=C", "TZ=UTC")
}
