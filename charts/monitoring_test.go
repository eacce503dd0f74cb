package charts

import (
	"encoding/json"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// made are the names, as Prometheus has them, of all metrics that the programs make.
func made(t *testing.T) map[string]bool {
	t.Helper()
	_ = os.Getenv("CETRUS_SOURCES") // so that a change of them undoes Go's memory of this test's result
	// What the OpenTelemetry exporter makes of an instrument: dots are underscores, the unit follows,
	// and counters end in _total. Units in braces are for people.
	units := map[string]string{"s": "_seconds", "By": "_bytes"}
	names := map[string]bool{"up": true} // which Prometheus makes itself of whom it asks
	add := func(kind, name, unit string) {
		name = strings.ReplaceAll(name, ".", "_") + units[unit]
		switch {
		case strings.HasSuffix(kind, "Histogram"):
			for _, part := range []string{"_bucket", "_sum", "_count"} {
				names[name+part] = true
			}
		case strings.HasSuffix(kind, "Counter") && !strings.HasSuffix(kind, "UpDownCounter"):
			names[name+"_total"] = true
		default:
			names[name] = true
		}
	}
	instrument := regexp.MustCompile(`\.(?:Int64|Float64)((?:Observable)?(?:Counter|UpDownCounter|Histogram|Gauge))\("([a-z0-9_.]+)"`)
	// Where several are made alike: figures that are looked up, and those of the Manager.
	gauge, figure := regexp.MustCompile(`\.Gauge\("([a-z0-9_.]+)", "([^"]*)"`), regexp.MustCompile(`\{"(cetrus\.manager\.[a-z0-9_.]+)", "([^"]*)", "[^"]*", (true|false)`)
	unit := regexp.MustCompile(`WithUnit\("([^"]*)"\)`)
	for _, module := range []string{"../services", "../manager"} {
		err := filepath.WalkDir(module, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text := string(source)
			found := instrument.FindAllStringSubmatchIndex(text, -1)
			for n, at := range found {
				// Its options stand before the next one.
				until := min(at[1]+400, len(text))
				if n+1 < len(found) {
					until = min(until, found[n+1][0])
				}
				of := ""
				if u := unit.FindStringSubmatch(text[at[1]:until]); u != nil {
					of = u[1]
				}
				add(text[at[2]:at[3]], text[at[4]:at[5]], of)
			}
			for _, g := range gauge.FindAllStringSubmatch(text, -1) {
				add("Gauge", g[1], g[2])
			}
			for _, f := range figure.FindAllStringSubmatch(text, -1) {
				add(map[string]string{"true": "Counter", "false": "Gauge"}[f[3]], f[1], f[2])
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// asks checks that an expression is one, and that there is what it asks for.
func asks(t *testing.T, where, expression string, names map[string]bool) {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(strings.ReplaceAll(expression, "$namespace", Namespace))
	if err != nil {
		t.Errorf("%s: %v in %s", where, err, expression)
		return
	}
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok && !names[selector.Name] {
			t.Errorf("%s asks for %s, which nothing makes", where, selector.Name)
		}
		return nil
	})
}

// everyAlert are values with which there is every alert.
const everyAlert = "{metrics: {rules: {enabled: true}}, archive: {url: 's3://bucket/archive', secret: s}, backup: {url: 's3://bucket/backups'}}"

// alerts are the groups of rules that the chart gives to Prometheus.
func alerts(t *testing.T, of string) []rulefmt.RuleGroup {
	t.Helper()
	rendered, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, of)})
	if err != nil {
		t.Fatal(err)
	}
	var all []rulefmt.RuleGroup
	for _, object := range rendered.Objects {
		if object.GetKind() != "PrometheusRule" {
			continue
		}
		text, err := yaml.Marshal(object.Object["spec"])
		if err != nil {
			t.Fatal(err)
		}
		groups, problems := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
		for _, problem := range problems {
			t.Error(problem)
		}
		all = append(all, groups.Groups...)
	}
	return all
}

