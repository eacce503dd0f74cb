package desktop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Processes of flatpaks and snaps, as their documentation says that they show in /proc,
// are told with their package; what was merely started from one is not.
func TestPackages(t *testing.T) {
	t.Parallel()
	const (
		userScope = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/"
		session   = "0::/user.slice/user-1000.slice/session-2.scope\n"
	)
	for name, p := range map[string]struct {
		exe, cgroup string
		ownRoot     bool
		info        string // of flatpak
		want        string
	}{
		"an ordinary program":                {exe: "/usr/bin/kate", cgroup: session},
		"a flatpak":                          {exe: "/app/bin/kate", cgroup: session, ownRoot: true, info: "[Application]\nname=org.kde.kate\nruntime=runtime/org.kde.Platform/x86_64/6.6\n\n[Instance]\ninstance-id=1\n", want: "org.kde.kate"},
		"a flatpak by its scope":             {exe: "/app/bin/kate", cgroup: userScope + "app-flatpak-org.kde.kate-4711.scope\n", ownRoot: true, want: "org.kde.kate"},
		"a dash in its name":                 {exe: "/app/bin/edit", cgroup: userScope + "app-flatpak-org.gnome.Text\\x2dEditor-12345678.scope\n", ownRoot: true, want: "org.gnome.Text-Editor"},
		"the runtime alone":                  {exe: "/usr/bin/bash", cgroup: session, ownRoot: true, info: "[Runtime]\nname=org.kde.Platform\n"},
		"a snap":                             {exe: "/snap/firefox/4336/usr/lib/firefox/firefox", cgroup: userScope + "snap.firefox.firefox-9f0c1a3e.scope\n", ownRoot: true, want: "firefox"},
		"a snap on Fedora":                   {exe: "/var/lib/snapd/snap/code/170/usr/share/code/code", cgroup: session, want: "code"},
		"another instance of a snap":         {exe: "/snap/firefox_beta/1/usr/lib/firefox/firefox", cgroup: userScope + "snap.firefox_beta.firefox-9f0c1a3e.scope\n", ownRoot: true, want: "firefox_beta"},
		"a script in a snap":                 {exe: "/usr/bin/python3.10", cgroup: userScope + "snap.gimp.gimp-9f0c1a3e.scope\n", ownRoot: true, want: "gimp"},
		"a snap before cgroups of version 2": {exe: "/usr/bin/python3.8", cgroup: "9:freezer:/snap.gimp\n" + session, ownRoot: true, want: "gimp"},
		"started from a classic snap":        {exe: "/usr/bin/gedit", cgroup: userScope + "snap.code.code-9f0c1a3e.scope\n"},
		"in some other container":            {exe: "/usr/bin/python3", cgroup: "12:devices:/\n" + session, ownRoot: true},
		"the starter of snaps":               {exe: "/snap/bin/x", cgroup: session},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proc := t.TempDir()
			const pid = 4711
			dir := filepath.Join(proc, strconv.Itoa(pid))
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			root := "/"
			if p.ownRoot {
				root = t.TempDir()
			}
			if p.info != "" {
				writeFile(t, filepath.Join(root, ".flatpak-info"), p.info)
			}
			writeFile(t, filepath.Join(dir, "cgroup"), p.cgroup)
			for link, to := range map[string]string{"root": root, "exe": p.exe} {
				if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
					t.Fatal(err)
				}
			}
			table := newProcessTable(proc)
			if got := table.packageOf(pid, table.executable(pid), table.cgroup(pid)); got != p.want {
				t.Errorf("its package is %q, want %q", got, p.want)
			}
		})
	}
}

// A program can make a root of its own and put there what it likes in the place of
// flatpak's file: nothing but a file is opened, and nobody is waited for.
func TestPackageOfATrap(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	writeFile(t, secret, "[Application]\nname=of.the.machine\n")
	for name, lay := range map[string]func(file string) error{
		"a pipe":   func(file string) error { return unix.Mkfifo(file, 0o600) },
		"a link":   func(file string) error { return os.Symlink(secret, file) },
		"a folder": func(file string) error { return os.Mkdir(file, 0o700) },
		"a socket": func(file string) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Bind(fd, &unix.SockaddrUnix{Name: file})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proc := t.TempDir()
			root := filepath.Join(proc, "7", "root")
			if err := os.MkdirAll(root, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := lay(filepath.Join(root, ".flatpak-info")); err != nil {
				t.Fatal(err)
			}
			told := make(chan string, 1)
			go func() { told <- newProcessTable(proc).packageOf(7, "/app/bin/kate", "0::/\n") }()
			select {
			case pkg := <-told:
				if pkg != "" {
					t.Errorf("its package is %q", pkg)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("it waits for whoever laid it there")
			}
		})
	}
}

// A real sandbox as flatpak makes it, by the same program.
func TestSandboxedProcess(t *testing.T) {
	t.Parallel()
	bwrap, err := exec.LookPath("bwrap")
	if err != nil {
		t.Fatal("bwrap is missing: install it with: apt-get install bubblewrap")
	}
	info := filepath.Join(t.TempDir(), "info")
	writeFile(t, info, "[Application]\nname=org.example.Sandboxed\n")
	arguments := []string{"--die-with-parent", "--ro-bind", info, "/.flatpak-info"}
	for _, folder := range []string{"/usr", "/bin", "/lib", "/lib64"} {
		if _, err := os.Stat(folder); err == nil {
			arguments = append(arguments, "--ro-bind", folder, folder)
		}
	}
	cmd := exec.Command(bwrap, append(arguments, "--proc", "/proc", "--dev", "/dev", "sleep", "600")...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	table := newProcessTable("/proc")
	deadline := time.Now().Add(30 * time.Second)
	for {
		if pid := childOf(t, table, int32(cmd.Process.Pid), "sleep"); pid != 0 {
			if got := table.packageOf(pid, table.executable(pid), table.cgroup(pid)); got != "org.example.Sandboxed" {
				t.Errorf("its package is %q", got)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the sandbox does not start")
		}
		<-time.After(10 * time.Millisecond)
	}
}

// childOf is a process with a name that descends from another.
func childOf(t *testing.T, table *processTable, ancestor int32, name string) int32 {
	t.Helper()
	pids, err := table.pids()
	if err != nil {
		t.Fatal(err)
	}
	parents, named := make(map[int32]int32), []int32{}
	for _, pid := range pids {
		if stat, err := table.stat(pid); err == nil {
			parents[pid] = stat.parent
			if stat.name == name {
				named = append(named, pid)
			}
		}
	}
	for _, pid := range named {
		for at := parents[pid]; at != 0; at = parents[at] {
			if at == ancestor {
				return pid
			}
		}
	}
	return 0
}

func FuzzFlatpakInfo(f *testing.F) {
	f.Add([]byte("[Application]\nname=org.kde.kate\n"))
	f.Add([]byte("name=x\n[Application]\nname=\xff\n"))
	f.Fuzz(func(t *testing.T, info []byte) {
		if name := flatpakOfInfo(info); !utf8.ValidString(name) {
			t.Errorf("%q is no UTF-8", name)
		}
	})
}
