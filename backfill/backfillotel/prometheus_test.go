package backfillotel_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/needs"
)

const monitoring = "../../docs/monitoring/"

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// prometheusServer is Debian's, with the rules of docs/monitoring made faster.
type prometheusServer struct {
	*testing.T

	url string
}

// faster divides the times of rules, and their thresholds that are times, so that a test needs not
// wait for minutes.
func faster(rules string, by int) string {
	divided := func(seconds int, unit string) string {
		seconds *= map[string]int{"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
		return strconv.Itoa(max(seconds/by, 1)) + "s"
	}
	rules = regexp.MustCompile(`(\[|for: )(\d+)([smhd])\b`).ReplaceAllStringFunc(rules, func(s string) string {
		m := regexp.MustCompile(`(\[|for: )(\d+)([smhd])`).FindStringSubmatch(s)
		n, _ := strconv.Atoi(m[2])
		return m[1] + divided(n, m[3])
	})
	return regexp.MustCompile(`> (\d+) # s`).ReplaceAllStringFunc(rules, func(s string) string {
		n, _ := strconv.Atoi(strings.Fields(s)[1])
		return fmt.Sprintf("> %v # s", float64(n)/float64(by))
	})
}

// startPrometheus scrapes targets, by job, every 2 seconds.
func startPrometheus(t *testing.T, by int, jobs map[string][]string) *prometheusServer {
	t.Helper()
	needs.Program(t, "prometheus")
	dir, addr := t.TempDir(), "127.0.0.1:"+dbtest.FreePort(t)
	config := "global: {scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 1s}\nrule_files: [rules.yml]\nscrape_configs:\n"
	for job, targets := range jobs {
		config += fmt.Sprintf("  - job_name: %s\n    static_configs: [{targets: ['%s']}]\n", job, strings.Join(targets, "', '"))
	}
	for name, text := range map[string]string{"prometheus.yml": config, "rules.yml": faster(read(t, monitoring+"rules.yml"), by)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", //nolint:noctx,gosec // it is killed below
		"--web.listen-address="+addr, "--log.level=warn")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		if t.Failed() {
			t.Logf("prometheus:\n%s", read(t, filepath.Join(dir, "log")))
		}
	})
	p := &prometheusServer{t, "http://" + addr}
	dbtest.Until(t, func() bool {
		response, err := http.Get(p.url + "/-/ready") //nolint:noctx // a test's
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return p
}

// get reads the data of an answer of Prometheus's API.
func (p *prometheusServer) get(path string, query url.Values, data any) error {
	response, err := http.Get(p.url + "/api/v1/" + path + "?" + query.Encode()) //nolint:noctx // a test's
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return errors.New(answer.Error)
	}
	return nil
}

// query returns the values that an expression has now, by its labels.
func (p *prometheusServer) query(expr string) (map[string]float64, error) {
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	if err := p.get("query", url.Values{"query": {expr}}, &data); err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	values := map[string]float64{}
	for _, r := range data.Result {
		text, _ := r.Value[1].(string)
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, err
		}
		values[fmt.Sprint(r.Metric)] = n
	}
	return values, nil
}

// firing are the alerts of a job that fire.
func (p *prometheusServer) firing(job string) (names []string) {
	p.Helper()
	var data struct {
		Alerts []struct {
			Labels map[string]string
			State  string
		}
	}
	if err := p.get("alerts", nil, &data); err != nil {
		p.Fatal(err)
	}
	for _, a := range data.Alerts {
		if a.State == "firing" && a.Labels["job"] == job && !slices.Contains(names, a.Labels["alertname"]) {
			names = append(names, a.Labels["alertname"])
		}
	}
	slices.Sort(names)
	return names
}

// everFired are the alerts of a job that have ever fired.
func (p *prometheusServer) everFired(job string) []string {
	p.Helper()
	values, err := p.query(fmt.Sprintf(`count by (alertname) (count_over_time(ALERTS{alertstate="firing",job=%q}[1h]))`, job))
	if err != nil {
		p.Fatal(err)
	}
	var names []string
	for labels := range values {
		names = append(names, labels)
	}
	return names
}

// alerts are the rules of docs/monitoring, by name: their expressions and companions.
func alerts(t *testing.T) map[string]struct{ expr, companion string } {
	t.Helper()
	found := map[string]struct{ expr, companion string }{}
	for _, rule := range strings.Split(read(t, monitoring+"rules.yml"), "- alert: ")[1:] {
		name, rest, _ := strings.Cut(rule, "\n")
		_, expr, _ := strings.Cut(rest, "expr: |\n")
		expr, _, _ = strings.Cut(expr, "\n        for:")
		expr, _, _ = strings.Cut(expr, "\n        labels:")
		companion := ""
		if m := regexp.MustCompile(`companion: (\w+)`).FindStringSubmatch(rest); m != nil {
			companion = m[1]
		}
		found[name] = struct{ expr, companion string }{strings.TrimSpace(expr), companion}
	}
	return found
}

// panels are the queries of the dashboard, with its variables filled in.
func panels(t *testing.T, job string) (queries []string) {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, monitoring+"dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			queries = append(queries, strings.NewReplacer("$job", job, "$__rate_interval", "15s").Replace(target.Expr))
		}
	}
	return queries
}

var metricName = regexp.MustCompile(`\b(?:backfill|messaging)_[a-z_]*[a-z]\b`)

// metricNames are the names of metrics in an expression: no labels.
func metricNames(expr string) (names []string) {
	expr = regexp.MustCompile(`#.*`).ReplaceAllString(expr, "")
	expr = regexp.MustCompile(`\b(?:by|on|without|ignoring) \([^)]*\)|[a-z_]+(?:!?=~?)"[^"]*"|\{\{[^}]*\}\}`).ReplaceAllString(expr, "")
	return metricName.FindAllString(expr, -1)
}

// Each alert has a companion for no data, which looks at something of the same source.
func TestAlertsHaveCompanions(t *testing.T) {
	t.Parallel()
	all := alerts(t)
	if len(all) < 10 {
		t.Fatalf("there are %d alerts", len(all))
	}
	for name, rule := range all {
		if strings.HasSuffix(name, "Gone") {
			continue
		}
		companion, ok := all[rule.companion]
		if !ok {
			t.Errorf("%s has no companion", name)
			continue
		}
		observed := func(expr string) bool {
			return strings.Contains(expr, "_queue_") || strings.Contains(expr, "_fleet_") || strings.Contains(expr, "_observer_")
		}
		if observed(rule.expr) != observed(companion.expr) {
			t.Errorf("%s and its companion %s are about series of different sources", name, rule.companion)
		}
	}
}

// promtool accepts the rules.
func TestPromtoolAcceptsTheRules(t *testing.T) {
	t.Parallel()
	needs.Program(t, "promtool")
	out, err := exec.CommandContext(t.Context(), "promtool", "check", "rules", monitoring+"rules.yml").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "SUCCESS") {
		t.Errorf("%v: %s", err, out)
	}
}
