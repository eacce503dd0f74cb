package desktop

import (
	"bufio"
	"bytes"
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
	var own, its unix.Stat_t
	rootTold := unix.Stat("/", &own) == nil && unix.Stat(t.file(pid, "root"), &its) == nil
	if rootTold && own.Dev == its.Dev && own.Ino == its.Ino {
		return ""
	}
	if rootTold {
		if n, err := t.read(t.file(pid, "root/.flatpak-info")); err == nil {
			return flatpakOfInfo(t.buffer[:n])
		}
	}
	return packageOfCgroup(cgroup)
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
