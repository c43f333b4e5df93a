package programs_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// built is the folder of the programs.
var built string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (code int, err error) {
	if built, err = os.MkdirTemp("", "backfill-programs"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(built)
	if out, err := exec.Command("go", "build", "-o", built, "./web", "./worker").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	return m.Run(), nil
}

// process is a program that runs.
type process struct {
	url   string // of what it serves; "" until listening was called
	cmd   *exec.Cmd
	spans bytes.Buffer
	lines chan map[string]any // of its log; closed at its end
}

// start runs a program with these variables, and ends it with the test.
func start(t *testing.T, name string, args []string, env ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(filepath.Join(built, name), args...), lines: make(chan map[string]any, 10_000)} //nolint:noctx // stop ends it
	p.cmd.Env = append(os.Environ(), append([]string{"ADDR=127.0.0.1:0"}, env...)...)
	p.cmd.Stdout = &p.spans
	log, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	go p.read(log)
	return p
}

func (p *process) read(log io.Reader) {
	defer close(p.lines)
	for scanner := bufio.NewScanner(log); scanner.Scan(); {
		line := map[string]any{}
		if json.Unmarshal(scanner.Bytes(), &line) != nil {
			line["msg"] = scanner.Text()
		}
		p.lines <- line
	}
}

// listening waits until the program serves.
func (p *process) listening(t *testing.T) *process {
	t.Helper()
	p.url = fmt.Sprint("http://", p.await(t, "listening")["address"])
	return p
}

// await returns the next line of the log with this message.
func (p *process) await(t *testing.T, message string) map[string]any {
	t.Helper()
	deadline := time.After(time.Minute)
	var before []any
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				t.Fatalf("it ended without %q in its log, but %v", message, before)
			}
			if line["msg"] == message {
				return line
			}
			before = append(before, line)
		case <-deadline:
			t.Fatalf("no %q in its log for a minute, but %v", message, before)
		}
	}
}

// terminate sends SIGTERM.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// wait returns the exit code, and the rest of the log.
func (p *process) wait(t *testing.T) (code int, log string) {
	t.Helper()
	deadline := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
	defer deadline.Stop()
	var rest strings.Builder
	for line := range p.lines {
		fmt.Fprintln(&rest, line)
	}
	_ = p.cmd.Wait() // the code says it
	return p.cmd.ProcessState.ExitCode(), rest.String()
}

// stop ends the program as platforms do, and wants exit code 0.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.terminate(t)
	if code, log := p.wait(t); code != 0 {
		t.Errorf("exit code %d: %s", code, log)
	}
}

// status returns the code and the text of the answer to a request.
func (p *process) status(t *testing.T, method, path, body string, headers ...string) (code int, text string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, strings.TrimSpace(string(answer))
}

// order places an order of one piece, and wants it to be new.
func (p *process) order(t *testing.T, id, customer string, headers ...string) {
	t.Helper()
	if code, text := p.status(t, http.MethodPut, "/orders/"+id, orderOf(customer, 1), headers...); code != http.StatusCreated {
		t.Fatalf("order %s: %d %s", id, code, text)
	}
}

func orderOf(customer string, quantity int) string {
	return fmt.Sprintf(`{"customer": %q, "quantity": %d}`, customer, quantity)
}

// rows returns the first column of a query, as texts.
func rows(t *testing.T, pool *pgxpool.Pool, query string, args ...any) string {
	t.Helper()
	var list *string
	if err := pool.QueryRow(t.Context(), "select string_agg(value, ' ' order by value) from ("+query+") as _(value)", args...).Scan(&list); err != nil {
		t.Fatal(err)
	}
	if list == nil {
		return ""
	}
	return *list
}

// until waits for something that no event tells.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}
