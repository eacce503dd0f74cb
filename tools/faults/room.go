package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cetrus/cetrus/tools/faults/network"
)

// room is a mount namespace that all machines of a run are in: their names are known there, and their
// disks are mounted. It goes with the processes in it and with this one, and leaves nothing behind.
type room struct {
	namespace *os.File
	hosts     string
}

// newRoom makes one where machines have their names.
func newRoom(dir string, machines map[string]*network.Machine) (*room, error) {
	r := &room{hosts: filepath.Join(dir, "hosts")}
	var text strings.Builder
	text.WriteString("127.0.0.1 localhost\n")
	for name, m := range machines {
		fmt.Fprintf(&text, "%s %s\n", m.Address, name)
	}
	if err := os.WriteFile(r.hosts, []byte(text.String()), 0o644); err != nil {
		return nil, fmt.Errorf("faults: names of machines: %w", err)
	}
	made := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never given back: the thread is in the room, and ends
		made <- r.make()
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("faults: a mount namespace: %w", err)
	}
	return r, nil
}

func (r *room) make() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil { // with it comes CLONE_FS
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount(r.hosts, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	r.namespace, err = os.Open("/proc/thread-self/ns/mnt")
	return err
}

// within runs something in the room.
func (r *room) within(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never given back
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Setns(int(r.namespace.Fd()), unix.CLONE_NEWNS)
		}
		if err != nil {
			done <- fmt.Errorf("faults: into the mount namespace: %w", err)
			return
		}
		done <- do()
	}()
	return <-done
}

// command is how a program is run on a machine in the room.
func (r *room) command(m *network.Machine) []string {
	return append([]string{"nsenter", fmt.Sprintf("--mount=/proc/%d/fd/%d", os.Getpid(), r.namespace.Fd())}, m.Namespace(), "--")
}

func (r *room) close() error {
	if r == nil {
		return nil
	}
	return r.namespace.Close()
}
