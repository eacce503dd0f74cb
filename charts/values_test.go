package charts

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// value is one that may be set.
type value struct {
	path      []string
	about     string
	otherwise string
}

// known are all values of a chart, in the order of their file. What an operator or Kubernetes
// itself defines is one value.
func known(t *testing.T, chart string) []value {
	t.Helper()
	text, err := os.ReadFile(chart + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	var all []value
	var walk func(path []string, node *yaml.Node)
	walk = func(path []string, node *yaml.Node) {
		for n := 0; n < len(node.Content); n += 2 {
			key, at := node.Content[n], node.Content[n+1]
			below := append(path[:len(path):len(path)], key.Value)
			if at.Kind == yaml.MappingNode && at.Style != yaml.FlowStyle {
				walk(below, at)
				continue
			}
			var plain any
			if err := at.Decode(&plain); err != nil {
				t.Fatal(err)
			}
			otherwise, err := json.Marshal(plain)
			if err != nil {
				t.Fatal(err)
			}
			// The file's own heading comes before the first value's.
			about := key.HeadComment[strings.LastIndex(key.HeadComment, "\n\n")+1:]
			all = append(all, value{below, strings.TrimSpace(strings.ReplaceAll(strings.TrimPrefix(strings.TrimSpace(about), "# "), "\n# ", " ")), string(otherwise)})
		}
	}
	walk(nil, document.Content[0])
	return all
}

// tables are the paths of all that holds values of the chart's own, the root among them.
func tables(t *testing.T, chart string) [][]string {
	t.Helper()
	seen := map[string]bool{}
	all := [][]string{nil}
	for _, v := range known(t, chart) {
		for n := 1; n < len(v.path); n++ {
			if name := strings.Join(v.path[:n], "."); !seen[name] {
				seen[name] = true
				all = append(all, v.path[:n])
			}
		}
	}
	return all
}

// Every value says what it means, the README's table is made of that, and the schema knows those
// values and no others.
func TestValuesAreDocumented(t *testing.T) {
	for chart := range both {
		var table strings.Builder
		table.WriteString("| value | default | meaning |\n| --- | --- | --- |\n")
		named := map[string]bool{}
		for _, v := range known(t, chart) {
			name := strings.Join(v.path, ".")
			named[name] = true
			if v.about == "" || !strings.HasSuffix(v.about, ".") {
				t.Errorf("%s: %s does not say what it means: %q", chart, name, v.about)
			}
			fmt.Fprintf(&table, "| `%s` | `%s` | %s |\n", name, v.otherwise, strings.ReplaceAll(v.about, "|", `\|`))
		}
		readme, err := os.ReadFile(chart + "/README.md")
		if err != nil {
			t.Fatal(err)
		}
		parts := regexp.MustCompile(`(?s)^(.*<!-- values -->\n).*(<!-- /values -->\n.*)$`).FindSubmatch(readme)
		if parts == nil {
			t.Fatalf("%s/README.md has no place for the values", chart)
		}
		same(t, chart+"/README.md", append(append(parts[1], table.String()...), parts[2]...))

		for name := range inSchema(t, chart) {
			if !named[name] && name != "global" {
				t.Errorf("%s: the schema knows %s, which values.yaml does not have", chart, name)
			}
			delete(named, name)
		}
		for name := range named {
			t.Errorf("%s: the schema does not know %s", chart, name)
		}
	}
}

// inSchema are the values that a chart's schema names.
func inSchema(t *testing.T, chart string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(chart + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	type node struct {
		Properties           map[string]json.RawMessage `json:"properties"`
		AdditionalProperties *bool                      `json:"additionalProperties"`
	}
	all := map[string]bool{}
	var walk func(path string, text json.RawMessage)
	walk = func(path string, text json.RawMessage) {
		var n node
		whole := json.Unmarshal(text, &n) != nil || n.AdditionalProperties == nil
		for _, v := range known(t, chart) {
			whole = whole || strings.Join(v.path, ".") == path
		}
		if whole {
			all[path] = true
			return
		}
		for key, below := range n.Properties {
			walk(strings.TrimPrefix(path+"."+key, "."), below)
		}
	}
	walk("", text)
	return all
}
