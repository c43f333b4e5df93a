package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/needs"
)

// chromium is a browser with one page, driven through a pipe by the DevTools protocol: JSON
// messages with a zero byte after each.
type chromium struct {
	t       *testing.T
	in      io.Writer
	session string

	mu       sync.Mutex
	calls    int
	waiting  map[int]chan reply
	problems []string // exceptions, and what the console or the content security policy complained about
	ended    error
}

type reply struct {
	ID     int
	Method string
	Result json.RawMessage
	Params json.RawMessage
	Error  *struct{ Message string }
}

// startChromium starts a browser that ends with the test.
func startChromium(t *testing.T) *chromium {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a process takes no pipes beyond the first three there")
	}
	program := ""
	names := []string{"chromium", "chromium-browser", "google-chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	needs.That(t, program != "", "Chromium (Debian's package chromium)")
	needs.Program(t, program)
	home := t.TempDir()
	cmd := exec.CommandContext(context.Background(), program, "--headless", "--remote-debugging-pipe", "--user-data-dir="+home,
		"--no-sandbox", // it opens our own page, and may be run by root
		"--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
		"--disable-extensions", "--disable-sync", "--no-first-run", "--no-startup-window",
		"--force-device-scale-factor=1")
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home, "TMPDIR="+home)
	theirIn, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr, cmd.ExtraFiles = &said, []*os.File{theirIn, theirOut}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirIn.Close()
	theirOut.Close()
	c := &chromium{t: t, in: in, waiting: map[int]chan reply{}}
	read := make(chan struct{})
	go func() {
		defer close(read)
		c.read(out)
	}()
	t.Cleanup(func() {
		in.Close() // it ends by that, and its children with it
		hung := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		hung.Stop()
		<-read
		out.Close()
		if t.Failed() {
			t.Logf("the end of what chromium said: %s", said.Bytes()[max(said.Len()-1000, 0):])
		}
	})
	c.openPage()
	return c
}

func (c *chromium) openPage() {
	c.t.Helper()
	var target struct{ TargetID string }
	c.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	c.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	c.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		c.call(domain+".enable", nil, nil)
	}
}

// read takes what the browser says, until it ends.
func (c *chromium) read(out io.Reader) {
	reader := bufio.NewReader(out)
	for {
		message, err := reader.ReadBytes(0)
		var r reply
		if err == nil {
			err = json.Unmarshal(bytes.TrimSuffix(message, []byte{0}), &r)
		}
		c.mu.Lock()
		switch {
		case err != nil:
			c.ended = fmt.Errorf("read what chromium says: %w", err)
			for _, answer := range c.waiting {
				close(answer)
			}
			c.mu.Unlock()
			return
		case r.ID > 0:
			c.waiting[r.ID] <- r
			delete(c.waiting, r.ID)
		case r.Method == "Runtime.exceptionThrown", r.Method == "Log.entryAdded", r.Method == "Runtime.consoleAPICalled":
			c.problems = append(c.problems, string(r.Params))
		}
		c.mu.Unlock()
	}
}

// call calls a method of the protocol.
func (c *chromium) call(method string, params map[string]any, result any) {
	c.t.Helper()
	if err := c.try(method, params, result); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chromium) try(method string, params map[string]any, result any) error {
	answer := make(chan reply, 1)
	c.mu.Lock()
	c.calls++
	id := c.calls
	message := map[string]any{"id": id, "method": method}
	if params != nil {
		message["params"] = params
	}
	if c.session != "" {
		message["sessionId"] = c.session
	}
	if c.ended != nil {
		close(answer)
	} else {
		c.waiting[id] = answer
	}
	c.mu.Unlock()
	text, err := json.Marshal(message)
	if err == nil {
		_, err = c.in.Write(append(text, 0))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case r, ok := <-answer:
		switch {
		case !ok:
			return fmt.Errorf("%s: chromium has ended", method)
		case r.Error != nil:
			return fmt.Errorf("%s: %s", method, r.Error.Message)
		case result == nil:
			return nil
		}
		return json.Unmarshal(r.Result, result)
	case <-time.After(time.Minute):
		return fmt.Errorf("%s: no answer for a minute", method)
	}
}

// eval returns what a JavaScript expression is in the page.
func eval[T any](c *chromium, expression string) (value T) {
	c.t.Helper()
	if err := c.evaluate(expression, &value); err != nil {
		c.t.Fatal(err)
	}
	return value
}

func (c *chromium) evaluate(expression string, value any) error {
	var got struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	params := map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true}
	if err := c.try("Runtime.evaluate", params, &got); err != nil {
		return err
	}
	if got.ExceptionDetails != nil {
		return fmt.Errorf("%s: %s", expression, got.ExceptionDetails)
	}
	if len(got.Result.Value) == 0 { // undefined
		return nil
	}
	return json.Unmarshal(got.Result.Value, value)
}

// until waits for an expression to become true. A page that is being left, or is not there yet, has
// no values.
func (c *chromium) until(expression string) {
	c.t.Helper()
	eventually(c.t, expression, func() (is bool) { return c.evaluate("!!("+expression+")", &is) == nil && is })
}

// open opens an address, and waits until the page is live.
func (c *chromium) open(url string) {
	c.t.Helper()
	c.call("Page.navigate", map[string]any{"url": url}, nil)
	c.until(`document.querySelector("#connection[data-state=live]")`)
}

// look sets the size of the window and the theme. Nothing moves meanwhile.
func (c *chromium) look(width int, theme string) {
	c.t.Helper()
	c.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	features := []map[string]any{{"name": "prefers-color-scheme", "value": theme}, {"name": "prefers-reduced-motion", "value": "reduce"}}
	c.call("Emulation.setEmulatedMedia", map[string]any{"features": features}, nil)
}

// typeInto types into a field, as a keyboard does.
func (c *chromium) typeInto(selector, text string) {
	c.t.Helper()
	eval[any](c, fmt.Sprintf(`{ const field = document.querySelector(%q); field.focus(); field.select() }`, selector))
	c.call("Input.insertText", map[string]any{"text": text}, nil)
}

// wantNoProblems fails the test if the page threw, or broke its content security policy. allowed
// may be among them.
func (c *chromium) wantNoProblems(allowed string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, problem := range c.problems {
		if allowed == "" || !strings.Contains(problem, allowed) {
			c.t.Errorf("the browser complains: %s", problem)
		}
	}
}

// keepScreenshot writes the whole page to the folder that EXAMPLE_TEST_SCREENSHOTS names, if it
// does.
func (c *chromium) keepScreenshot(name string) {
	c.t.Helper()
	folder := os.Getenv("EXAMPLE_TEST_SCREENSHOTS")
	if folder == "" {
		return
	}
	var shot struct{ Data string }
	c.call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err == nil {
		err = os.WriteFile(folder+"/"+name+".png", png, 0o600)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}
