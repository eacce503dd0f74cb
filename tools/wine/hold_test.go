//go:build linux

package wine

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cetrus/cetrus/agent/uplink/uplinktest"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

func id(n byte) []byte { return append(make([]byte, 15), n) }

// holding is a policy under which one program waits for a project, on a login that
// several people share.
func holding() *policyv1.Policy {
	return &policyv1.Policy{
		AccountId: id(1), Revision: 3, PauseAllowed: true,
		Applications: []*policyv1.ApplicationPolicy{{
			ApplicationId: id(10), DisplayName: "Ticker", Rules: []*policyv1.Rule{{RuleId: id(50), Executable: "ticker.exe"}},
			ActivityGap: durationpb.New(30 * time.Second), Timeout: durationpb.New(30 * time.Minute),
			ProjectPrompt: &policyv1.ProjectPrompt{Enabled: true, HoldsLaunch: true},
		}},
		ExpenseToProject: &policyv1.ExpenseToProject{
			Fields: []*policyv1.PromptField{
				{Key: "project", Label: "Project", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_PROJECT, Required: true},
				{Key: "phase", Label: "Phase", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_CHOICE, Options: []string{"Draft", "On site"}},
			},
			Projects:     []*policyv1.PromptProject{{ProjectId: id(70), Label: "2024-017 Pier 3"}, {ProjectId: id(71), Label: "2024-018 Quay"}},
			SharedLogins: []string{"*"},
			Workers:      []*policyv1.PromptWorker{{WorkerId: id(90), Label: "Ada Obi"}, {WorkerId: id(91), Label: "Marek Dvořák"}},
		},
	}
}

// pids are the processes of this prefix whose command line holds the words.
func (w *Wine) pids(words string) (all []int) {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !strings.Contains(strings.ReplaceAll(string(line), "\x00", " "), words) {
			continue
		}
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !bytes.Contains(env, []byte("WINEPREFIX="+w.prefix+"\x00")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// ticker is a running program that counts in a file.
type ticker struct {
	w    *Wine
	file string
}

func (w *Wine) tick(t *testing.T, program, name string) *ticker {
	t.Helper()
	cmd := w.Command(t.Context(), program, `C:\`+name)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }() // it ends with the desktop
	return &ticker{w, w.C(name)}
}

func (p *ticker) ticks() int {
	text, err := os.ReadFile(p.file)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

// stands waits until the program does not count for a while.
func (p *ticker) stands(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "the program to stand still", func() (string, bool) {
		before := p.ticks()
		<-time.After(700 * time.Millisecond) // it would count 35 times
		after := p.ticks()
		return fmt.Sprint(before, " → ", after), before == after
	})
}

func (p *ticker) goesOn(t *testing.T) {
	t.Helper()
	held := p.ticks()
	eventually(t, time.Minute, "the program to go on", func() (string, bool) {
		n := p.ticks()
		return fmt.Sprint(held, " → ", n), n > held+2
	})
}

// serve installs and starts the agent's service, and waits until it asks for the projects of an
// application, and until its icon is there: the window that Wine opens for that takes the keyboard.
func (w *Wine) serve(t *testing.T, manager *uplinktest.Manager, agent, data, application string) {
	t.Helper()
	w.Run(time.Minute, agent, "install", "--manager", manager.Address(), "--data-dir", data)
	w.Run(time.Minute, agent, "start")
	eventually(t, time.Minute, "the service to be well", func() (string, bool) {
		out, err := w.Try(20*time.Second, agent, "status", "--data-dir", data)
		return out, err == nil && strings.Contains(out, "expense-to-project") && strings.Contains(out, application) && !blind(out)
	})
	eventually(t, time.Minute, "its icon", func() (string, bool) {
		out, err := w.xdo("search", "--onlyvisible", "--name", trayTitle)
		return out, err == nil
	})
}

// A launch is held on Windows until somebody has chosen, and what they chose reaches the
// Manager. The prompt is started by the service in the person's session. A service that dies
// takes its prompt along, and the next one lets go what it had held.
func TestALaunchIsHeldOnWindows(t *testing.T) {
	t.Parallel()
	w := Start(t)
	manager, err := uplinktest.New(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(manager.Stop)
	manager.SetPolicy(holding())
	agent := w.Build("agent", "./cmd/cetrus-agent", "cetrus-agent.exe", false)
	program := w.Build("tools", "./wine/ticker", "ticker.exe", false)
	const data = `C:\agent data`
	w.serve(t, manager, agent, data, "Ticker")
	const title = "Project: Ticker"

	first := w.tick(t, program, "first.txt")
	w.focused(t, title)
	w.shoot("held")
	first.stands(t)
	w.Do("key", "Escape")
	first.stands(t)
	// Who, and which project; the phase may stay empty.
	for _, keys := range [][]string{{"type", "--delay", "40", "Marek"}, {"key", "Tab"}, {"type", "--delay", "40", "quay"}, {"key", "Return"}} {
		w.Do(keys...)
	}
	first.goesOn(t)
	chosen := func(n int) *usagev1.Choice {
		t.Helper()
		var all []*usagev1.Choice
		eventually(t, time.Minute, "the choice at the Manager", func() (string, bool) {
			all = manager.Choices()
			return fmt.Sprint(all), len(all) == n
		})
		return all[n-1]
	}
	if c := chosen(1); !bytes.Equal(c.GetProjectId(), id(71)) || !bytes.Equal(c.GetWorkerId(), id(91)) {
		t.Errorf("the choice is %v", c)
	}

	// The service dies while another start waits.
	second := w.tick(t, program, "second.txt")
	w.focused(t, title)
	second.stands(t)
	first.goesOn(t)
	for _, pid := range w.pids("cetrus-agent.exe run") {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	eventually(t, time.Minute, "the prompt to go with its service", func() (string, bool) {
		n := w.Running("cetrus-agent.exe prompt")
		return fmt.Sprint(n, " prompts"), n == 0
	})
	second.stands(t)
	// Wine's service manager does not see that its service was killed.
	next := w.Command(t.Context(), agent, "run", "--manager", manager.Address(), "--data-dir", data)
	if err := next.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = next.Wait() }() // it ends with the desktop
	second.goesOn(t)
	for _, problem := range manager.Problems() {
		t.Error(problem)
	}
}
