package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Somebody signs up in a browser, sees a job retried, and the mail arrive, while the page keeps
// what they do with it.
func TestPage(t *testing.T) {
	t.Parallel()
	browser := startChromium(t)
	db := pgtest.Empty(t)
	service := startRole(t, config{role: "all", databaseURL: db.URL})
	holdJobs(t, db)
	browser.look(1280, "light")
	browser.open(service.url)
	if text := eval[string](browser, `document.querySelector("#empty").innerText`); !strings.Contains(text, "No mail yet") {
		t.Errorf("the empty outbox says %q", text)
	}
	browser.keepScreenshot("empty")
	browser.signUp("Ada Lovelace", "ada@example.com")
	browser.until(`document.querySelector("h1").innerText == "Thanks, Ada Lovelace."`)
	eval[any](browser, `window.notReloaded = true`)
	browser.until(`document.querySelector("#retrying .job")?.innerText.match(/attempt 2, next in \d+\.\d s/)`)
	browser.until(`document.querySelector("#mails .mail h3")?.innerText == "Welcome"`)
	browser.keepScreenshot("retrying")
	eval[any](browser, `{
		document.body.style.minHeight = "300vh";
		scrollTo(0, 40);
		getSelection().selectAllChildren(document.querySelector("#mails .body"));
	}`)
	selected := eval[string](browser, `getSelection().toString()`)
	releaseJobs(t, db)
	browser.until(`document.querySelectorAll("#mails .mail").length == 4 && document.querySelector("#done .count").innerText == "7"`)
	if !strings.Contains(selected, "Hello Ada Lovelace,") {
		t.Errorf("the welcome mail says %q", selected)
	}
	if now := eval[string](browser, `getSelection().toString()`); now != selected {
		t.Errorf("selected was %q, and is now %q", selected, now)
	}
	if y := eval[float64](browser, `scrollY`); y < 40 { // it may be more: a browser holds still what one reads
		t.Errorf("the page was scrolled to 40, and is at %v", y)
	}
	if !eval[bool](browser, `window.notReloaded === true`) {
		t.Error("the page was loaded again")
	}
	want := "Tip 3 of 3, Tip 2 of 3, Tip 1 of 3, Welcome"
	if got := eval[string](browser, `Array.from(document.querySelectorAll("#mails h3"), (h) => h.innerText).join(", ")`); got != want {
		t.Errorf("the outbox has %s, want %s", got, want)
	}
	eval[any](browser, `{ document.body.style.minHeight = ""; getSelection().empty() }`)
	browser.keepScreenshot("thanks")
	browser.wantNoProblems("")

	browser.open(service.url)
	browser.signUp("Ada", "ADA@example.com")
	browser.until(`document.readyState == "complete" && document.activeElement?.matches("#email[aria-invalid=true]")`)
	problem := eval[string](browser, `document.getElementById(document.querySelector("#email").getAttribute("aria-describedby")).innerText`)
	if problem != "ada@example.com has signed up already" {
		t.Errorf("at the field is %q", problem)
	}
	browser.keepScreenshot("problem")
	browser.wantNoProblems("422 (Unprocessable Entity)")
}

// holdJobs makes jobs that are to run later, tips and retries, wait for most of a minute: however
// slow the machine is, the page shows them.
func holdJobs(t *testing.T, db *pgtest.Database) {
	t.Helper()
	_, err := db.Pool().Exec(t.Context(), `
		create function hold() returns trigger language plpgsql as $$
		begin
			if new.run_at > clock_timestamp() then
				new.run_at := clock_timestamp() + interval '59 seconds';
			end if;
			return new;
		end $$;
		create trigger hold before insert or update on backfill_example._private_jobs
			for each row execute function public.hold()`)
	if err != nil {
		t.Fatal(err)
	}
}

// releaseJobs ends what holdJobs has begun.
func releaseJobs(t *testing.T, db *pgtest.Database) {
	t.Helper()
	_, err := db.Pool().Exec(t.Context(), `
		drop trigger hold on backfill_example._private_jobs;
		update backfill_example._private_jobs set run_at = now()`)
	if err != nil {
		t.Fatal(err)
	}
}

