package ctl

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"

	"github.com/cetrus/cetrus/ctl/command"
	"github.com/cetrus/cetrus/tools/desks"
	"github.com/cetrus/cetrus/tools/office"
	"github.com/cetrus/cetrus/tools/stack"
)

var update = flag.Bool("update", false, "write testdata anew")

// patience is how long anything may take on a busy machine.
const patience = 90 * time.Second

const password = "a horse reads 14 newspapers"

// desk is where cetrusctl is typed.
type desk struct {
	*stack.Platform
	binary, home string
	env          []string
}

func start(t *testing.T) (d *desk, once string) {
	t.Helper()
	dir := t.TempDir()
	cetrus, err := stack.Build(t.Context(), dir, "services/cmd/cetrus")
	if err != nil {
		t.Fatal(err)
	}
	binary, err := stack.Build(t.Context(), dir, "ctl/cmd/cetrusctl")
	if err != nil {
		t.Fatal(err)
	}
	p, err := stack.StartPlatform(t.Context(), cetrus, filepath.Join(dir, "platform"), filepath.Join(t.ArtifactDir(), "cetrus.log"), append(stack.Anywhere().Listen(), stack.Plaintext)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(30 * time.Second); err != nil {
			t.Error(err)
		}
	})
	text, err := os.ReadFile(filepath.Join(dir, "platform", "admin-password"))
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	return &desk{p, binary, home, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TERM=xterm", "CETRUS_CONFIG=" + filepath.Join(home, "c.yaml")}}, strings.TrimSpace(string(text))
}

// said is what a run of cetrusctl came to.
type said struct {
	out, err string
	code     int
}

// with has more in its environment.
func (d *desk) with(env ...string) *desk {
	more := *d
	more.env = slices.Concat(d.env, env)
	return &more
}

func (d *desk) run(t *testing.T, stdin string, args ...string) said {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.binary, args...)
	cmd.Env, cmd.Stdin, cmd.Dir = d.env, strings.NewReader(stdin), d.home
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return said{out.String(), problems.String(), cmd.ProcessState.ExitCode()}
}

// here runs it within the test, which saves the start of a process.
func (d *desk) here(t *testing.T, args ...string) said {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, problems bytes.Buffer
	code := command.Run(ctx, command.World{In: strings.NewReader(""), Out: &out, Err: &problems, Now: time.Now, Env: func(name string) string {
		for _, pair := range slices.Backward(d.env) {
			if value, is := strings.CutPrefix(pair, name+"="); is {
				return value
			}
		}
		return ""
	}}, args)
	return said{out.String(), problems.String(), code}
}

// ok runs it and wants success.
func (d *desk) ok(t *testing.T, args ...string) said {
	t.Helper()
	s := d.here(t, args...)
	if s.code != 0 {
		t.Fatalf("cetrusctl %s ends with %d: %s", strings.Join(args, " "), s.code, s.err)
	}
	return s
}

// fails runs it and wants an exit code and words of the error.
func (d *desk) fails(t *testing.T, code int, words string, args ...string) said {
	t.Helper()
	s := d.here(t, args...)
	if s.code != code || !strings.Contains(s.err, words) {
		t.Errorf("cetrusctl %s ends with %d: %s\nwant %d: %s", strings.Join(args, " "), s.code, s.err, code, words)
	}
	return s
}

// terminal is cetrusctl in a terminal.
type terminal struct {
	t   *testing.T
	cmd *exec.Cmd
	tty *os.File

	mu    sync.Mutex
	shown bytes.Buffer
	ended chan struct{}
}

func (d *desk) terminal(t *testing.T, columns uint16, args ...string) *terminal {
	t.Helper()
	const rows = 40
	cmd := exec.Command(d.binary, args...)
	cmd.Env, cmd.Dir = d.env, d.home
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: rows, Cols: columns})
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, cmd: cmd, tty: tty, ended: make(chan struct{})}
	go func() {
		defer close(x.ended)
		part := make([]byte, 4096)
		for {
			n, err := tty.Read(part)
			x.mu.Lock()
			x.shown.Write(part[:n])
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = tty.Close(); <-x.ended })
	return x
}

func (x *terminal) text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.shown.String()
}

// until waits for a text.
func (x *terminal) until(text string) {
	x.t.Helper()
	if err := stack.Wait(x.t.Context(), patience, fmt.Sprintf("the terminal to show %q", text), func() error {
		if shown := x.text(); !strings.Contains(shown, text) {
			return fmt.Errorf("it shows\n%s", shown)
		}
		return nil
	}); err != nil {
		x.t.Fatal(err)
	}
}

