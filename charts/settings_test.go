package charts

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Programs leave variables alone that they do not know, so a setting that is misspelt here, or has another
// name there by now, would be no setting: each variable and flag of the charts is one that its program has.
func TestSettingsAreKnown(t *testing.T) {
	_ = os.Getenv("CETRUS_SOURCES") // so that a change of them undoes Go's memory of this test's result
	programs := map[string]struct {
		sources, prefix string
		define          *regexp.Regexp
	}{
		"cetrus":         {"../services/cmd/cetrus", "CETRUS_", regexp.MustCompile(`\.(?:String|Bool|Int|Int64|Duration|StringSlice)Var\(&[^,]+, "([a-z0-9-]+)"`)},
		"cetrus-manager": {"../manager/cmd/cetrus-manager", "CETRUS_MANAGER_", regexp.MustCompile(`\.(?:String|Bool|Int|Int64|Duration|StringSlice)(?:Var\(&[^,]+, |\()"([a-z0-9-]+)"`)},
	}
	for chart, program := range programs {
		known := map[string]bool{}
		files, err := filepath.Glob(program.sources + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range program.define.FindAllStringSubmatch(string(text), -1) {
				known[found[1]] = true
			}
		}
		for name, release := range releases(t) {
			if release.Chart != chart {
				continue
			}
			made, err := Render(t.Context(), release)
			if err != nil {
				t.Fatal(err)
			}
			for pod, spec := range pods(t, made) {
				for _, c := range append(spec.Spec.InitContainers, spec.Spec.Containers...) {
					for _, variable := range c.Env {
						setting, ours := strings.CutPrefix(variable.Name, program.prefix)
						if setting = strings.ToLower(strings.ReplaceAll(setting, "_", "-")); ours && !known[setting] {
							t.Errorf("%s: %s gives %s, and there is no setting %s", name, pod, variable.Name, setting)
						}
					}
					for _, argument := range c.Args {
						flag, is := strings.CutPrefix(argument, "--")
						if flag, _, _ = strings.Cut(flag, "="); is && !known[flag] {
							t.Errorf("%s: %s gives --%s, and there is no such flag", name, pod, flag)
						}
					}
				}
			}
		}
	}
}
