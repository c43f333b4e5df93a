package pg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// minPoolConnections lets ten callers insert at a time, however few processors there are.
// Connections are made when needed.
const minPoolConnections = 10

// ParseURL reads a connection string. White space and one pair of quotes around it are ignored.
// Its errors never quote the string, because it contains the password.
func ParseURL(databaseURL string) (*pgxpool.Config, error) {
	databaseURL = trimURL(databaseURL)
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		if problem := environmentProblem(); problem != "" {
			return nil, fmt.Errorf("the database URL cannot be used: %s", problem)
		}
		if refused := refusedParameters(databaseURL); refused != "" {
			return nil, fmt.Errorf("the database URL cannot be used: %s", withCause(refused, err))
		}
		return nil, unreadable(syntaxProblem(databaseURL))
	}
	if problem := misread(databaseURL, config); problem != "" {
		return nil, unreadable(problem)
	}
	if problem := foreignParameters(config); problem != "" {
		return nil, fmt.Errorf("the database URL cannot be used: %s", problem)
	}
	if !strings.Contains(databaseURL, "pool_max_conns") {
		config.MaxConns = max(config.MaxConns, minPoolConnections)
	}
	parameters := config.ConnConfig.RuntimeParams
	if parameters["application_name"] == "" {
		parameters["application_name"] = "backfill"
	}
	// pgx sends UTF-8 and reads ISO dates, whatever the database's defaults are. Every pooler takes
	// these two.
	parameters["client_encoding"] = "UTF8"
	if parameters["datestyle"] == "" {
		parameters["datestyle"] = "ISO"
	}
	if config.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol {
		parameters["standard_conforming_strings"] = "on" // pgx refuses to work without
	}
	limitConnecting(config.ConnConfig)
	return config, nil
}

// trimURL removes what secrets and .env files leave around a connection string, and writes its
// scheme as pgx wants it.
func trimURL(text string) string {
	text = strings.TrimSpace(text)
	if n := len(text); n >= 2 && text[0] == text[n-1] && strings.ContainsRune("\"'`", rune(text[0])) {
		text = strings.TrimSpace(text[1 : n-1])
	}
	scheme, rest, found := strings.Cut(text, "://")
	if lower := strings.ToLower(scheme); found && (lower == "postgres" || lower == "postgresql") {
		return lower + "://" + rest
	}
	return text
}

func unreadable(problem string) error {
	return fmt.Errorf("the database URL cannot be read (%s): want postgres://user:password@host:5432/database, "+
		"with special characters of the password percent-encoded", problem)
}

const (
	notConnectionString = "it is not a PostgreSQL connection string"
	strayAt             = "there is an @ after the host: it, or a / before it, may be part of the password"
)

var (
	otherScheme = regexp.MustCompile(`^(jdbc:|postgres(ql)?\+|pgx5?:|cockroachdb?:)`)
	badPercent  = regexp.MustCompile(`%([^0-9A-Fa-f]|.[^0-9A-Fa-f]|.?$)`)
)

// syntaxProblem says what is wrong with a connection string that pgx cannot read. It goes by the
// string and not by pgx's text, which may quote parts of the string.
func syntaxProblem(databaseURL string) string {
	isURL := strings.HasPrefix(databaseURL, "postgres://") || strings.HasPrefix(databaseURL, "postgresql://")
	switch {
	case otherScheme.MatchString(databaseURL):
		return "its scheme is another driver's, such as jdbc: or postgresql+psycopg: write postgres://"
	case strings.ContainsRune(databaseURL, 0), !isURL && !strings.Contains(databaseURL, "="):
		return notConnectionString
	case !isURL:
		return "it is not a list of keyword=value, with values that contain spaces in single quotes"
	case strings.ContainsFunc(databaseURL, unicode.IsSpace):
		return "there is a space in it"
	case badPercent.MatchString(databaseURL):
		return "there is a % that begins no percent-encoded character"
	default:
		return "its host, port or parameters cannot be told apart: is the password percent-encoded?"
	}
}

