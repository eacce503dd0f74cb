//go:build linux

package wine

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent/prompt"
	"github.com/cetrus/cetrus/proto/expense"
)

func question() prompt.Request {
	return prompt.Request{
		Application: "FreeCAD", Document: "Pfeiler 3 – Übersicht.FCStd",
		Fields: []prompt.Field{
			{Key: "project", Label: "Project", Kind: prompt.Project, Required: true, Value: "p2", Options: []prompt.Option{
				{ID: "p1", Label: "2024-017 Pier 3, Hafen"},
				{ID: "p2", Label: "2024-018 Мост через Неву"},
				{ID: "p3", Label: "2025-001 Γέφυρα"},
				{ID: "p4", Label: "2025-002 Čapkův most"},
			}},
			{Key: "phase", Label: "Phase", Kind: prompt.Choice, Options: []prompt.Option{
				{ID: "draft", Label: "Draft"}, {ID: "detail", Label: "Detailed design"}, {ID: "site", Label: "On site"},
			}},
			{Key: "note", Label: "Note", Kind: prompt.Text},
		},
	}
}

// promptTitle is what the window of a question is called.
const promptTitle = "Project: FreeCAD"

// asked is how a prompt has ended.
type asked struct {
	answer prompt.Answer
	err    error
}

// ask shows a question by the Windows program.
func (w *Wine) ask(t *testing.T, agent, scale string, r prompt.Request) (<-chan asked, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	command := w.Command(context.WithoutCancel(ctx), agent, "prompt")
	command.Env = append(command.Env, "CETRUS_PROMPT_SCALE="+scale)
	done := make(chan asked, 1)
	go func() {
		answer, err := prompt.Ask(ctx, prompt.Command(command), r)
		done <- asked{answer, err}
	}()
	t.Cleanup(cancel)
	return done, cancel
}

