package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kardianos/service"
)

// scriptService stands for the package's part of an init script in a folder.
type scriptService struct {
	service.Service
	root string
	pid  string // of what a start leaves running; empty: it ends at once
	said string
}

func (s *scriptService) write(path, text string) error {
	file := filepath.Join(s.root, path)
	return errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600))
}

func (s *scriptService) Start() error {
	err := errors.Join(s.write("var/run/cetrus-agent.pid", "7\n"), s.write("var/log/cetrus-agent.err", s.said))
	if s.pid != "" {
		err = errors.Join(err, s.write("proc/"+s.pid+"/stat", s.pid+" (cetrus-agent) S 1"))
	}
	return err
}

func (s *scriptService) Stop() error { return os.RemoveAll(filepath.Join(s.root, "proc")) }

func (s *scriptService) Uninstall() error {
	return os.Remove(filepath.Join(s.root, "etc/init.d/cetrus-agent"))
}

func TestAnInitScriptSaysWhatItIs(t *testing.T) {
	root := t.TempDir()
	inner := &scriptService{root: root, said: "one\ncetrus-agent: no display\n"}
	script := &initScript{Service: inner, root: root, name: "cetrus-agent"}
	for _, verb := range []string{"start", "stop", "uninstall"} {
		err := order(script, verb, 0, io.Discard)
		if err == nil || !strings.Contains(err.Error(), "is not installed") || strings.Contains(err.Error(), "cetrus-agent install") == (verb == "uninstall") {
			t.Errorf("%s of nothing: %v", verb, err)
		}
	}
	if err := inner.write("etc/init.d/cetrus-agent", "#!/bin/sh\n"); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{"rc0.d/K02cetrus-agent", "rc2.d/S50cetrus-agent", "rc2.d/S50cetrus-manager"} {
		file := filepath.Join(root, "etc", link)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.Symlink("../init.d/cetrus-agent", file)); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := order(script, "start", 0, &out); err == nil || !strings.Contains(err.Error(), "no display (") || out.Len() > 0 {
		t.Errorf("a start of what dies at once: %v, and it says %q", err, out.String())
	}
	inner.pid = "7"
	for _, step := range []struct{ verb, says string }{
		{"stop", "it does not run"}, {"start", "started"}, {"start", "it runs already"}, {"stop", "stopped"}, {"start", "started"}, {"uninstall", "removed; its log stays: "},
	} {
		out.Reset()
		if err := order(script, step.verb, 0, &out); err != nil || !strings.HasPrefix(out.String(), step.says) {
			t.Errorf("%s: %q, %v", step.verb, out.String(), err)
		}
	}
	left, err := filepath.Glob(filepath.Join(root, "etc", "rc?.d", "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "S50cetrus-manager" {
		t.Errorf("links left: %v, %v", left, err)
	}
}

// TestInstallLearnsTheDesktop: a machine's service is told which desktop to watch, or is
// not installed.
func TestInstallLearnsTheDesktop(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a person's own service learns it from the session")
	}
	authority := filepath.Join(t.TempDir(), "cookie")
	if err := os.WriteFile(authority, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DISPLAY", "")
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere") // no login manager either
	if _, err := new(settings).desktopOfInstall(t.Context()); err == nil || !strings.Contains(err.Error(), "--display :0") {
		t.Errorf("no desktop: %v", err)
	}
	if _, err := (&settings{display: ":3"}).desktopOfInstall(t.Context()); err != nil {
		t.Errorf("a desktop that is named: %v", err)
	}
	t.Setenv("DISPLAY", ":4")
	t.Setenv("XAUTHORITY", authority)
	given, err := new(settings).desktopOfInstall(t.Context())
	if err != nil || given["display"] != ":4" || given["xauthority"] != authority {
		t.Errorf("given are %v, %v", given, err)
	}
}
