//go:build linux

package packages

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// One version twice, to compare, and a later one to upgrade to.
func TestLinux(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("../../bin/nfpm"); err != nil {
		t.Skip("NO DEB AND RPM IS TESTED: bin/nfpm is missing; tools/bootstrap.sh test packages builds it")
	}
	tools(t, "dpkg-deb", "rpm")
	out, again := t.TempDir(), t.TempDir()
	debs, rpms := build(t, out, "deb rpm", "CETRUS_VERSION=1.0.0"), map[string]string{}
	for name, file := range debs {
		rpms[name] = file // of each name the rpm is told last
		debs[name] = strings.Replace(file, "_x86_64.rpm", "_amd64.deb", 1)
	}
	if len(debs) != 2 {
		t.Fatalf("made %v", debs)
	}
	later := build(t, out, "deb", "CETRUS_VERSION=1.0.1")

	t.Run("the same twice", func(t *testing.T) {
		build(t, again, "deb rpm", "CETRUS_VERSION=1.0.0")
		for _, file := range []string{debs["cetrus-agent"], debs["cetrus-manager"], rpms["cetrus-agent"], rpms["cetrus-manager"]} {
			if !bytes.Equal([]byte(read(t, file)), []byte(read(t, filepath.Join(again, filepath.Base(file))))) {
				t.Errorf("%s differs when it is made again", filepath.Base(file))
			}
		}
	})
	t.Run("deb", func(t *testing.T) { testDeb(t, debs, later) })
	t.Run("rpm", func(t *testing.T) { testRPM(t, rpms) })
	t.Run("units", func(t *testing.T) { testUnits(t, debs) })
}

// machine is a folder that stands for a machine with dpkg and no systemd.
type machine struct{ root string }

