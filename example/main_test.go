package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/testutil/pgtest"
)

// asProgram makes the test binary the example itself.
const asProgram = "EXAMPLE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// The whole service, in this process.
func TestService(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	service := startRole(t, config{role: "all", databaseURL: db.URL})
	if page := service.page(t); !strings.Contains(page, `action="/signup"`) {
		t.Errorf("there is no form: %s", page)
	}
	service.signUp(t, "Ada", "ada@example.com")
	eventually(t, "the mail and the member", func() bool {
		return count(t, db, "outbox") == 4 && count(t, db, "jobs") == 0
	})

	got := texts(t, db, "select subject from backfill_example.outbox where recipient = 'ada@example.com' order by id")
	if diff := cmp.Diff([]string{"Welcome", "Tip 1 of 3", "Tip 2 of 3", "Tip 3 of 3"}, got); diff != "" {
		t.Errorf("mail in order of arrival (-want +got):\n%s", diff)
	}
	if ids := texts(t, db, "select distinct message_id from backfill_example.outbox"); len(ids) != 4 {
		t.Errorf("Message-IDs are %q, want one for each job", ids)
	}
	if members := texts(t, db, "select member from backfill_example.subscribers"); !cmp.Equal(members, []string{"M-1"}) {
		t.Errorf("members are %q", members)
	}
	if page := service.page(t); !strings.Contains(page, `Outbox <span class="count">4</span>`) || !strings.Contains(page, "Hello Ada,") {
		t.Errorf("the outbox does not show the mail: %s", page)
	}
	service.stop(t)
	wantNarrow(t, service.printed.String())
	for task, counts := range map[string]string{
		"(all)": "7 0 2", "announce_member": "1 0 0", "purge_outbox": "1 0 0", "register_member": "1 0 2", "send_tip": "3 0 0", "send_welcome": "1 0 0",
	} {
		wantSummary(t, service.printed.String(), task, counts)
	}
}

// The same as a program of its own, which is told where the database is and when to stop.
func TestProgram(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be sent Ctrl-C there")
	}
	db := pgtest.Empty(t)
	program := command(t, db.URL, "-listen", "127.0.0.1:0")
	var printed, log buffer
	program.Stdout, program.Stderr = &printed, &log
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Process.Kill() })
	service := service{url: pageURL(t, &printed), printed: &printed}
	service.signUp(t, "Zoë", "zoe@example.com")
	eventually(t, "the welcome mail", func() bool {
		page := service.page(t)
		return strings.Contains(page, "zoe@example.com") && strings.Contains(page, "Hello Zoë,")
	})
	if err := program.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := program.Wait(); err != nil {
		t.Errorf("it ended with %v: %s", err, log.String())
	}
	wantSummary(t, printed.String(), "send_welcome", "1 0 0")
	if strings.Contains(printed.String()+log.String(), "postgres://") {
		t.Error("it prints the password of the database")
	}
}

// The exit code of a wrong call is 2, and the message says what is right.
func TestWrongCalls(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"-role boss":                   `unknown role "boss": want all, web or worker`,
		"export":                       `unknown command "export": there is only import`,
		"import":                       "import takes one file and no flags",
		"import a.csv b.csv":           "import takes one file and no flags",
		"-role web import people.csv":  "import takes one file and no flags",
		"-port 1":                      "flag provided but not defined: -port",
		"-role worker web":             `unknown command "web"`,
		"import people.csv -role=all ": "import takes one file and no flags",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			var printed bytes.Buffer
			code := run(strings.Fields(args), io.Discard, &printed)
			if code != 2 || !strings.Contains(printed.String(), want) || !strings.Contains(printed.String(), "usage: ") {
				t.Errorf("exit code %d, want 2; it said %s\nwant %s, and the usage", code, &printed, want)
			}
		})
	}
	var printed bytes.Buffer
	if code := run([]string{"-h"}, io.Discard, &printed); code != 0 || !strings.Contains(printed.String(), "SMTP_ADDR") {
		t.Errorf("-h: exit code %d: %s", code, &printed)
	}
	wantNarrow(t, printed.String())
	for _, hint := range hints {
		wantNarrow(t, hint)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	db := pgtest.Empty(t)
	for name, test := range map[string]struct {
		cfg  config
		want string
	}{
		"port taken":      {config{role: "web", listen: taken.Addr().String(), databaseURL: db.URL}, "choose another address with -listen"},
		"wrong SMTP_ADDR": {config{role: "worker", smtpAddr: "mail", databaseURL: db.URL}, "SMTP_ADDR=mail: want host:port"},
		"wrong database":  {config{role: "web", databaseURL: "postgres://nobody@127.0.0.1:1/none"}, "127.0.0.1:1"},
		"no file":         {config{file: "none.csv"}, "import open none.csv"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := start(t.Context(), test.cfg, io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want one with %s", err, test.want)
			}
		})
	}
}

