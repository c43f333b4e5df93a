package mask_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/mask"
)

const token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJzM2NyM3QifQ.s3cr3ts3cr3t" //nolint:gosec // an example

func TestSecrets(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		// Passwords in URLs.
		"dial postgres://app:s3cr3t@db.internal:5432/shop?sslmode=require: refused": "dial postgres://app:***@db.internal:5432/shop?sslmode=require: refused",
		`parse "postgres://app:s3cr3t@db/shop": invalid port`:                       `parse "postgres://app:***@db/shop": invalid port`,
		"redis://:s3cr3t@cache:6379/0":                                              "redis://:***@cache:6379/0",
		"amqps://u:s3%40cr3t@mq/v":                                                  "amqps://u:***@mq/v",
		"postgres://u:s3/cr?3t#@x@db/shop":                                          "postgres://u:***@db/shop",
		"postgres://u:s3'cr\"3t@db/shop":                                            "postgres://u:***@db/shop",
		"postgresql+psycopg://u:12/s3cr3t@db":                                       "postgresql+psycopg://u:***@db",
		"jdbc:postgresql://db/shop?user=app&password=s3cr3t&ssl=true":               "jdbc:postgresql://db/shop?user=app&password=***&ssl=true",
		"https://u:s3cr3t@h:8080/x and http://u:s3cr3t@h":                           "https://u:***@h:8080/x and http://u:***@h",
		"postgres://a:s3cr3t@h1/x,postgres://b:s3cr3t@h2/y":                         "postgres://a:***@h2/y",
		"postgres://app@db/shop":                                                    "postgres://app@db/shop",
		"https://h:8080/mail/a@b.c?x=1":                                             "https://h:8080/mail/a@b.c?x=1",
		`{"url":"https://h:8080","mail":"a@b.c"}`:                                   `{"url":"https://h:8080","mail":"a@b.c"}`,
		"git@github.com:owner/name.git":                                             "git@github.com:owner/name.git",

		"want postgres://user:password@host:5432/database": "want postgres://user:password@host:5432/database",

		// Parameters of URLs.
		"GET /x?access_token=s3cr3t&page=2: 403":                "GET /x?access_token=***&page=2: 403",
		"https://s3/b/k?X-Amz-Signature=s3cr3t&X-Amz-Date=2026": "https://s3/b/k?X-Amz-Signature=***&X-Amz-Date=2026",
		"https://blob/x?sv=1&sig=s3cr3t%3D":                     "https://blob/x?sv=1&sig=***",

		// Connection strings.
		"host=db password=s3cr3t dbname=shop":                 "host=db password=*** dbname=shop",
		"host=db password = s3&cr;3t dbname=shop":             "host=db password = *** dbname=shop",
		`host=db password='s3 cr\'3t' dbname=shop`:            `host=db password='***' dbname=shop`,
		`password='s3 cr3t`:                                   `password='***`,
		"Server=db;User Id=app;Password=s3cr3t;Database=shop": "Server=db;User Id=app;Password=***",
		"Endpoint=sb://x/;SharedAccessKey=s3cr3t=":            "Endpoint=sb://x/;SharedAccessKey=***",
		"PGPASSWORD=s3cr3t psql":                              "PGPASSWORD=*** psql",
		"sslpassword=s3cr3t":                                  "sslpassword=***",

		// Dumps.
		`body: {"user":"bob","password":"s3\"cr3t","n":1}`: `body: {"user":"bob","password":"***","n":1}`,
		`{"api_key": "s3cr3t", "page": 2}`:                 `{"api_key": "***", "page": 2}`,
		`"{\"client_secret\":\"s3cr3t\"}"`:                 `"{\"client_secret\":***`,
		"{User:bob Password:s3cr3t Port:1}":                "{User:bob Password:*** Port:1}",
		"password: s3cr3t":                                 "password: ***",
		"X-Api-Key: s3cr3t":                                "X-Api-Key: ***",

		// Headers and tokens.
		"Authorization: Bearer s3cr3t":       "Authorization: Bearer ***",
		"authorization: Basic dTpzM2NyM3Q=":  "authorization: Basic ***",
		`map[Authorization:[Bearer s3cr3t]]`: `map[Authorization:[Bearer ***`,
		"401 for bearer s3cr3t.s3cr3t":       "401 for bearer ***",
		"verify " + token + ": expired":      "verify ***: expired",
		"session Bearer " + token:            "session Bearer ***",

		// What is no secret.
		"bearer authentication is required":                            "bearer authentication is required",
		`FATAL: password authentication failed for user "app" (28P01)`: `FATAL: password authentication failed for user "app" (28P01)`,
		"invalid token: unexpected end":                                "invalid token: unexpected end",
		"set password: must have 8 characters":                         "set password: must have 8 characters",
		"unique key (email)=(a@b.c) exists":                            "unique key (email)=(a@b.c) exists",
		"send mail to a@b.c: 10:30 timeout":                            "send mail to a@b.c: 10:30 timeout",
		"secretary: not found":                                         "secretary: not found",
		"key=7 queue=q":                                                "key=7 queue=q",
		"":                                                             "",
	} {
		got := mask.Secrets(text)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
		if again := mask.Secrets(got); again != got {
			t.Errorf("masked twice, %q is %q", got, again)
		}
	}
}

// No secret is left in any of the forms, whatever it consists of apart from spaces and quotes, and
// the text around it stays.
func FuzzSecrets(f *testing.F) {
	f.Add("s3cr3t")
	f.Add("a:b/c?d#e@f&g;h=i")
	f.Add("\\{}[]()<>,%")
	f.Fuzz(func(t *testing.T, secret string) {
		if secret == "password" || strings.ContainsAny(secret, "\"'` \t\r\n\v\f\\") || secret == "" || strings.ContainsRune("*", rune(secret[0])) || len(secret) < 4 {
			t.Skip("not in these forms")
		}
		for _, form := range []string{
			"postgres://app:%@db/shop", "host=db password=% dbname=shop", `{"password":"%"}`, "password='%' x",
		} {
			text := "before " + strings.Replace(form, "%", secret, 1) + " after"
			got := mask.Secrets(text)
			outside := "before " + form + " after"
			if strings.Contains(got, secret) && !strings.Contains(outside, secret) {
				t.Errorf("%q is left in %q", secret, got)
			}
			if !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
				t.Errorf("%q became %q", text, got)
			}
		}
	})
}

func BenchmarkSecrets(b *testing.B) {
	for name, text := range map[string]string{
		"short, without": "send mail: 550 no such user",
		"short, with":    "dial postgres://app:s3cr3t@db.internal:5432/shop: connection refused",
		"10 kB, without": strings.Repeat("no such user: bob, ", 526),
		"10 kB, with":    strings.Repeat("password=s3cr3t x=y ", 500),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				mask.Secrets(text)
			}
		})
	}
}
