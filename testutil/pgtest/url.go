package pgtest

import (
	"net/url"
	"strings"
)

// withDatabase is a connection string for another database of the same server.
// It takes both kinds: a URL, and names with values.
func withDatabase(conn, database string) string {
	if !strings.HasPrefix(conn, "postgres://") && !strings.HasPrefix(conn, "postgresql://") {
		return conn + " dbname=" + database // The last one counts.
	}
	// By hand: net/url does not read URLs of several hosts and ports.
	scheme, rest, _ := strings.Cut(conn, "://")
	rest, query, _ := strings.Cut(rest, "?")
	host, _, _ := strings.Cut(rest, "/")
	result := scheme + "://" + host + "/" + url.PathEscape(database)
	var kept []string
	for parameter := range strings.SplitSeq(query, "&") {
		if name, _, _ := strings.Cut(parameter, "="); name != "" && name != "dbname" && name != "database" {
			kept = append(kept, parameter)
		}
	}
	if len(kept) > 0 {
		result += "?" + strings.Join(kept, "&")
	}
	return result
}