// One process enqueues, another one works.
func TestRoles(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	web := startRole(t, config{role: "web", databaseURL: db.URL})
	web.signUp(t, "Grace", "grace@example.com")
	if waiting := texts(t, db, "select task_identifier from backfill_example.jobs order by 1"); !cmp.Equal(waiting, []string{"register_member", "send_welcome"}) {
		t.Errorf("waiting jobs are %q", waiting)
	}
	worker := startRole(t, config{role: "worker", databaseURL: db.URL})
	eventually(t, "the welcome mail", func() bool { return strings.Contains(web.page(t), "Hello Grace,") })
	worker.stop(t)
	wantSummary(t, worker.printed.String(), "send_welcome", "1 0 0")
	web.stop(t)
	if strings.Contains(web.printed.String(), "send_welcome") {
		t.Errorf("the site alone has a summary: %s", web.printed)
	}
}

// With SMTP_ADDR, mail goes to another server.
func TestOtherMailServer(t *testing.T) {
	t.Parallel()
	other := pgtest.Empty(t) // where that server keeps its mail
	there, err := openDatabase(t.Context(), other.URL, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	server := newMailServer(there.pool)
	addr, err := serveLocally(server.Serve)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Close()
		if err := there.close(); err != nil {
			t.Error(err)
		}
	})
	service := startRole(t, config{role: "all", smtpAddr: addr, databaseURL: pgtest.Empty(t).URL})
	service.signUp(t, "Hedy", "hedy@example.com")
	eventually(t, "the mail", func() bool { return count(t, other, "outbox") > 0 })
	if page := service.page(t); !strings.Contains(page, "Mail goes to the server at "+addr) || !strings.Contains(page, "Nothing arrives here") {
		t.Errorf("the outbox does not say where mail goes: %s", page)
	}
}

// Processes that start at once, in a database that has no tables yet.
func TestManyStartAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	var wait sync.WaitGroup
	for range 6 {
		wait.Go(func() {
			opened, err := openDatabase(t.Context(), db.URL, io.Discard)
			if err != nil {
				t.Error(err)
				return
			}
			if err := opened.close(); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
}

func TestImport(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	people := []string{"name,email", "Ada,ada@example.com", `"Lovelace, Ada", ADA@example.com `}
	for i := range 1008 { // and with these, more than fit into a batch
		people = append(people, fmt.Sprintf("Zoë %d,zoe.%[1]d@example.org", i))
	}
	file := write(t, people...)

	var out, bars bytes.Buffer
	if err := start(t.Context(), config{file: file, databaseURL: db.URL}, &out, &bars); err != nil {
		t.Fatal(err)
	}
	wantSummary(t, out.String(), "send_welcome", "1009 0 0")
	if !strings.Contains(out.String(), "1009 subscribers imported, 1 were there before") || !strings.Contains(bars.String(), "mail: 1009 of 1009") {
		t.Errorf("it printed %s%s", &out, &bars)
	}
	if subscribers, mails, jobs := count(t, db, "subscribers"), count(t, db, "outbox"), count(t, db, "jobs"); subscribers != 1009 || mails != 1009 || jobs != 0 {
		t.Errorf("%d subscribers, %d mails, %d jobs, want 1009, 1009, 0", subscribers, mails, jobs)
	}

	out.Reset()
	if err := start(t.Context(), config{file: file, databaseURL: db.URL}, &out, &bars); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "0 subscribers imported, 1010 were there before") || count(t, db, "outbox") != 1009 {
		t.Errorf("the second time it printed %s", &out)
	}
}

// What an import leaves when it is stopped is for the next worker.
func TestImportThatIsStopped(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	// The mail server takes connections and does not answer: nothing will be sent.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	cfg := config{file: write(t, "name,email", "Ada,ada@example.com"), smtpAddr: silent.Addr().String(), databaseURL: db.URL}
	go func() {
		conn, err := silent.Accept()
		cancel()
		if err == nil {
			conn.Close()
		}
	}()
	if err := start(ctx, cfg, &out, io.Discard); err != nil {
		t.Errorf("it failed: %v", err)
	}
	if !strings.Contains(out.String(), "1 mails are not sent yet; their jobs wait for the next worker") || count(t, db, "jobs") != 1 {
		t.Errorf("it printed %s", &out)
	}
}

func TestImportOfBadFiles(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		lines []string
		want  string
	}{
		"rows": {
			[]string{"name,email", "Ada,ada@example.com", "Bo,bo", "Cy", ",dy@example.com", `"Ed`, `Di",ed@example.com`, `Fa"y,fay@example.com`, "Gil,g@example.com,x"},
			"nothing was imported, because of\n" +
				"  line 3: \"bo\" is not an email address such as ada@example.com\n" +
				"  line 4: wrong number of fields\n" +
				"  line 5: Name is missing\n" +
				"  line 6: \"Ed\\nDi\" is not a name\n" +
				"  line 8: bare \" in non-quoted-field\n" +
				"  line 9: wrong number of fields",
		},
		"header":     {[]string{"Ada,ada@example.com"}, `line 1 is not the header name,email, but "Ada,ada@example.com"`},
		"semicolons": {[]string{"name;email", "Ada;ada@example.com"}, `line 1 is not the header name,email, but "name;email"`},
		"UTF-16":     {[]string{"\xff\xfen\x00a\x00"}, `line 1 is not the header name,email, but "\xff\xfen\x00a\x00"`},
		"two marks":  {[]string{"\ufeff\ufeffname,email"}, `line 1 is not the header name,email, but "\ufeffname,email"`},
		"quote":      {[]string{`na"me,email`}, `line 1 is not the header name,email: bare " in non-quoted-field`},
		"empty":      {nil, "it is empty: line 1 has to be the header name,email"},
		"mark alone": {[]string{"\ufeff"}, "it is empty: line 1 has to be the header name,email"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// It does not get as far as the database, which is not there.
			err := start(t.Context(), config{file: write(t, test.lines...), databaseURL: "postgres://127.0.0.1:1/none"}, io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v\nwant one with %s", err, test.want)
			}
		})
	}
}