// types answers a question.
func (x *terminal) types(question, answer string) {
	x.t.Helper()
	x.until(question)
	if _, err := io.WriteString(x.tty, answer+"\r"); err != nil {
		x.t.Fatal(err)
	}
}

// end waits for it, and is its exit code.
func (x *terminal) end() int {
	x.t.Helper()
	done := make(chan struct{})
	go func() { _ = x.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		x.t.Fatalf("it goes on; it shows\n%s", x.text())
	}
	<-x.ended
	return x.cmd.ProcessState.ExitCode()
}

// week is the past of the office that is loaded: it has working days, whatever today is.
const week = 7

// work lets a few people of the office work, after their past is loaded.
func work(t *testing.T, p *stack.Platform) {
	t.Helper()
	applications := office.Applications()
	for _, a := range applications {
		if _, err := p.API.CreateApplication(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	loaded := make(chan struct{})
	var once sync.Once
	company, err := desks.New(desks.Config{
		Dir: t.TempDir(), Sites: []desks.Site{{Manager: p.ManagerAgents}}, Desks: office.Desks(office.Staff()[:3], 1), Days: week, Seed: 1, Applications: len(applications),
		Progress: func(share float64) {
			if share >= 1 {
				once.Do(func() { close(loaded) })
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	running.Go(func() {
		if err := company.Run(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("the office: %v", err)
		}
	})
	select {
	case <-loaded:
	case <-time.After(patience):
		t.Fatal("the office's past is not loaded")
	}
}

func TestCetrusctl(t *testing.T) {
	d, once := start(t)
	work(t, d.Platform)
	t.Run("login", func(t *testing.T) { tryLogin(t, d, once) })
	if t.Failed() {
		return
	}
	t.Run("lists", func(t *testing.T) { tryLists(t, d) })
	t.Run("reports", func(t *testing.T) { tryReports(t, d) })
	t.Run("saved reports", func(t *testing.T) { trySaved(t, d) })
	t.Run("apply", func(t *testing.T) { tryApply(t, d) })
	t.Run("enrol", func(t *testing.T) { tryEnrol(t, d) })
	t.Run("live", func(t *testing.T) { tryLive(t, d) })
	t.Run("completion", func(t *testing.T) { tryCompletion(t, d) })
	t.Run("proxy", func(t *testing.T) { tryProxy(t, d) })
	t.Run("privileges", func(t *testing.T) { tryPrivileges(t, d) })
	t.Run("second factor", func(t *testing.T) { trySecondFactor(t, d) })
	t.Run("logout", func(t *testing.T) { tryLogout(t, d) })
}

func tryLogin(t *testing.T, d *desk, once string) {
	d.fails(t, 1, "not signed in anywhere", "get", "applications")
	d.fails(t, 2, "not encrypted", "login", "http://cetrus.example.com")
	if s := d.run(t, "x\n", "login", "http://127.0.0.1:1", "--account", "a", "--login", "b"); s.code != 1 || !strings.Contains(s.err, "cannot be reached") {
		t.Errorf("%+v", s)
	}
	if s := d.run(t, "wrong\n", "login", d.REST, "--account", "operator", "--login", "admin", "--password-stdin"); s.code != 1 || !strings.Contains(s.err, "are wrong") {
		t.Errorf("%+v", s)
	}
	x := d.terminal(t, 100, "login", d.REST)
	x.types("Account: ", "operator")
	x.types("Login: ", "admin")
	x.types("Password: ", once)
	x.types("New password: ", password)
	x.types("New password again: ", password+"!")
	x.until("not the same")
	// The question comes again, so the last of it counts.
	if err := stack.Wait(t.Context(), patience, "the question again", func() error {
		if strings.Count(x.text(), "New password: ") < 2 {
			return fmt.Errorf("it shows\n%s", x.text())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	x.types("New password: ", password)
	if err := stack.Wait(t.Context(), patience, "the question again", func() error {
		if strings.Count(x.text(), "New password again: ") < 2 {
			return fmt.Errorf("it shows\n%s", x.text())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	x.types("New password again: ", password)
	if code := x.end(); code != 0 || !strings.Contains(x.text(), "Signed in as admin of operator") {
		t.Fatalf("%d: %s", code, x.text())
	}
	if strings.Contains(x.text(), password) || strings.Contains(x.text(), once) {
		t.Errorf("the terminal shows a password:\n%s", x.text())
	}
	if info, err := os.Stat(filepath.Join(d.home, "c.yaml")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if s := d.ok(t, "whoami"); !strings.Contains(s.out, "account     operator\nlogin       admin\n") {
		t.Error(s.out)
	}
	// Ctrl-C at a question ends it, and the terminal shows again what is typed.
	x = d.terminal(t, 100, "login", d.REST, "--account", "operator", "--login", "admin")
	x.until("Password: ")
	if _, err := io.WriteString(x.tty, "\x03"); err != nil {
		t.Fatal(err)
	}
	if code := x.end(); code != 1 {
		t.Errorf("Ctrl-C ends it with %d: %s", code, x.text())
	}
}

// golden compares with testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || got != string(want) {
		t.Errorf("%s: %v; got\n%s", path, err, got)
	}
}

func tryLists(t *testing.T, d *desk) {
	d.ok(t, "apply", "-y", "-f", d.write(t, "two.yaml", `kind: Application
name: 翻訳 Werkbank
rules: [{executable: translate}, {executable: translate-gui, priority: 3}, {window_class: TranslatorMainWindow}, {package: org.example.Translator}]
documents: true
document_reduction: file_name
title_rules: [{pattern: '^(?P<file>.+) - Werkbank$'}]
---
kind: Application
name: Zebra
rules: [{executable: zebra}]
activity_gap: 1m
timeout: 45m
`))
	golden(t, "applications.txt", d.ok(t, "get", "applications", "zebra", "翻訳 werkbank").out)
	x := d.terminal(t, 80, "get", "applications", "zebra", "翻訳 werkbank")
	if code := x.end(); code != 0 {
		t.Errorf("%d", code)
	}
	golden(t, "applications80.txt", strings.ReplaceAll(x.text(), "\r\n", "\n"))
	golden(t, "applications.csv", d.ok(t, "get", "applications", "zebra", "-o", "csv", "--no-headers").out[:len("Zebra,zebra,60,2700")])
	golden(t, "application.yaml", d.ok(t, "get", "application", "翻訳 Werkbank", "-o", "yaml").out)
	for _, list := range []string{"applications", "seen-programs", "templates", "logins", "people", "groups", "keys", "managers", "agents", "machines", "enrolment-tokens", "audit", "instances", "sessions", "saved-reports", "report-files"} {
		for _, output := range []string{"table", "wide", "json", "yaml", "csv"} {
			s := d.ok(t, "get", list, "--limit", "3", "-o", output)
			switch output {
			case "json":
				var items []map[string]any
				if err := json.Unmarshal([]byte(s.out), &items); err != nil || len(items) > 3 {
					t.Errorf("%s: %v: %s", list, err, s.out)
				}
			case "csv":
				if lines, err := csv.NewReader(strings.NewReader(s.out)).ReadAll(); err != nil || len(lines) < 1 || len(lines) > 4 {
					t.Errorf("%s: %v: %s", list, err, s.out)
				}
			}
		}
	}
	// All pages come, not one of them.
	var entries []struct {
		Position string `json:"position"`
	}
	if err := json.Unmarshal([]byte(d.ok(t, "get", "audit", "-o", "json").out), &entries); err != nil || len(entries) < 10 {
		t.Errorf("%d, %v", len(entries), err)
	}
	d.fails(t, 2, `there is no "Fierfox" among the applications; there is Firefox`, "get", "application", "Fierfox")
	d.fails(t, 2, "none of silent", "get", "agents", "--condition", "loud")
	if s := d.ok(t, "get", "agents", "--no-headers"); strings.Contains(s.out, "MACHINE") {
		t.Error(s.out)
	}
}

func tryReports(t *testing.T, d *desk) {
	if err := stack.Wait(t.Context(), patience, "somebody to have something open", func() error {
		for _, report := range []string{"now", "instances"} {
			if s := d.ok(t, "report", report); s.out == "" {
				return errors.New(report + ": " + s.err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	session := regexp.MustCompile(`[0-9a-f-]{36}`).FindString(d.ok(t, "report", "sessions", "-o", "wide").out)
	var instances []struct {
		ID string `json:"instance_id"`
	}
	if err := json.Unmarshal([]byte(d.ok(t, "get", "instances", "--period", "7d", "-o", "json").out), &instances); err != nil || len(instances) == 0 {
		t.Fatalf("%v, %v", instances, err)
	}
	for _, report := range [][]string{
		{"now"},
		{"use", "--by", "application,person"},
		{"concurrent"},
		{"demand", "--give-back", "15m", "--heat-map", "--holders"},
		{"licences", "--bought", "3", "--price", "12.50", "--refused", "0.5"},
		{"ranking", "--by", "person"},
		{"unused", "--not-for", "1d"},
		{"idle"},
		{"timeline", "--by", "person"},
		{"sessions", "--by", "machine"},
		{"distribution"},
		{"quality"},
		{"instances"},
		{"session", session},
		{"intervals", instances[len(instances)-1].ID}, // of the past
	} {
		for _, output := range []string{"table", "wide", "csv", "json", "xlsx"} {
			args := slices.Concat([]string{"report"}, report, []string{"-o", output})
			s := d.here(t, args...)
			switch {
			case s.code != 0 || s.out == "":
				t.Errorf("%s: %d: %s", args, s.code, s.err)
			case output == "json" && !json.Valid([]byte(s.out)):
				t.Errorf("%s: no JSON: %s", args, s.out)
			case output == "xlsx" && !strings.HasPrefix(s.out, "PK"):
				t.Errorf("%s is no workbook", args)
			case output == "csv":
				if _, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(s.out, "\ufeff"))).ReadAll(); err != nil {
					t.Errorf("%s: %v", args, err)
				}
			}
		}
	}
	for _, report := range []string{"use", "concurrent", "demand", "licences", "unused", "idle", "sessions", "distribution"} {
		d.ok(t, "report", report, "--compare", "--period", "yesterday")
		d.ok(t, "report", report, "--compare=2d..yesterday", "--period", "yesterday", "-o", "csv")
	}
	d.fails(t, 1, "56", "report", "forecast", "--period", "30d") // there is too little of a past
	d.ok(t, "report", "account-use")
	d.fails(t, 2, "whole months", "report", "account-use", "--period", "7d")
	d.fails(t, 2, "no period", "report", "use", "--period", "soon")
	d.fails(t, 2, "neither a day", "report", "use", "--from", "1 March")
	d.fails(t, 2, `there is no "Nobody" among the people`, "report", "use", "--person", "Nobody")

	// A file is there whole or as it was, with what the standard output would have had.
	file := filepath.Join(d.home, "use.csv")
	d.ok(t, "report", "use", "--period", "yesterday", "-f", file)
	text, err := os.ReadFile(file)
	if err != nil || string(text) != d.ok(t, "report", "use", "--period", "yesterday", "-o", "csv").out {
		t.Errorf("%v: %s", err, text)
	}
	d.fails(t, 1, "", "report", "forecast", "-f", file)
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(after, text) {
		t.Errorf("a report that failed has left %v: %s", err, after)
	}
	if left, _ := filepath.Glob(filepath.Join(d.home, ".use.csv*")); len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}
	// A filter by name is one by id.
	whole, one := d.ok(t, "report", "use", "--by", "person").out, d.ok(t, "report", "use", "--by", "person", "--person", "ada obi").out
	if !strings.Contains(whole, "Ada Obi") || strings.Count(one, "\n") != 4 {
		t.Errorf("%s\n%s", whole, one)
	}
	// A file that is made in the background is the same, and is removed when it is here.
	here, made := d.ok(t, "report", "use", "--period", "yesterday", "-o", "csv").out, d.ok(t, "report", "use", "--period", "yesterday", "-o", "csv", "--background").out
	if left := d.ok(t, "get", "report-files", "-o", "json").out; made != here || strings.Contains(left, "report_file_id") {
		t.Errorf("%q, not %q; left: %s", made, here, left)
	}
}

// trySaved asks reports that were saved, by their names, as tables and as files, and sends one.
func trySaved(t *testing.T, d *desk) {
	for name, question := range map[string]string{
		"Wie lange": `"usage":{"group_by":["GROUP_BY_PRINCIPAL"],"compare":true}`, "Wie viele": `"licences_needed":{"bought":"3","price_minor_units":"100","currency_code":"EUR"}`,
		"Wann": `"timeline":{"row_by":"TIMELINE_ROW_BY_PRINCIPAL"}`,
	} {
		d.ok(t, "api", "POST", "/v1/savedReports", "-d", `{"display_name":"`+name+`","report":{`+question+`},"period":{"kind":"KIND_DAYS_TO_NOW","days":`+strconv.Itoa(week)+`}}`)
	}
	if s := d.ok(t, "get", "saved-reports"); strings.Count(s.out, strconv.Itoa(week)+" days to now") != 3 || !strings.Contains(s.out, "licences") {
		t.Error(s.out)
	}
	for name, want := range map[string]string{"wie lange": "BUSY BEFORE", "wie viele": "SURPLUS", "wann": "█ busy"} {
		if s := d.ok(t, "report", "saved", name); !strings.Contains(s.out, want) {
			t.Errorf("%s: %s", name, s.out)
		}
		if s := d.ok(t, "report", "saved", name, "-o", "xlsx"); !strings.HasPrefix(s.out, "PK") {
			t.Errorf("%s is no workbook", name)
		}
	}
	d.fails(t, 2, `there is no "Wer" among the saved-reports`, "report", "saved", "Wer")
	d.fails(t, 1, "it was not sent", "send", "Wie lange", "--wait") // this platform sends no mails
	if s := d.ok(t, "get", "report-runs", "--report", "Wie lange"); !strings.Contains(s.out, "failed") {
		t.Error(s.out)
	}
	d.fails(t, 2, "--report", "get", "report-runs")
}

func (d *desk) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(d.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func tryApply(t *testing.T, d *desk) {
	dir := filepath.Join(d.home, "settings")
	d.ok(t, "export", "--into", dir)
	if s := d.ok(t, "diff", "-f", dir, "--prune", "applications,groups"); s.out != "" {
		t.Errorf("what was exported differs:\n%s", s.out)
	}
	d.write(t, "settings/more/new.yaml", `kind: Application
name: Revit
rules: [{executable: revit, priority: 5}]
timeout: 20m
documents: true
document_reduction: category
project_prompt: {enabled: true, subject: window}
---
kind: Group
name: Design
denied_applications: [Revit, firefox]
members: [Admin]
---
kind: ExpenseToProject
fields: [{key: project, label: Project, kind: project, required: true}]
projects: [{label: Bridge}, {label: Dam}]
rules: [{application: Revit, folder: 'P:\bridge', project: Bridge}, {user: guest, not_chargeable: true}]
`)
	// Of what an account has one of, a file may say it once.
	d.fails(t, 1, "ExpenseToProject is there already, at", "diff", "-f", dir)
	if err := os.Remove(filepath.Join(dir, "expense-to-project.yaml")); err != nil {
		t.Fatal(err)
	}
	if s := d.fails(t, 3, "", "diff", "-f", dir); !strings.Contains(s.out, "+++ files: Application Revit") || strings.Contains(s.out, "Firefox\n ") {
		t.Error(s.out)
	}
	d.fails(t, 2, "give --yes", "apply", "-f", dir)
	d.ok(t, "apply", "-f", dir, "--dry-run")
	d.fails(t, 3, "", "diff", "-f", dir)
	x := d.terminal(t, 100, "apply", "-f", dir)
	x.types("Make these changes? [y/N]", "n")
	if code := x.end(); code != 1 || !strings.Contains(x.text(), "\x1b[32m+kind: Application") {
		t.Errorf("%d: %s", code, x.text())
	}
	s := d.ok(t, "apply", "-f", dir, "--yes", "--wait")
	for _, want := range []string{"created Application Revit", "created Group Design", "updated groups of login admin", "updated ExpenseToProject", "connected agents have it"} {
		if !strings.Contains(s.err, want) {
			t.Errorf("%q is missing: %s", want, s.err)
		}
	}
	// Once more: no change, nothing written.
	before := d.ok(t, "get", "audit", "--limit", "1", "-o", "json").out
	if s := d.ok(t, "apply", "-f", dir, "--yes"); !strings.Contains(s.err, "nothing to change") || s.out != "" {
		t.Errorf("%+v", s)
	}
	if after := d.ok(t, "get", "audit", "--limit", "1", "-o", "json").out; after != before {
		t.Errorf("something was written: %s", after)
	}
	// Through another export it is the same.
	if s := d.run(t, d.ok(t, "export").out, "diff", "-f", "-"); s.code != 0 {
		t.Errorf("%+v", s)
	}
	golden(t, "settings.yaml", d.ok(t, "export", "groups", "expense-to-project").out)
	// What the platform refuses is told where it stands.
	bad := d.write(t, "bad.yaml", "kind: Application\nname: Bad\nrules:\n  - executable: x\n    title: (\n")
	d.fails(t, 1, bad+":5:12: Application Bad: application.rules[0].title: ", "apply", "-f", bad, "-y")
	d.fails(t, 1, "bad.yaml:3:11: there is no login", "apply", "-f", d.write(t, "bad.yaml", "kind: Group\nname: Bad\nmembers: [nobody]\n"))
	// What somebody else changes meanwhile is not overwritten.
	slow := d.write(t, "revit.yaml", "kind: Application\nname: Revit\nrules: [{executable: revit}]\n")
	x = d.terminal(t, 100, "apply", "-f", slow)
	x.until("Make these changes? [y/N]")
	d.ok(t, "apply", "-y", "-f", d.write(t, "other.yaml", "kind: Application\nname: Revit\nrules: [{executable: revit-lt}]\n"))
	x.types("Make these changes? [y/N]", "y")
	if code := x.end(); code != 1 || !strings.Contains(x.text(), "changed by somebody else") {
		t.Errorf("%d: %s", code, x.text())
	}
	// Nothing is deleted but by --prune.
	if err := os.RemoveAll(filepath.Join(dir, "more")); err != nil {
		t.Fatal(err)
	}
	d.write(t, "settings/groups.yaml", "kind: Group\nname: Design\n")
	d.ok(t, "apply", "-f", dir, "-y")
	if s := d.ok(t, "get", "groups", "design", "-o", "yaml"); !strings.Contains(s.out, "members:\n  - admin") {
		t.Errorf("members that no file names are left: %s", s.out)
	}
	if s := d.ok(t, "apply", "-f", dir, "-y", "--prune", "applications"); !strings.Contains(s.err, "deleted Application Revit") || strings.Contains(s.err, "Group") {
		t.Error(s.err)
	}
}

func tryEnrol(t *testing.T, d *desk) {
	d.ok(t, "managers", "create", "Prague")
	d.fails(t, 2, "say with --address", "enrol", "create", "--manager", "Prague")
	d.fails(t, 2, "say with --address", "enrol", "create", "--manager", "Prague", "--address", "a b; rm")
	// Tokens are for a Manager that has come; what is written then, ctl/command tests.
	d.fails(t, 1, "let it connect", "enrol", "create", "--manager", "Prague", "--uses", "50", "--expires", "30d", "--name", "Room 12", "--address", "manager.example.com")
	d.ok(t, "enrol", "list")
	d.fails(t, 2, `there is no "Room 12"`, "enrol", "revoke", "Room 12")
	if s := d.ok(t, "managers", "renew-token", "Prague", "--token-only"); strings.Count(s.out, "\n") != 1 {
		t.Error(s.out)
	}
	d.fails(t, 2, "give --yes", "managers", "revoke", "Prague")
	d.ok(t, "managers", "revoke", "Prague", "--yes")
	if s := d.ok(t, "get", "managers", "Prague"); !strings.Contains(s.out, "revoked") {
		t.Error(s.out)
	}
	agent := regexp.MustCompile(`[0-9a-f-]{36}`).FindString(d.ok(t, "get", "agents", "-o", "wide", "--limit", "1").out)
	d.ok(t, "agents", "revoke", agent, "--yes")
	d.ok(t, "agents", "readmit", agent, "--yes")
}

func tryLive(t *testing.T, d *desk) {
	// Through a door that can be shut, as networks do.
	target, err := url.Parse(d.REST)
	if err != nil {
		t.Fatal(err)
	}
	door := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, FlushInterval: -1})
	defer door.Close()
	d = d.with("CETRUS_SERVER="+door.URL, "CETRUS_API_KEY="+d.Key)
	x := d.terminal(t, 120, "live")
	x.until("Ada Obi")
	x.until("active")
	door.CloseClientConnections()
	x.until("trying again")
	if _, err := io.WriteString(x.tty, "\x03"); err != nil {
		t.Fatal(err)
	}
	if code := x.end(); code != 0 || !strings.HasSuffix(x.text(), "\x1b[?25h\x1b[?1049l") {
		t.Errorf("Ctrl-C ends it with %d, and the terminal as it was: %q", code, x.text()[max(0, len(x.text())-60):])
	}
	for _, output := range []string{"lines", "json"} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		cmd := exec.CommandContext(ctx, d.binary, "live", "-o", output, "--person", "Ada Obi")
		cmd.Env = d.env
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 4096)
		n, err := out.Read(line)
		if err != nil || !strings.Contains(string(line[:n]), "Ada Obi") {
			t.Errorf("%s: %v: %s", output, err, line[:n])
		}
		_ = cmd.Process.Signal(syscall.SIGINT)
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: Ctrl-C ends it with %v", output, err)
		}
		cancel()
	}
}

func tryCompletion(t *testing.T, d *desk) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if s := d.ok(t, "completion", shell); !strings.Contains(s.out, "cetrusctl") {
			t.Errorf("%s: %s", shell, s.out)
		}
	}
	for want, args := range map[string][]string{
		"Firefox\n":     {"get", "application", ""},
		"applications":  {"get", ""},
		"FreeCAD\n":     {"report", "use", "--application", ""},
		"Ada Obi\n":     {"report", "use", "--person", ""},
		"last-month\n":  {"report", "use", "--period", ""},
		"xlsx\n":        {"report", "use", "-o", ""},
		"silent\n":      {"get", "agents", "--condition", ""},
		"operator@":     {"context", "use", ""},
		"person\n":      {"report", "ranking", "--by", ""},
		"user-and-mach": {"report", "demand", "--metric", ""},
	} {
		if s := d.ok(t, append([]string{"__complete"}, args...)...); !strings.Contains(s.out, want) {
			t.Errorf("%s offers\n%s\nand not %s", args, s.out, want)
		}
	}
	// What was typed narrows it, whatever the case.
	if s := d.ok(t, "__complete", "get", "application", "fire"); !strings.Contains(s.out, "Firefox\n") || strings.Contains(s.out, "FreeCAD") {
		t.Errorf("what begins so: %+v", s)
	}
	// Where nobody can be asked, nothing is offered, and nothing said.
	if s := d.with("CETRUS_SERVER=http://127.0.0.1:1", "CETRUS_API_KEY=x").ok(t, "__complete", "get", "application", ""); !strings.HasPrefix(s.out, ":") {
		t.Errorf("%+v", s)
	}
}

// tryProxy goes by https through a proxy, with an authority that the system does not know.
func tryProxy(t *testing.T, d *desk) {
	target, err := url.Parse(d.REST)
	if err != nil {
		t.Fatal(err)
	}
	secure := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }})
	defer secure.Close()
	ca := d.write(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})))
	asked := make(chan string, 100)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.Host
		there, err := net.Dial("tcp", secure.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer there.Close()
		w.WriteHeader(200)
		here, read, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer here.Close()
		// What came right after the request may have been read already.
		go func() { _, _ = io.Copy(there, read); _ = there.(*net.TCPConn).CloseWrite() }()
		_, _ = io.Copy(here, there)
	}))
	defer proxy.Close()
	far := d.with("CETRUS_SERVER=https://example.com", "CETRUS_API_KEY="+d.Key, "HTTPS_PROXY="+proxy.URL)
	if s := far.run(t, "", "get", "applications", "--ca-file", ca); s.code != 0 || !strings.Contains(s.out, "Zebra") {
		t.Errorf("%+v", s)
	}
	if len(asked) == 0 {
		t.Fatal("the proxy was not asked")
	}
	if got := <-asked; got != "CONNECT example.com:443" {
		t.Error(got)
	}
	if s := far.run(t, "", "get", "applications"); s.code != 1 || !strings.Contains(s.err, "cannot be reached: tls: failed to verify certificate") {
		t.Errorf("%+v", s)
	}
	// What is no Cetrus says so.
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }))
	defer other.Close()
	d.with("CETRUS_SERVER="+other.URL, "CETRUS_API_KEY=x").fails(t, 1, "as Cetrus's API never does", "get", "applications")
	elsewhere := httptest.NewServer(http.RedirectHandler("https://evil.example.com/", http.StatusFound))
	defer elsewhere.Close()
	d.with("CETRUS_SERVER="+elsewhere.URL, "CETRUS_API_KEY=secret").fails(t, 1, "it sends to https://evil.example.com", "get", "applications")
	d.with("CETRUS_SERVER="+d.REST, "CETRUS_API_KEY=cetrus_nonsense").fails(t, 1, "the API key of CETRUS_API_KEY", "get", "applications")
	d.with("CETRUS_API_KEY=x").fails(t, 2, "no server", "get", "applications")
}

