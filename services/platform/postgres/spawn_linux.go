package postgres

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// identity is the operating-system user that the server runs as.
type identity struct {
	name     string
	uid, gid int
	// drop says that this process is root and has to become the identity.
	drop bool
}

// memoryBytes is the machine's memory, or what of it the control groups of this process
// allow; 0 where it is not known.
func memoryBytes() int64 {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return 0
	}
	return min(int64(info.Totalram)*int64(info.Unit), memoryLimit(os.DirFS("/")))
}

// identityFor chooses whose the server is: this process's user; or, for root,
// whom PostgreSQL refuses, the owner of data that exist, or a user without
// rights.
func identityFor(data string) (identity, error) {
	owner, err := ownerOf(data)
	if err != nil {
		return identity{}, err
	}
	if uid := os.Geteuid(); uid != 0 {
		if owner != nil && owner.uid != uid {
			return identity{}, fmt.Errorf("postgres: %s belongs to the user %s: run as that user or as root", data, owner.name)
		}
		return identity{name: strconv.Itoa(uid), uid: uid, gid: os.Getegid()}, nil
	}
	if owner != nil && owner.uid != 0 {
		owner.drop = true
		return *owner, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 == nil && err2 == nil {
			return identity{name: name, uid: uid, gid: gid, drop: true}, nil
		}
	}
	return identity{}, fmt.Errorf("postgres: PostgreSQL refuses to run as root, and there is neither a user postgres nor a user nobody to run it as: run as another user")
}

func ownerOf(path string) (*identity, error) {
	info, err := os.Stat(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	name := strconv.Itoa(int(stat.Uid))
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	return &identity{name: name, uid: int(stat.Uid), gid: int(stat.Gid)}, nil
}

// attributes make a child that runs as the identity, is not hit by the
// terminal's Ctrl-C (its parent stops it in its turn) and, where it is tied,
// shuts down in good order should the thread that made it die.
func (id identity) attributes(tied bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if tied {
		attr.Pdeathsig = syscall.SIGINT
	}
	if id.drop {
		attr.Credential = &syscall.Credential{Uid: uint32(id.uid), Gid: uint32(id.gid), NoSetGroups: false}
	}
	return attr
}

// own hands a path to the identity.
func (id identity) own(path string) error {
	if !id.drop {
		return nil
	}
	if err := os.Chown(path, id.uid, id.gid); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

// reaches tells whether the identity can come to dir through its parents.
func (id identity) reaches(dir string) bool {
	if !id.drop {
		return true
	}
	for parent := filepath.Dir(dir); ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err != nil {
			return false
		}
		stat := info.Sys().(*syscall.Stat_t)
		mode := info.Mode().Perm()
		if mode&0o001 == 0 && (int(stat.Uid) != id.uid || mode&0o100 == 0) && (int(stat.Gid) != id.gid || mode&0o010 == 0) {
			return false
		}
		if parent == filepath.Dir(parent) {
			return true
		}
	}
}

// lock takes the file for as long as this process lives.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := make([]byte, 32)
		n, _ := f.Read(holder)
		f.Close()
		return nil, fmt.Errorf("postgres: %s is in use by process %s: stop it, or choose another data directory", filepath.Dir(path), string(holder[:n]))
	}
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "%d", os.Getpid())
	}
	return f, nil
}

// serves tells whether process pid is a PostgreSQL server on the data directory.
func serves(pid int, data string) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || filepath.Base(exe) != "postgres" && filepath.Base(exe) != "postgres (deleted)" {
		return false
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	return err == nil && cwd == data
}