// Every alert is one that Prometheus takes, asks for metrics that there are, and has a page that
// says what to do; every page has its alert.
func TestAlerts(t *testing.T) {
	names, pages := made(t), make(map[string]bool)
	for _, group := range alerts(t, everyAlert) {
		for _, rule := range group.Rules {
			asks(t, rule.Alert, rule.Expr, names)
			if strings.Contains(rule.Expr, "[[") || !strings.Contains(rule.Expr, Namespace) {
				t.Errorf("%s is not of this release: %s", rule.Alert, rule.Expr)
			}
			if s := rule.Labels["severity"]; s != "warning" && s != "critical" {
				t.Errorf("%s is %q", rule.Alert, s)
			}
			if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("%s says nothing", rule.Alert)
			}
			page := rule.Alert + ".md"
			if !strings.HasSuffix(rule.Annotations["runbook_url"], "/docs/operations/"+page) {
				t.Errorf("the page of %s is %s", rule.Alert, rule.Annotations["runbook_url"])
			}
			if pages[page] {
				t.Errorf("%s is there twice", rule.Alert)
			}
			pages[page] = true
			text, err := os.ReadFile("../docs/operations/" + page)
			if err != nil {
				t.Error(err)
			}
			if !strings.HasPrefix(string(text), "# "+rule.Alert+"\n") || !strings.Contains(string(text), "**What to do**") {
				t.Errorf("the page of %s does not say what to do", rule.Alert)
			}
		}
	}
	if len(pages) == 0 {
		t.Fatal("there are no alerts")
	}
	there, err := filepath.Glob("../docs/operations/Cetrus*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range there {
		if !pages[filepath.Base(page)] {
			t.Errorf("%s is of no alert", page)
		}
	}
}

// No alert is of what this release does not have: it would be told for ever, or never.
func TestAlertsAreOfWhatIsThere(t *testing.T) {
	for name, without := range map[string]string{
		"CetrusLogUnavailable":     "nats: {enabled: false, url: 'tls://log.example.com:4222'}",
		"CetrusLogNearlyFull":      "nats: {enabled: false, url: 'tls://log.example.com:4222'}",
		"CetrusArchiveBehind":      "backup: {url: 's3://bucket/backups', secret: s}",
		"CetrusArchiveMissing":     "backup: {url: 's3://bucket/backups', secret: s}",
		"CetrusBackupLate":         "archive: {url: 's3://bucket/archive', secret: s}",
		"CetrusBackupWatchMissing": "archive: {url: 's3://bucket/archive', secret: s}",
	} {
		has := func(of string) (found, others bool) {
			for _, group := range alerts(t, of) {
				for _, rule := range group.Rules {
					found = found || rule.Alert == name
					others = others || rule.Alert == "CetrusCertificateEnds"
				}
			}
			return found, others
		}
		if found, _ := has(everyAlert); !found {
			t.Errorf("there is no %s", name)
		}
		if found, others := has("{metrics: {rules: {enabled: true}}, " + without + "}"); found || !others {
			t.Errorf("with %s there is %s (%t), and what every release has (%t)", without, name, found, others)
		}
	}
}

// Every panel asks for metrics that there are.
func TestDashboards(t *testing.T) {
	rendered, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, "metrics: {dashboards: {enabled: true}}")})
	if err != nil {
		t.Fatal(err)
	}
	names, boards := made(t), 0
	for _, object := range rendered.Objects {
		if object.GetKind() != "ConfigMap" {
			continue
		}
		for file, text := range object.Object["data"].(map[string]any) {
			boards++
			var board struct {
				UID, Title string
				Panels     []struct {
					ID      int
					Title   string
					GridPos struct{ X, Y, W, H int }
					Targets []struct{ Expr string }
				}
			}
			if err := json.Unmarshal([]byte(text.(string)), &board); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			seen := map[int]bool{}
			for _, panel := range board.Panels {
				if seen[panel.ID] || len(panel.Targets) == 0 || panel.GridPos.X+panel.GridPos.W > 24 {
					t.Errorf("%s: panel %d, %s, does not stand by itself", file, panel.ID, panel.Title)
				}
				seen[panel.ID] = true
				for _, target := range panel.Targets {
					asks(t, board.Title+", "+panel.Title, target.Expr, names)
				}
			}
			if board.UID == "" || len(board.Panels) == 0 {
				t.Errorf("%s is empty", file)
			}
		}
	}
	if boards != 3 {
		t.Errorf("there are %d dashboards", boards)
	}
}