// misread recognises a string that pgx can read, but not as it was meant: parts of the password
// would be taken for names, which errors of ours and of the server show.
func misread(databaseURL string, config *pgxpool.Config) string {
	parameters := config.ConnConfig.RuntimeParams
	for name := range parameters { // app:secret@host/db?sslmode=disable is one, named up to the =
		if !strings.HasPrefix(name, migrateParameter) && strings.ContainsFunc(name, notInParameter) {
			if otherScheme.MatchString(databaseURL) {
				return syntaxProblem(databaseURL)
			}
			return notConnectionString
		}
	}
	_, rest, isURL := strings.Cut(databaseURL, "://")
	if !isURL || !strings.HasPrefix(databaseURL, "postgres") {
		return ""
	}
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		rest = rest[i+1:]
	} else { // a ? in the password begins a parameter that nobody knows
		for name, value := range parameters {
			if strings.Contains(value, "@") && !strings.Contains(name, ".") && !slices.Contains(mayHaveAt, name) {
				return strayAt
			}
		}
	}
	if rest, _, _ = strings.Cut(rest, "?"); strings.Contains(rest, "@") {
		return strayAt
	}
	return ""
}

// mayHaveAt are the server's own parameters in whose values an @ makes sense. It may also be in
// those of extensions, whose names have a dot.
var mayHaveAt = []string{"application_name", "options", "role", "search_path"}

// migrateParameter begins the parameters of golang-migrate, as in x-migrations-table.
const migrateParameter = "x-migrations-"

func notInParameter(r rune) bool {
	return r != '_' && r != '.' && r != '$' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
}

// parameterWants says what pgx takes for the parameters whose values it checks.
var parameterWants = map[string]string{
	"sslmode":                       "disable, allow, prefer, require, verify-ca or verify-full",
	"sslrootcert":                   "a file of certificates, or system",
	"sslcert":                       "a file, together with sslkey",
	"sslkey":                        "a file, together with sslcert",
	"sslpassword":                   "the password of sslkey",
	"sslcertmode":                   "disable, allow or require",
	"connect_timeout":               "a whole number of seconds",
	"target_session_attrs":          "any, read-write, read-only, primary, standby or prefer-standby",
	"default_query_exec_mode":       "cache_statement, cache_describe, describe_exec, exec or simple_protocol",
	"statement_cache_capacity":      "a whole number",
	"description_cache_capacity":    "a whole number",
	"channel_binding":               "disable, prefer or require",
	"require_auth":                  "names of authentication methods",
	"min_protocol_version":          "3.0, 3.2 or latest",
	"max_protocol_version":          "3.0, 3.2 or latest, and not below min_protocol_version",
	"service":                       "a service in the file of servicefile or PGSERVICEFILE",
	"port":                          "one port number, or one for each host",
	"pool_max_conns":                "a whole number from 1 on",
	"pool_min_conns":                "a whole number",
	"pool_min_idle_conns":           "a whole number",
	"pool_max_conn_lifetime":        "a duration, such as 1h",
	"pool_max_conn_lifetime_jitter": "a duration, such as 1m",
	"pool_max_conn_idle_time":       "a duration, such as 30m",
	"pool_health_check_period":      "a duration, such as 1m",
	"pool_ping_timeout":             "a duration, such as 3s",
}

// refusedParameters names the parameters of a URL that pgx refuses, by trying without them. It
// names only those of parameterWants: another name may be part of a password with a ? in it.
func refusedParameters(databaseURL string) string {
	base, query, found := strings.Cut(databaseURL, "?")
	if !found || !readable(base) {
		return ""
	}
	pairs := strings.Split(query, "&")
	refused := slices.DeleteFunc(slices.Clone(pairs), func(pair string) bool { return readable(base + "?" + pair) })
	for i := range pairs { // one that is refused only beside another, or fine only beside another
		if others := slices.Delete(slices.Clone(pairs), i, i+1); readable(base + "?" + strings.Join(others, "&")) {
			refused = []string{pairs[i]}
		}
	}
	var list []string
	for _, pair := range refused {
		name, _, _ := strings.Cut(pair, "=")
		if want := parameterWants[name]; want != "" {
			list = append(list, name+" must be "+want)
		}
	}
	return strings.Join(list, "; ")
}