// With jobs in all states, and texts as long as they can be and without a space, the page looks
// right in all sizes and themes.
func TestLooks(t *testing.T) {
	t.Parallel()
	browser := startChromium(t)
	empty := startRole(t, config{role: "web", databaseURL: pgtest.Empty(t).URL})
	browser.look(1280, "light")
	browser.open(empty.url)
	wantLooks(browser, "empty")

	db := pgtest.New(t, pgtest.WithSchema(schema))
	full := startRole(t, config{role: "web", databaseURL: db.URL})
	client, err := backfill.NewClient(t.Context(), db.Pool(), backfill.WithSchema(schema))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	long, email := strings.Repeat("W", 200), strings.Repeat("w", 63)+"@"+strings.Repeat("w", 63)+".example.com"
	stateJobs(t, db, client, long)
	_, err = db.Pool().Exec(t.Context(), `
		insert into backfill_example.subscribers (name, email) values ($1, $2)`, long, email)
	if err == nil {
		_, err = db.Pool().Exec(t.Context(), `
			insert into backfill_example.outbox (message_id, recipient, subject, body) values ($1, $2, $1, $1), ('', '', '', '')`, long, email)
	}
	if err == nil {
		_, err = db.Pool().Exec(t.Context(), "insert into backfill_example.done_jobs values (1000, $1, $1, 7, 1e13)", long)
	}
	if err != nil {
		t.Fatal(err)
	}
	browser.open(full.url + "/?signed_up=1")
	if n := eval[int](browser, `document.querySelectorAll(".job").length`); n != 8 {
		t.Errorf("%d jobs are shown, want 8", n)
	}
	wantLooks(browser, "full")
	browser.open(full.url)
	browser.signUp(strings.Repeat("W", 100), email)
	browser.until(`document.readyState != "loading" && document.querySelector("#email-problem")`)
	wantLooks(browser, "problem")
}

func (c *chromium) signUp(name, email string) {
	c.t.Helper()
	c.typeInto("#name", name)
	c.typeInto("#email", email)
	eval[any](c, `document.querySelector("form button").click()`)
}

// wantLooks looks at the page in all sizes and themes: nothing overflows, buttons are high enough,
// and texts have enough contrast.
func wantLooks(c *chromium, state string) {
	c.t.Helper()
	for _, width := range []int{360, 640, 768, 1024, 1280} {
		for _, theme := range []string{"light", "dark"} {
			c.look(width, theme)
			name := fmt.Sprintf("%s-%d-%s", state, width, theme)
			for _, fault := range eval[[]string](c, faultsOfLooks) {
				c.t.Errorf("%s: %s", name, fault)
			}
			c.keepScreenshot(name)
		}
	}
}

// faultsOfLooks measures what the WCAG ask for, at level AA: contrast of 4.5 to 1; and targets of
// 44 pixels.
const faultsOfLooks = `(() => {
	const faults = [];
	const root = document.documentElement;
	if (root.scrollWidth > innerWidth) faults.push("it is " + root.scrollWidth + " pixels wide");
	const channels = (color) => (color.match(/[\d.]+/g) ?? []).map(Number);
	const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
		.reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
	const contrast = (a, b) => (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05);
	const behind = (element) => {
		for (; element; element = element.parentElement) {
			const color = channels(getComputedStyle(element).backgroundColor);
			if (color.length == 3) return color;
		}
		return [255, 255, 255];
	};
	let texts = 0;
	for (const element of document.querySelectorAll("body *")) {
		const box = element.getBoundingClientRect();
		if (!box.width || !box.height || element.closest("noscript")) continue;
		const what = element.tagName.toLowerCase() + " " + element.className + " " + element.innerText?.slice(0, 30);
		let parent = element.parentElement;
		while (getComputedStyle(parent).display == "contents") parent = parent.parentElement; // it has no box
		const around = parent.getBoundingClientRect();
		if (box.left < around.left - 1 || box.right > around.right + 1 || box.bottom > around.bottom + 1) faults.push(what + ": sticks out");
		if (element.matches("button, a, input") && box.height < 44) faults.push(what + ": " + box.height + " pixels high");
		const direct = Array.from(element.childNodes).some((node) => node.nodeType == Node.TEXT_NODE && node.data.trim());
		if (!direct && !element.matches("input")) continue;
		texts++;
		const ratio = contrast(channels(getComputedStyle(element).color), behind(element));
		if (ratio < 4.5) faults.push(what + ": contrast " + ratio.toFixed(2));
	}
	if (texts < 10) faults.push("only " + texts + " texts were looked at");
	return faults;
})()`
