package main

import (
	"errors"
	"html"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/example/tasks"
	"github.com/backfillhq/go/testutil"
	"github.com/backfillhq/go/testutil/pgtest"
)

func TestSignUp(t *testing.T) {
	t.Parallel()
	db, rec, handler := newTestSite(t)
	response := post(handler, "Ada", " Ada@Example.com ", nil)
	if response.Code != http.StatusSeeOther || response.Header().Get("Location") != "/?signed_up=1" {
		t.Fatalf("it answers %d: %s", response.Code, response.Body)
	}
	if got := texts(t, db, "select name || ', ' || email from backfill_example.subscribers"); !cmp.Equal(got, []string{"Ada, ada@example.com"}) {
		t.Errorf("subscribers are %q", got)
	}
	welcome := testutil.Enqueued(t, rec, tasks.TaskSendWelcome)
	if len(welcome) != 1 || welcome[0].Args != (tasks.WelcomeArgs{SubscriberID: 1, Tips: true}) || !welcome[0].InTx || welcome[0].Queue != "subscriber:1" {
		t.Errorf("welcome mail: %+v", welcome)
	}
	members := testutil.Enqueued(t, rec, tasks.TaskRegisterMember)
	if len(members) != 1 || members[0].Args != (tasks.MemberArgs{SubscriberID: 1}) || !members[0].InTx {
		t.Errorf("members: %+v", members)
	}
}

// Without the jobs there is no subscriber.
func TestSignUpIsOneTransaction(t *testing.T) {
	t.Parallel()
	db, rec, handler := newTestSite(t)
	rec.FailWith(errors.New("the database is full"))
	response := post(handler, "Ada", "ada@example.com", nil)
	if response.Code != http.StatusInternalServerError || strings.Contains(response.Body.String(), "full") {
		t.Errorf("it answers %d: %s", response.Code, response.Body)
	}
	if n := count(t, db, "subscribers"); n != 0 {
		t.Errorf("%d subscribers were stored", n)
	}
	rec.FailWith(nil)
	if response := post(handler, "Ada", "ada@example.com", nil); response.Code != http.StatusSeeOther {
		t.Errorf("the second time it answers %d: %s", response.Code, response.Body)
	}
}

// Whoever types something wrong learns what, and need not type the rest again.
func TestSignUpRefuses(t *testing.T) {
	t.Parallel()
	_, rec, handler := newTestSite(t)
	if response := post(handler, "Ada", "ada@example.com", nil); response.Code != http.StatusSeeOther {
		t.Fatalf("it answers %d: %s", response.Code, response.Body)
	}
	rec.Reset()
	for _, test := range []struct{ name, email, nameProblem, emailProblem string }{
		{"", "bo@example.com", "Name is missing", ""},
		{" ", " ", "Name is missing", "Email address is missing"},
		{"Bo\x00", "bo@example.com", `"Bo\x00" is not a name`, ""},
		{"Bo\nBcc: all@example.com", "bo@example.com", `"Bo\nBcc: all@example.com" is not a name`, ""},
		{strings.Repeat("o", 201), "bo@example.com", `"` + strings.Repeat("o", 50) + `" is not a name`, ""},
		{"Bo", "", "", "Email address is missing"},
		{"Bo", "bo", "", `"bo" is not an email address such as ada@example.com`},
		{"<b>Bo</b>", "Bo <bo@example.com>", "", `"bo <bo@example.com>" is not an email address such as ada@example.com`},
		{"Bo", "bo@example.com, cy@example.com", "", `"bo@example.com, cy@example.com" is not an email address such as ada@example.com`},
		{"Ada", "ADA@example.com", "", "ada@example.com has signed up already"},
	} {
		response := post(handler, test.name, test.email, nil)
		page := response.Body.String()
		if response.Code != http.StatusUnprocessableEntity || !strings.Contains(page, "<title>Error: ") {
			t.Errorf("%q, %q: it answers %d, want 422 and a title that says so: %s", test.name, test.email, response.Code, page)
		}
		for field, want := range map[string]string{"name": test.nameProblem, "email": test.emailProblem} {
			if got := problemAt(page, field); got != want {
				t.Errorf("%q, %q: at the field %s is %q, want %q: %s", test.name, test.email, field, got, want, page)
			}
		}
		if !strings.Contains(test.name, "\x00") && !strings.Contains(page, `value="`+html.EscapeString(test.email)+`"`) {
			t.Errorf("%q: the address is gone from the form: %s", test.email, page)
		}
	}
	fromElsewhere := http.Header{"Sec-Fetch-Site": {"cross-site"}}
	if response := post(handler, "Bo", "bo@example.com", fromElsewhere); response.Code != http.StatusForbidden {
		t.Errorf("another site's page signs people up: %d", response.Code)
	}
	if requests := rec.Requests(); len(requests) > 0 {
		t.Errorf("jobs were enqueued: %+v", requests)
	}
}

// problemAt returns what the page says is wrong with a field, and "" unless the field points to it.
func problemAt(page, field string) string {
	input := regexp.MustCompile(`<input id="` + field + `"[^>]*>`).FindString(page)
	text := regexp.MustCompile(`<p id="` + field + `-problem" class="problem">(.*)</p>`).FindStringSubmatch(page)
	if text == nil || !strings.Contains(input, `aria-invalid="true" aria-describedby="`+field+`-problem"`) {
		return ""
	}
	return html.UnescapeString(text[1])
}

// newTestSite is the site on a database of the test's own, with a Recorder in place of a client.
func newTestSite(t *testing.T) (*pgtest.Database, *testutil.Recorder, http.Handler) {
	t.Helper()
	db := pgtest.New(t, pgtest.WithSchema(schema))
	sql, err := os.ReadFile("schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Pool().Exec(t.Context(), string(sql)); err != nil {
		t.Fatal(err)
	}
	rec := testutil.NewRecorder()
	return db, rec, newSite(db.Pool(), tasks.NewClient(rec), "").handler(t.Context())
}

func post(handler http.Handler, name, email string, header http.Header) *httptest.ResponseRecorder {
	form := url.Values{"name": {name}, "email": {email}}
	request := httptest.NewRequest(http.MethodPost, "/signup", strings.NewReader(form.Encode()))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	maps.Copy(request.Header, header)
	response := httptest.NewRecorder()
	handler.ServeHTTP(response, request)
	return response
}
