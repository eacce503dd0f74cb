package desktop

import (
	"bufio"
	"bytes"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// snapFolders are where snapd mounts snaps: /snap, or on distributions that want no
// folder of their own at the root, the other.
var snapFolders = []string{"/snap/", "/var/lib/snapd/snap/"}

// packageOf names the flatpak (its application id) or snap (its instance name) that a
// process runs from; empty for an ordinary program.
//
// Both give a program a root directory of its own. Flatpak puts a file there that says
// which application it is (flatpak-metadata(5)). snapd names the control group
// after the snap, which programs inherit that were merely started from it, such as
// from the terminal of an editor in a classic snap: those have the machine's own root.
func (t *processTable) packageOf(pid int32, executable, cgroup string) string {
	if snap := snapOfPath(executable); snap != "" {
		return snap
	}
	own, err := folderAt("/")
	its, itsErr := folderAt(t.file(pid, "root"))
	rootTold := err == nil && itsErr == nil
	if rootTold && own == its {
		return ""
	}
	if rootTold {
		if n, err := t.readForeign(t.file(pid, "root/.flatpak-info")); err == nil {
			return flatpakOfInfo(t.buffer[:n])
		}
	}
	return packageOfCgroup(cgroup)
}

// folder is what tells one folder of the machine from another.
type folder struct {
	major, minor uint32
	inode        uint64
}

// folderAt does not ask the server that a folder may be on, which may be gone.
func folderAt(name string) (folder, error) {
	var about unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, name, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &about); err != nil {
		return folder{}, err
	}
	return folder{about.Dev_major, about.Dev_minor, about.Ino}, nil
}

// readForeign reads a file where anybody may have put anything, as a program can make a
// root of its own: to open a pipe would wait for whoever writes to it, to open a device
// does what that device does, and a link leads to what only root may reach. So it is held
// by its name until it is known to be a file.
func (t *processTable) readForeign(name string) (int, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var about unix.Stat_t
	if err := unix.Fstat(fd, &about); err != nil {
		return 0, err
	}
	if about.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, unix.EINVAL
	}
	return t.read(proc + "/self/fd/" + strconv.Itoa(fd))
}

func snapOfPath(executable string) string {
	for _, folder := range snapFolders {
		if rest, ok := strings.CutPrefix(executable, folder); ok {
			if name, _, ok := strings.Cut(rest, "/"); ok && name != "bin" {
				return name
			}
		}
	}
	return ""
}

// flatpakOfInfo reads the application's id out of /.flatpak-info.
func flatpakOfInfo(info []byte) string {
	inApplication := false
	for lines := bufio.NewScanner(bytes.NewReader(info)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "[") {
			inApplication = line == "[Application]"
			continue
		}
		if name, ok := strings.CutPrefix(line, "name="); ok && inApplication {
			return strings.ToValidUTF8(name, "")
		}
	}
	return ""
}

// packageOfCgroup finds the package in the scope or service that flatpak or snapd makes
// for each run: app-flatpak-org.kde.kate-1234.scope, snap.firefox.firefox-….scope. Before
// the unified hierarchy snapd made one for each snap: /snap.firefox.
func packageOfCgroup(cgroup string) string {
	for part := range strings.FieldsFuncSeq(cgroup, func(r rune) bool { return r == '/' || r == '\n' || r == ':' }) {
		if rest, ok := strings.CutPrefix(part, "app-flatpak-"); ok {
			if dash := strings.LastIndexByte(rest, '-'); dash > 0 {
				return strings.ReplaceAll(rest[:dash], `\x2d`, "-")
			}
		}
		if rest, ok := strings.CutPrefix(part, "snap."); ok {
			name, _, _ := strings.Cut(rest, ".")
			return name
		}
	}
	return ""
}