// The file that ships can be imported from anywhere, but a file of the same name comes first.
func TestPeople(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"people.csv", "nowhere/people.csv"} {
		people, err := readPeople(path)
		if want := map[bool]int{true: 10_000}[path == "people.csv"]; len(people) != want || (err == nil) != (want > 0) {
			t.Errorf("%s has %d people: %v", path, len(people), err)
		}
	}
	elsewhere := command(t, "postgres://nobody@127.0.0.1:1/none", "import", "people.csv")
	elsewhere.Dir = t.TempDir()
	output, err := elsewhere.CombinedOutput()
	if err == nil || !strings.Contains(string(output), "127.0.0.1:1") { // it was read, and it is the database that fails
		t.Errorf("it ended with %v: %s", err, output)
	}
}

// service is the example, running.
type service struct {
	url     string
	printed *buffer
	stop    func(t *testing.T) // as Ctrl-C does it
}

// startRole runs the example in this process.
func startRole(t *testing.T, cfg config) *service {
	t.Helper()
	cfg.listen = "127.0.0.1:0"
	ctx, cancel := context.WithCancel(t.Context())
	s := &service{printed: &buffer{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := start(ctx, cfg, s.printed, s.printed); err != nil {
			t.Error(err)
		}
	}()
	s.stop = func(t *testing.T) {
		t.Helper()
		cancel()
		<-ended
	}
	t.Cleanup(func() { s.stop(t) })
	if cfg.role != "worker" {
		s.url = pageURL(t, s.printed)
	}
	return s
}

func (s *service) page(t *testing.T) string {
	t.Helper()
	response, err := http.Get(s.url) //nolint:noctx // a test's
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("GET: %s: %v", response.Status, err)
	}
	return string(page)
}

func (s *service) signUp(t *testing.T, name, email string) {
	t.Helper()
	response, err := http.PostForm(s.url+"/signup", url.Values{"name": {name}, "email": {email}}) //nolint:noctx // a test's
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK || !response.Request.URL.Query().Has("signed_up") {
		t.Fatalf("sign-up ends at %s with %s", response.Request.URL, response.Status)
	}
}

// command is the example as a program of its own.
func command(t *testing.T, databaseURL string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "DATABASE_URL="+databaseURL, "SMTP_ADDR=")
	return cmd
}

var pageLine = regexp.MustCompile(`page +(http://\S+)\n`)

// pageURL waits until the example has printed where its page is.
func pageURL(t *testing.T, printed *buffer) string {
	t.Helper()
	var found []string
	eventually(t, "the page", func() bool {
		found = pageLine.FindStringSubmatch(printed.String())
		return found != nil
	})
	return found[1]
}

// wantSummary compares a line of the summary: done, failed, retried.
func wantSummary(t *testing.T, printed, task, counts string) {
	t.Helper()
	line := regexp.MustCompile(`\n *` + regexp.QuoteMeta(task) + ` +(\d+) +(\d+) +(\d+) +[\d.]+ ms +[\d.]+ ms\n`).FindStringSubmatch(printed)
	if line == nil || strings.Join(line[1:], " ") != counts {
		t.Errorf("%s: the summary says %q, want done, failed, retried %s:\n%s", task, line, counts, printed)
	}
}

// wantNarrow wants what is printed to fit into a terminal of the usual width.
func wantNarrow(t *testing.T, printed string) {
	t.Helper()
	for line := range strings.Lines(printed) {
		if width := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); width > 80 {
			t.Errorf("%d columns: %s", width, line)
		}
	}
}

func count(t *testing.T, db *pgtest.Database, table string) (n int) {
	t.Helper()
	if err := db.Pool().QueryRow(t.Context(), "select count(*) from backfill_example."+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func texts(t *testing.T, db *pgtest.Database, sql string) []string {
	t.Helper()
	rows, err := db.Pool().Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// write makes a file of these lines.
func write(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "some.csv")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually waits for what a running program does in its own time.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(time.Minute); !done(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// buffer can be read while a program writes to it.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
