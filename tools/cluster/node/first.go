package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cetrus/cetrus/tools/cluster"
)

// First is process 1 of a node. It returns when the one outside closes standard input, or is gone, or
// when the other parts have ended; nothing of the node but its folder is left then.
func First(dir string) error {
	if os.Getpid() != 1 {
		return errors.New("this is for process 1 of a node, which cetrus-cluster starts")
	}
	spec, err := cluster.ReadSpec(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("waiting for the cable: %w", err)
	}
	defer func() {
		if err := errors.Join(cluster.LeaveCgroups(), cluster.RemoveCgroups(spec.CgroupName)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	if err := mounts(spec); err != nil {
		fmt.Printf("%s arranging the mounts: %v\n", cluster.Failed, err) //nolint:forbidigo // how it tells the one outside
		return err
	}

	parts := exec.Command(filepath.Join(cluster.NodeBin, "cetrus-cluster"), "node", "parts")
	parts.Stdout, parts.Stderr = os.Stdout, os.Stderr
	parts.Env = append(os.Environ(), "PATH="+cluster.NodeBin+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/run")
	if err := parts.Start(); err != nil {
		return err
	}
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		_ = syscall.Kill(-1, syscall.SIGKILL)
	}()
	return bury(parts.Process.Pid)
}

// bury waits for everybody who has ended until the parts have, and then ends whoever is left.
func bury(parts int) error {
	var ended error
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.ECHILD):
			return ended
		case err != nil:
			return err
		case pid == parts:
			if status.ExitStatus() > 0 {
				ended = errors.New("the node's parts have ended: see log/node.log")
			}
			_ = syscall.Kill(-1, syscall.SIGKILL)
		}
	}
}

// mounts makes the machine's filesystem read-only here, and lays the node's own folders over it.
func mounts(spec cluster.Spec) error {
	// Held open, because what is laid over the tree may hide them.
	dir, err := unix.Open(spec.Dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	bin, err := unix.Open(spec.Bin, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	do := mounter{}
	do.mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	do.mount("tmpfs", "/mnt", "tmpfs", 0, "mode=755")
	do.bind(fmt.Sprintf("/proc/self/fd/%d", dir), cluster.NodeDir)
	do.bind(fmt.Sprintf("/proc/self/fd/%d", bin), cluster.NodeBin)
	do.mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	do.mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
	do.mount("tmpfs", "/tmp", "tmpfs", 0, "mode=1777")
	do.folder(filepath.Join(cluster.NodeDir, "lib"))
	do.folder(filepath.Join(cluster.NodeDir, "log", "machine"))
	do.mount(filepath.Join(cluster.NodeDir, "lib"), "/var/lib", "", unix.MS_BIND, "")
	do.mount(filepath.Join(cluster.NodeDir, "log", "machine"), "/var/log", "", unix.MS_BIND, "")
	do.mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	do.sysctls()
	// The kubelet hands mounts on to pods.
	do.mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
	if do.err != nil {
		return do.err
	}
	return syscall.Sethostname([]byte(cluster.NodeName))
}

// mounter keeps the first error.
type mounter struct{ err error }

func (m *mounter) mount(source, target, kind string, flags uintptr, data string) {
	if m.err != nil {
		return
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		m.err = fmt.Errorf("mounting %s on %s: %w", source, target, err)
	}
}

func (m *mounter) folder(path string) {
	if m.err == nil {
		m.err = os.MkdirAll(path, 0o755)
	}
}

func (m *mounter) bind(source, target string) {
	m.folder(target)
	m.mount(source, target, "", unix.MS_BIND, "")
}

// sysctls shows the kubelet what it wants to see of settings that all of the machine shares. It would
// set them otherwise, for everybody, and would not put them back.
func (m *mounter) sysctls() {
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0",
		"kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		path := filepath.Join("/proc/sys", name)
		if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == value {
			continue
		}
		shown := filepath.Join("/run/sysctl", name)
		m.folder(filepath.Dir(shown))
		if m.err == nil {
			m.err = os.WriteFile(shown, []byte(value+"\n"), 0o644)
		}
		m.mount(shown, path, "", unix.MS_BIND, "")
	}
}
