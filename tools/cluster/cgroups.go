package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hierarchies are the folders of cgroups that this machine has: one with version 2, one for each
// controller with version 1.
func hierarchies() ([]string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && (f[2] == "cgroup" || f[2] == "cgroup2") {
			found = append(found, f[1])
		}
	}
	if len(found) == 0 {
		return nil, errors.New("this machine has no cgroups mounted; Kubernetes does not run without them")
	}
	return found, nil
}

// enterCgroups makes the cgroup NAME in every hierarchy, and puts a process into its leaf "node".
// Pods come beside that leaf, because version 2 wants processes in leaves alone.
func enterCgroups(name string, pid int) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, hierarchy := range all {
		above := hierarchy
		for _, part := range []string{name, "node"} {
			if err := hand(above, filepath.Join(above, part)); err != nil {
				return err
			}
			above = filepath.Join(above, part)
		}
		if err := os.WriteFile(filepath.Join(above, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("entering %s: %w", above, err)
		}
	}
	return nil
}

// hand makes a cgroup that may use what the one above may.
func hand(above, folder string) error {
	if controllers, err := os.ReadFile(filepath.Join(above, "cgroup.controllers")); err == nil {
		for controller := range strings.FieldsSeq(string(controllers)) {
			// One that is taken by version 1 or bound elsewhere is refused, and not needed then.
			_ = os.WriteFile(filepath.Join(above, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
		}
	}
	if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		// With version 1 a new cpuset holds nothing, and takes no process until it does.
		own, err := os.ReadFile(filepath.Join(folder, file))
		if err != nil || len(bytes.TrimSpace(own)) > 0 {
			continue
		}
		given, err := os.ReadFile(filepath.Join(above, file))
		if err == nil && len(bytes.TrimSpace(given)) > 0 {
			err = os.WriteFile(filepath.Join(folder, file), given, 0o644)
		}
		if err != nil {
			return fmt.Errorf("giving processors to %s: %w", folder, err)
		}
	}
	return nil
}

// LeaveCgroups puts the calling process back to the root of every hierarchy.
func LeaveCgroups() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, hierarchy := range all {
		// The machine may not let go of it in a hierarchy where it stands at the root anyway.
		_ = os.WriteFile(filepath.Join(hierarchy, "cgroup.procs"), []byte("0"), 0o644)
	}
	return nil
}

// RemoveCgroups removes the cgroup NAME and all below, ending what still runs there.
func RemoveCgroups(name string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	var failed []error
	for _, hierarchy := range all {
		deadline := time.Now().Add(10 * time.Second)
		for {
			err := removeCgroup(filepath.Join(hierarchy, name))
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			if time.Now().After(deadline) {
				failed = append(failed, err)
				break
			}
			<-time.After(20 * time.Millisecond) // the kernel tells nobody when an ended process has left
		}
	}
	return errors.Join(failed...)
}

func removeCgroup(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeCgroup(filepath.Join(folder, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	processes, err := os.ReadFile(filepath.Join(folder, "cgroup.procs"))
	if err != nil {
		return err
	}
	for process := range strings.FieldsSeq(string(processes)) {
		if pid, err := strconv.Atoi(process); err == nil && pid > 1 && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return os.Remove(folder)
}