// environmentProblem names the variables that are set, if pgx cannot use the environment alone, or
// with an address, which some of them are for.
func environmentProblem() string {
	if readable("") && readable("host=127.0.0.1 port=1") {
		return ""
	}
	var set []string
	for _, name := range []string{
		"PGPORT", "PGSERVICE", "PGSERVICEFILE", "PGCONNECT_TIMEOUT", "PGTARGETSESSIONATTRS", "PGSSLMODE", "PGSSLROOTCERT",
		"PGSSLCERT", "PGSSLKEY", "PGSSLPASSWORD", "PGSSLCERTMODE", "PGCHANNELBINDING", "PGREQUIREAUTH",
		"PGMINPROTOCOLVERSION", "PGMAXPROTOCOLVERSION",
	} {
		if os.Getenv(name) != "" {
			set = append(set, name)
		}
	}
	return "the environment has a value that is not valid, in one of " + strings.Join(set, ", ")
}

func readable(databaseURL string) bool {
	_, err := pgxpool.ParseConfig(databaseURL)
	return err == nil
}

// withCause adds why a file could not be read. The path is part of the string, and is left out.
func withCause(problem string, err error) string {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Sprintf("%s (%s: %v)", problem, path.Op, path.Err)
	}
	return problem
}

// replaced are parameters of libpq and of other drivers that pgx would send to the server, which
// does not know them, by what to write instead. Those of "" can only go.
var replaced = map[string][]string{
	"application_name":             {"ApplicationName", "fallback_application_name"},
	"connect_timeout":              {"connectTimeout", "connectionTimeoutMillis", "loginTimeout"},
	"default_query_exec_mode=exec": {"pgbouncer", "prepareThreshold", "prepared_statements"},
	"host":                         {"hostaddr"},
	"pool_max_conn_idle_time":      {"idleTimeoutMillis"},
	"pool_max_conns":               {"connection_limit", "max", "pool_size"},
	"search_path":                  {"currentSchema"},
	"sslcert and sslkey":           {"sslidentity"},
	"sslmode":                      {"ssl", "sslaccept", "sslfactory", "uselibpqcompat"},
	"sslmode=require":              {"requiressl"},
	"statement_cache_capacity":     {"statement_cache_size"},
	"statement_timeout":            {"query_timeout", "socketTimeout", "socket_timeout"},
	"target_session_attrs":         {"targetServerType"},
	"": {
		"charset", "encoding", "gssencmode", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval",
		"load_balance_hosts", "pool_timeout", "reWriteBatchedInserts", "schema", "ssl_max_protocol_version",
		"ssl_min_protocol_version", "sslcompression", "sslcrl", "stringtype", "tcpKeepAlive", "tcp_user_timeout",
	},
}

// foreignParameters names all parameters that have to go, and what replaces them.
func foreignParameters(config *pgxpool.Config) string {
	parameters := config.ConnConfig.RuntimeParams
	var list []string
	for instead, names := range replaced {
		for _, name := range names {
			_, given := parameters[name]
			switch {
			case given && instead == "":
				list = append(list, name)
			case given:
				list = append(list, name+" (instead: "+instead+")")
			}
		}
	}
	for name := range parameters {
		if strings.HasPrefix(name, migrateParameter) {
			list = append(list, migrateParameter+"…")
		}
	}
	if len(list) == 0 {
		return ""
	}
	slices.Sort(list)
	return "remove the parameters of other drivers, which PostgreSQL does not know: " + strings.Join(slices.Compact(list), ", ")
}
