package command

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cetrus/cetrus/ctl/manifest"
)

func testSession() *session {
	return &session{World: World{In: strings.NewReader(""), Out: &bytes.Buffer{}, Err: &bytes.Buffer{}, Env: func(string) string { return "" }, Now: time.Now}}
}

// words splits a line as a shell does, as far as examples need it.
func words(line string) []string {
	var all []string
	var word strings.Builder
	quoted, begun := false, false
	for _, r := range line {
		switch {
		case r == '\'':
			quoted, begun = !quoted, true
		case r == ' ' && !quoted:
			if begun {
				all = append(all, word.String())
				word.Reset()
				begun = false
			}
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if begun {
		all = append(all, word.String())
	}
	return all
}

// check parses an example without running it.
func check(t *testing.T, line string) *cobra.Command {
	t.Helper()
	line, _, _ = strings.Cut(line, "|")
	line, _, _ = strings.Cut(line, ">")
	args := words(line)[1:]
	if args[0] == "completion" { // made by cobra when it runs
		return nil
	}
	root := testSession().root()
	c, rest, err := root.Find(args)
	if err != nil {
		t.Errorf("%s: %v", line, err)
		return nil
	}
	if err := c.ParseFlags(rest); err != nil {
		t.Errorf("%s: %v", line, err)
		return c
	}
	if err := c.ValidateArgs(c.Flags().Args()); err != nil {
		t.Errorf("%s: %v", line, err)
	}
	if c.PreRunE != nil {
		if err := c.PreRunE(c, nil); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	return c
}

// commands are all that can be typed.
func commands(c *cobra.Command, found map[string]*cobra.Command) {
	if len(c.Commands()) == 0 {
		found[c.CommandPath()] = c
	}
	for _, below := range c.Commands() {
		commands(below, found)
	}
}

// TestTheDocumentationIsRight: each line of docs/cetrusctl.md that begins with cetrusctl can be typed,
// each command is among them, and the files that it shows can be read.
func TestTheDocumentationIsRight(t *testing.T) {
	text, err := os.ReadFile("../../docs/cetrusctl.md")
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]*cobra.Command{}
	commands(testSession().root(), left)
	inside, yaml := "", ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = strings.TrimPrefix(line, "```")
		case inside == "yaml":
			yaml += line + "\n"
		case inside == "sh":
			if c := check(t, line); c != nil {
				delete(left, c.CommandPath())
			}
		}
	}
	for path := range left {
		t.Errorf("%s is not in docs/cetrusctl.md", path)
	}
	documents, err := manifest.Decode("docs/cetrusctl.md", []byte(yaml))
	kinds := map[string]bool{}
	for _, d := range documents {
		kinds[d.Kind] = true
	}
	if err != nil || len(kinds) != len(manifest.Kinds()) {
		t.Errorf("%v; the page shows %v of %v", err, kinds, manifest.Kinds())
	}
}

// TestHelpIsRight: each example of --help can be typed, and each flag and command says what it is.
func TestHelpIsRight(t *testing.T) {
	all := map[string]*cobra.Command{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		all[c.CommandPath()] = c
		for _, below := range c.Commands() {
			walk(below)
		}
	}
	walk(testSession().root())
	for path, c := range all {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s says %q", path, c.Short)
		}
		for line := range strings.Lines(c.Example) {
			line = strings.TrimSpace(line)
			for part := range strings.SplitSeq(line, " ; ") {
				if at := strings.Index(part, "cetrusctl "); at >= 0 {
					check(t, part[at:])
				}
			}
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s says nothing", path, f.Name)
			}
		})
	}
}

func TestMistakesOfUsage(t *testing.T) {
	for line, want := range map[string]string{
		"gett applications":                      `there is no "gett" in cetrusctl, did you mean get?`,
		"get aplications":                        "did you mean applications?",
		"get applications --foo":                 "unknown flag: --foo",
		"get applications -o xml":                `"xml" is no output`,
		"get applications --limit -1":            "--limit",
		"apply":                                  "which files with -f",
		"login a b":                              "accepts at most 1 arg",
		"report use --period 7d --from 2026-1-1": "either --period or --from",
		"api PUT /x":                             "none of GET",
		"api GET x":                              "is no path",
		"api GET /x -q y":                        "NAME=VALUE",
		"api POST /x -d {":                       "no JSON",
		"report licences --price 1.234":          "digits behind the point",
		"report licences --price 1 --currency X": "is no currency",
		"report licences --refused 101":          "more than all",
		"report use --by colour":                 "none of application",
		"report demand --metric colour":          "none of user, machine",
	} {
		var out, problems bytes.Buffer
		world := World{In: strings.NewReader(""), Out: &out, Err: &problems, Now: time.Now, Env: func(name string) string {
			return map[string]string{"CETRUS_SERVER": "http://127.0.0.1:1", "CETRUS_API_KEY": "x"}[name]
		}}
		ctx, cancel := context.WithCancel(t.Context())
		if code := Run(ctx, world, words(line)); code != ExitUsage || !strings.Contains(problems.String(), want) {
			t.Errorf("%s ends with %d: %s; want %s", line, code, problems.String(), want)
		}
		cancel()
	}
}