// xdo runs xdotool on the desktop.
func (w *Wine) xdo(args ...string) (string, error) {
	cmd := exec.Command("xdotool", args...)
	cmd.Env = w.Env
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Do runs xdotool and fails the test where it fails.
func (w *Wine) Do(args ...string) string {
	w.tb.Helper()
	out, err := w.xdo(args...)
	if err != nil {
		w.tb.Fatalf("xdotool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// focused waits until the window of that title has the keyboard. The window manager does not
// always give it to a window that comes while another one is closed by a key: then the person turns
// to it.
func (w *Wine) focused(t *testing.T, title string) {
	t.Helper()
	eventually(t, time.Minute, "the keyboard at "+title, func() (string, bool) {
		out, err := w.xdo("getwindowfocus", "getwindowname")
		if err == nil && out != title {
			if _, err := w.xdo("search", "--onlyvisible", "--name", "^"+regexp.QuoteMeta(title)+"$", "windowactivate"); err != nil {
				out += ", and it is not shown"
			}
		}
		return out, err == nil && out == title
	})
}

func result(t *testing.T, done <-chan asked) asked {
	t.Helper()
	select {
	case a := <-done:
		return a
	case <-time.After(time.Minute):
		t.Fatal("the prompt did not end")
		return asked{}
	}
}

// shoot keeps a picture of the screen for a person to look at, where CETRUS_TEST_SHOTS
// says so.
func (w *Wine) shoot(name string) {
	dir := os.Getenv("CETRUS_TEST_SHOTS")
	if dir == "" {
		return
	}
	cmd := exec.Command("xwd", "-root", "-silent", "-out", filepath.Join(dir, name+".xwd"))
	cmd.Env = w.Env
	if out, err := cmd.CombinedOutput(); err != nil {
		w.tb.Logf("no picture %s, a window has just gone: %v\n%s", name, err, out)
	}
}

// What people press in the prompt on Windows is what comes out.
func TestPromptOnWindows(t *testing.T) {
	t.Parallel()
	w := Start(t)
	agent := w.Build("agent", "./cmd/cetrus-agent", "cetrus-agent.exe", false)
	for _, c := range []struct {
		name    string
		scale   string
		change  func(*prompt.Request)
		keys    [][]string
		outcome prompt.Outcome
		values  map[string]string
		forAll  bool
	}{
		{name: "one Enter", keys: [][]string{{"key", "Return"}}, outcome: prompt.Chosen, values: map[string]string{"project": "p2"}},
		{name: "Escape", keys: [][]string{{"key", "Escape"}}, outcome: prompt.Later},
		{name: "closed", keys: [][]string{{"key", "alt+F4"}}, outcome: prompt.Later},
		{name: "not chargeable", keys: [][]string{{"key", "alt+n"}}, outcome: prompt.NotChargeable},
		{
			name: "write and choose", scale: "2",
			keys:    [][]string{{"type", "--delay", "40", "capk"}, {"key", "Tab"}, {"key", "Down"}, {"key", "Down"}, {"key", "Tab"}, {"type", "--delay", "40", "Quay No. 7, (draft) @3%"}, {"key", "ctrl+a"}, {"type", "--delay", "40", "Again"}, {"key", "Return"}},
			outcome: prompt.Chosen, values: map[string]string{"project": "p4", "phase": "detail", "note": "Again"},
		},
		{
			name: "own words", change: func(r *prompt.Request) { r.ProposeAllowed = true },
			keys:    [][]string{{"type", "--delay", "40", "New bridge"}, {"key", "Return"}},
			outcome: prompt.Chosen, values: map[string]string{"project": "New bridge"},
		},
		{
			name: "it waits", change: func(r *prompt.Request) { r.Waiting = true; r.Fields[0].Value = "" },
			keys:    [][]string{{"key", "Escape"}, {"key", "alt+F4"}, {"key", "Return"}, {"key", "shift+Tab"}, {"key", "Return"}},
			outcome: prompt.NotChargeable,
		},
		{
			// Enter does not accept what is not valid, neither does the second one.
			name: "not valid", change: func(r *prompt.Request) {
				r.Fields[2] = prompt.Field{
					Key: "order", Label: "Order", Kind: prompt.Text, Required: true,
					Limits: expense.Limits{Pattern: `[A-Z]{2}\d{4}`, Message: "Two capital letters and four digits, for example AB1234."},
				}
				r.Others = 11
			},
			keys:    [][]string{{"type", "--delay", "40", "ab12"}, {"key", "Return"}, {"key", "Return"}, {"type", "--delay", "40", "AB1234"}, {"key", "alt+s"}, {"key", "Return"}},
			outcome: prompt.Chosen, values: map[string]string{"project": "p2", "order": "AB1234"}, forAll: true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := question()
			if c.change != nil {
				c.change(&r)
			}
			done, _ := w.ask(t, agent, c.scale, r)
			w.focused(t, promptTitle)
			for n, k := range c.keys {
				w.Do(k...)
				w.shoot(fmt.Sprintf("%s-%d", strings.ReplaceAll(c.name, " ", "-"), n))
			}
			a := result(t, done)
			if a.err != nil {
				t.Fatal(a.err)
			}
			if a.answer.Outcome != c.outcome || !maps.Equal(a.answer.Values, c.values) || a.answer.ForAll != c.forAll {
				t.Errorf("the answer is %+v, want %s %v", a.answer, c.outcome, c.values)
			}
		})
	}
	t.Run("by mouse", func(t *testing.T) {
		done, _ := w.ask(t, agent, "2", question())
		w.focused(t, promptTitle)
		// The project's list, its third entry, then Accept.
		window, _, _ := strings.Cut(w.Do("search", "--onlyvisible", "--name", "^"+promptTitle+"$"), "\n")
		for n, at := range [][2]string{{"200", "210"}, {"200", "380"}, {"120", "630"}} {
			w.Do("mousemove", "--window", window, at[0], at[1], "click", "1")
			w.shoot(fmt.Sprintf("mouse-%d", n))
		}
		if a := result(t, done); a.err != nil || a.answer.Outcome != prompt.Chosen || a.answer.Values["project"] != "p3" {
			t.Errorf("%+v, %v", a.answer, a.err)
		}
	})
	t.Run("taken back", func(t *testing.T) {
		done, cancel := w.ask(t, agent, "1", question())
		w.focused(t, promptTitle)
		cancel()
		if a := result(t, done); a.err == nil {
			t.Errorf("a question that was taken back was answered: %+v", a.answer)
		}
		eventually(t, 30*time.Second, "the prompt to end", func() (string, bool) {
			n := w.Running("cetrus-agent.exe prompt")
			return fmt.Sprint(n, " processes"), n == 0
		})
	})
}