func newMachine(t *testing.T) machine {
	t.Helper()
	m := machine{t.TempDir()}
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log", "etc"} {
		if err := os.MkdirAll(m.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{
		"var/lib/dpkg/status": "", "var/lib/dpkg/available": "",
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/shadow": "root:*:1::::::\n", "etc/gshadow": "root:*::\n",
	} {
		if err := os.WriteFile(m.path(file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m machine) path(name string) string { return filepath.Join(m.root, name) }

func (m machine) dpkg(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("dpkg", append([]string{"--root=" + m.root, "--log=" + m.path("var/log/dpkg.log"), "--force-script-chrootless", "--force-depends", "--force-confold"}, args...)...)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dpkg %s: %v\n%s", strings.Join(args, " "), err, said)
	}
}

func testDeb(t *testing.T, debs, later map[string]string) {
	tools(t, "useradd")
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: dpkg installs only as root, also into a folder")
	}
	for _, c := range []struct {
		name, settings, data string
		nobody               []string // where nobody answers
		answer               string
	}{
		{"cetrus-agent", "etc/cetrus/agent.yaml", "var/lib/cetrus-agent/identity.json", nil, "no agent runs"},
		{"cetrus-manager", "etc/cetrus/manager.yaml", "var/lib/cetrus-manager/identity.json", []string{"--status-address", "127.0.0.1:1"}, "no Manager answers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			program := "usr/bin/" + c.name
			there := func(when string, want bool, names ...string) {
				t.Helper()
				for _, name := range names {
					if _, err := os.Stat(m.path(name)); (err == nil) != want {
						t.Errorf("%s: %s there: %v", when, name, err == nil)
					}
				}
			}
			m.dpkg(t, "--install", debs[c.name])
			there("installed", true, program, c.settings)
			if said, err := exec.Command(m.path(program), "--version").CombinedOutput(); err != nil || !strings.Contains(string(said), "version 1.0.0") {
				t.Errorf("the program's version: %v\n%s", err, said)
			}
			// The settings are read before anybody is asked.
			if said, _ := exec.Command(m.path(program), append([]string{"status", "--config", m.path(c.settings), "--data-dir", t.TempDir()}, c.nobody...)...).CombinedOutput(); !strings.Contains(string(said), c.answer) {
				t.Errorf("the settings that are installed: %s", said)
			}
			if c.name == "cetrus-agent" {
				for _, extension := range []string{"cetrus-agent@cetrus", "cetrus-agent-44@cetrus"} {
					folder := "usr/share/gnome-shell/extensions/" + extension
					there("installed", true, folder+"/extension.js", folder+"/metadata.json")
					if !strings.Contains(read(t, m.path(folder+"/metadata.json")), `"uuid": "`+extension+`"`) {
						t.Errorf("the extension in %s is called otherwise", folder)
					}
				}
				about, err := os.Stat(m.path("var/lib/cetrus-agent"))
				if err != nil || about.Mode() != fs.ModeDir|0o700 {
					t.Errorf("others can look at what is recorded: %v %v", about, err)
				}
				laysAToken(t, m)
			} else {
				if !strings.Contains(read(t, m.path("etc/passwd")), "cetrus-manager:") {
					t.Error("the Manager has no user")
				}
				about, err := os.Stat(m.path(c.settings))
				if err != nil {
					t.Fatal(err)
				}
				if about.Mode() != 0o640 {
					t.Errorf("the Manager's settings, which hold a password, are %v", about.Mode())
				}
			}
			const mine = "# kept\n"
			for name, text := range map[string]string{c.settings: mine, c.data: "{}"} {
				if err := os.MkdirAll(filepath.Dir(m.path(name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(m.path(name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m.dpkg(t, "--install", later[c.name])
			there("upgraded", true, program, c.data)
			if read(t, m.path(c.settings)) != mine {
				t.Error("an upgrade has replaced the settings")
			}
			m.dpkg(t, "--remove", c.name)
			there("removed", false, program)
			there("removed", true, c.data, c.settings)
			m.dpkg(t, "--install", later[c.name])
			m.dpkg(t, "--purge", c.name)
			there("purged", false, program, c.settings, "etc/cetrus", "var/lib/"+c.name, "usr/lib/cetrus")
		})
	}
}

// laysAToken has the installed agent take an enrolment token, from standard input as in the
// settings, that others cannot read.
func laysAToken(t *testing.T, m machine) {
	t.Helper()
	token, err := enrolling(t).CreateToken("deb", 1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	program, data := m.path("usr/bin/cetrus-agent"), m.path("var/lib/cetrus-agent")
	lay := exec.Command(program, "enroll", "--config", m.path("etc/cetrus/agent.yaml"), "--data-dir", data)
	lay.Stdin = strings.NewReader(token + "\n")
	if said, err := lay.CombinedOutput(); err != nil || strings.Contains(string(said), token) {
		t.Errorf("%v\n%s", err, said)
	}
	file := filepath.Join(data, "enrollment-token")
	if about, err := os.Stat(file); err != nil || about.Mode() != 0o600 || read(t, file) != token {
		t.Errorf("the token lies there as %v, %v", about, err)
	}
	settings := filepath.Join(t.TempDir(), "agent.yaml")
	for text, want := range map[string]string{
		token: "no agent runs", token[:50]: "not whole", token[:50] + "x" + token[51:]: "wrong letter", "secret": "begins with",
	} {
		if err := os.WriteFile(settings, []byte("enrollment-token: "+text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if said, _ := exec.Command(program, "status", "--config", settings, "--data-dir", t.TempDir()).CombinedOutput(); !strings.Contains(string(said), want) || strings.Contains(string(said), text) {
			t.Errorf("with %q in the settings: %s", want, said)
		}
	}
}

func testRPM(t *testing.T, rpms map[string]string) {
	query := func(file string, args ...string) []string {
		t.Helper()
		said, err := exec.Command("rpm", append([]string{"--dbpath", t.TempDir(), "-q", "-p", file}, args...)...).Output()
		if err != nil {
			t.Fatalf("rpm -q %v: %v", args, err)
		}
		return strings.Split(strings.TrimSpace(string(said)), "\n")
	}
	for name, want := range map[string]struct{ settings, unit []string }{
		"cetrus-agent":   {[]string{"/etc/cetrus/agent.yaml", "/etc/xdg/autostart/cetrus-agent-tray.desktop"}, []string{"/usr/lib/systemd/system/cetrus-agent.service"}},
		"cetrus-manager": {[]string{"/etc/cetrus/manager.yaml"}, []string{"/usr/lib/systemd/system/cetrus-manager.service"}},
	} {
		file := rpms[name]
		if said, err := exec.Command("rpm", "--dbpath", t.TempDir(), "-K", "--nosignature", file).CombinedOutput(); err != nil {
			t.Errorf("%s is damaged: %v\n%s", name, err, said)
		}
		if got := query(file, "--configfiles"); !slices.Equal(got, want.settings) {
			t.Errorf("%s keeps %v as settings, want %v", name, got, want.settings)
		}
		files := query(file, "--list")
		for _, wanted := range append(want.unit, "/usr/bin/"+name) {
			if !slices.Contains(files, wanted) {
				t.Errorf("%s has no %s", name, wanted)
			}
		}
		// What it runs is a script that a shell reads, and needs no systemd.
		scripts := strings.Join(query(file, "--queryformat", "%{PREIN}\n%{POSTIN}\n%{PREUN}\n%{POSTUN}\n"), "\n")
		check := exec.Command("sh", "-n")
		check.Stdin = strings.NewReader(strings.ReplaceAll(scripts, "(none)", ""))
		if said, err := check.CombinedOutput(); err != nil {
			t.Errorf("scripts of %s: %v\n%s", name, err, said)
		}
	}
}

// testUnits has systemd judge the units, with the programs where they say.
func testUnits(t *testing.T, debs map[string]string) {
	tools(t, "systemd-analyze")
	root := t.TempDir()
	for _, deb := range debs {
		if said, err := exec.Command("dpkg-deb", "-x", deb, root).CombinedOutput(); err != nil {
			t.Fatalf("unpack %s: %v\n%s", deb, err, said)
		}
	}
	for _, c := range []struct {
		unit string
		args []string
	}{
		{"usr/lib/systemd/system/cetrus-agent.service", []string{"verify"}},
		{"usr/lib/systemd/system/cetrus-manager.service", []string{"verify"}},
		// 0 is a unit that may do nothing, 100 one that may do everything.
		{"usr/lib/systemd/system/cetrus-manager.service", []string{"security", "--offline=true", "--threshold=20", "--no-pager"}},
		// It has to see all people's programs, so less can be taken from it.
		{"usr/lib/systemd/system/cetrus-agent.service", []string{"security", "--offline=true", "--threshold=40", "--no-pager"}},
	} {
		text := read(t, filepath.Join(root, c.unit))
		unit := filepath.Join(t.TempDir(), filepath.Base(c.unit))
		moved := strings.ReplaceAll(text, "=/usr/bin/", "="+filepath.Join(root, "usr/bin")+"/")
		if moved == text {
			t.Errorf("%s starts no program of /usr/bin", c.unit)
		}
		if err := os.WriteFile(unit, []byte(moved), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("systemd-analyze", append(c.args, unit)...)
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
		said, err := cmd.CombinedOutput()
		if err != nil || c.args[len(c.args)-1] == "verify" && len(said) > 0 {
			t.Errorf("systemd-analyze %v %s: %v\n%s", c.args, c.unit, err, said)
		}
	}
}