// somebody makes a login, and gives its one-time password.
func somebody(t *testing.T, d *desk, name string) string {
	t.Helper()
	var login struct {
		ID string `json:"login_id"`
	}
	if err := json.Unmarshal([]byte(d.ok(t, "api", "POST", "/v1/logins", "-d", `{"name":"`+name+`","privileges":["PRIVILEGE_APPLICATION_USER"]}`).out), &login); err != nil {
		t.Fatal(err)
	}
	var given struct{ Password string }
	if err := json.Unmarshal([]byte(d.ok(t, "api", "POST", "/v1/passwords:setOneTime", "-d", `{"login_id":"`+login.ID+`"}`).out), &given); err != nil {
		t.Fatal(err)
	}
	return given.Password
}

func tryPrivileges(t *testing.T, d *desk) {
	once := somebody(t, d, "bo")
	if s := d.run(t, once+"\n"+password+"\n", "login", d.REST, "--account", "operator", "--login", "bo", "--name", "bo", "--password-stdin"); s.code != 0 {
		t.Fatalf("%+v", s)
	}
	d.fails(t, 1, "(signed in as bo of operator)", "get", "logins")
	d.ok(t, "report", "use") // of one's own
	d.ok(t, "context", "use", "operator@"+strings.TrimPrefix(d.REST, "http://"))
	d.ok(t, "get", "logins")
	d.fails(t, 1, "(signed in as bo of operator)", "--context", "bo", "get", "logins")
	if s := d.ok(t, "context", "list"); !strings.Contains(s.out, "*  operator@") || !strings.Contains(s.out, "\n   bo") {
		t.Error(s.out)
	}
	// A session that was ended elsewhere is told, and forgotten.
	var sessions []struct {
		ID string `json:"session_id"`
	}
	if err := json.Unmarshal([]byte(d.ok(t, "get", "sessions", "--login", "bo", "-o", "json").out), &sessions); err != nil || len(sessions) != 1 {
		t.Fatalf("%v, %v", sessions, err)
	}
	d.ok(t, "api", "DELETE", "/v1/sessions/"+sessions[0].ID)
	if err := stack.Wait(t.Context(), patience, "the end of the session to be known", func() error {
		if s := d.run(t, "", "--context", "bo", "whoami"); s.code != 1 || !strings.Contains(s.err, "sign in with `cetrusctl login`") {
			return fmt.Errorf("%+v", s)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	d.fails(t, 1, "there is no session", "--context", "bo", "whoami")
	d.ok(t, "context", "remove", "bo")
}

func trySecondFactor(t *testing.T, d *desk) {
	once := somebody(t, d, "cleo")
	policy := d.write(t, "policy.yaml", "kind: SignInPolicy\nsecond_factor_required: true\n")
	d.ok(t, "apply", "-y", "-f", policy)
	defer func() {
		off := d.with("CETRUS_SERVER="+d.REST, "CETRUS_API_KEY="+d.Key)
		off.ok(t, "apply", "-y", "-f", d.write(t, "policy.yaml", "kind: SignInPolicy\nsecond_factor_required: false\n"))
	}()
	x := d.terminal(t, 200, "login", d.REST, "--account", "operator", "--login", "cleo", "--name", "cleo")
	x.types("Password: ", once)
	x.until("A code of it: ")
	key, err := otp.NewKeyFromURL(regexp.MustCompile(`otpauth://\S+`).FindString(x.text()))
	if err != nil {
		t.Fatalf("%v: %s", err, x.text())
	}
	code, err := totp.GenerateCode(key.Secret(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	x.types("A code of it: ", code)
	x.types("New password: ", password)
	x.types("New password again: ", password)
	if code := x.end(); code != 0 || !strings.Contains(x.text(), "Recovery codes") {
		t.Fatalf("%d: %s", code, x.text())
	}
	recovery := strings.Fields(strings.SplitN(strings.SplitN(x.text(), "Recovery codes", 2)[1], "\n", 2)[1])[0]
	if s := d.run(t, password+"\n"+recovery+"\n", "login", d.REST, "--account", "operator", "--login", "cleo", "--name", "cleo", "--password-stdin"); s.code != 0 {
		t.Errorf("a recovery code: %+v", s)
	}
	d.ok(t, "logout")
	d.ok(t, "context", "use", "operator@"+strings.TrimPrefix(d.REST, "http://"))
}

func tryLogout(t *testing.T, d *desk) {
	text, err := os.ReadFile(filepath.Join(d.home, "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	d.ok(t, "logout")
	d.fails(t, 1, "there is no session", "whoami")
	// It has ended at the server, too.
	d.write(t, "c.yaml", string(text))
	d.fails(t, 1, "", "whoami")
	d.ok(t, "version")
}
