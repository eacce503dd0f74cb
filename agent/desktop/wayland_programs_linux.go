package desktop

import (
	"bufio"
	"io"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// programs finds the process that shows windows of an application id, for compositors
// that tell no process. It finds one where the session runs that program exactly once,
// with whatever it has started; otherwise none, as it would be a guess.
type programs struct {
	table   *processTable
	uid     uint32
	wayland string // as in $WAYLAND_DISPLAY
	display string // as in $DISPLAY; empty: no X server is told of
	folders []string

	entries map[string]desktopEntry // by application id
	// answers are those of one look.
	answers map[string]int32
	running []runningProgram
	listed  bool
	// load are the kernel's task counters of the last list.
	load string
}

// runningProgram is a process that may show windows of the session.
type runningProgram struct {
	pid, parent int32
	executable  string
	pkg         string
}

// desktopEntry is what a desktop file says of the program that it starts.
type desktopEntry struct {
	executable string // base name; empty: not told
	pkg        string // the flatpak or snap; empty: neither
}

func newPrograms(at place) *programs {
	return &programs{
		table: newProcessTable("/proc"), uid: uint32(os.Getuid()), wayland: at.wayland, display: at.display,
		folders: applicationFolders(os.Getenv), entries: make(map[string]desktopEntry),
	}
}

// applicationFolders are where desktop files lie, by the XDG base directory
// specification; those of flatpak and snap are among them where a session has them.
func applicationFolders(get func(string) string) []string {
	home := get("XDG_DATA_HOME")
	if home == "" {
		folder := get("HOME")
		if u, err := user.Current(); folder == "" && err == nil {
			folder = u.HomeDir // a helper is told no more of an environment than it needs
		}
		home = filepath.Join(folder, ".local/share")
	}
	folders := []string{home}
	shared := get("XDG_DATA_DIRS")
	if shared == "" {
		shared = "/usr/local/share:/usr/share"
	}
	folders = append(folders, strings.Split(shared, ":")...)
	folders = append(folders, filepath.Join(home, "flatpak/exports/share"), "/var/lib/flatpak/exports/share", "/var/lib/snapd/desktop")
	var found []string
	for _, folder := range folders {
		if path.IsAbs(folder) {
			found = append(found, filepath.Join(folder, "applications"))
		}
	}
	return found
}

// startLook forgets what the look before has found, if any process came or went since.
func (p *programs) startLook() {
	load, err := p.table.taskCounters()
	if err != nil || load != p.load {
		p.load, p.listed, p.answers = load, false, make(map[string]int32)
	}
}

// of gives the process that shows windows of an application id; 0: not known.
func (p *programs) of(appID string) int32 {
	if appID == "" {
		return 0
	}
	if pid, known := p.answers[appID]; known {
		return pid
	}
	if !p.listed {
		p.list()
	}
	pid := p.only(p.entry(appID), appID)
	p.answers[appID] = pid
	return pid
}

// only gives the one tree of processes that runs a program, by its first process. In
// a package that is the program itself, where it is known, before what has started it.
func (p *programs) only(entry desktopEntry, appID string) int32 {
	named := func(r runningProgram) bool {
		return strings.EqualFold(r.executable, entry.executable) || strings.EqualFold(r.executable, appID)
	}
	if entry.pkg == "" {
		return p.root(named)
	}
	packed := func(r runningProgram) bool { return r.pkg == entry.pkg }
	if slices.ContainsFunc(p.running, func(r runningProgram) bool { return packed(r) && named(r) }) {
		return p.root(func(r runningProgram) bool { return packed(r) && named(r) })
	}
	return p.root(packed)
}

// root gives the first process of those that match; 0: there is none, or several that
// did not start each other.
func (p *programs) root(matches func(runningProgram) bool) int32 {
	parents := make(map[int32]int32)
	for _, r := range p.running {
		if matches(r) {
			parents[r.pid] = r.parent
		}
	}
	var first int32
	for pid, parent := range parents {
		if _, child := parents[parent]; child {
			continue
		}
		if first != 0 {
			return 0
		}
		first = pid
	}
	return first
}

// list reads the processes of the session's user; those that were started for another
// session are left out.
func (p *programs) list() {
	p.listed, p.running = true, p.running[:0]
	pids, err := p.table.pids()
	if err != nil {
		return
	}
	for _, pid := range pids {
		var info unix.Stat_t
		if unix.Stat(p.table.file(pid, ""), &info) != nil || info.Uid != p.uid {
			continue
		}
		name := p.table.executable(pid)
		stat, err := p.table.stat(pid)
		if name == "" || err != nil || stat.gone {
			continue
		}
		if p.elsewhere(pid) {
			continue
		}
		p.running = append(p.running, runningProgram{
			pid: pid, parent: stat.parent, executable: path.Base(name), pkg: p.table.packageOf(pid, name, p.table.cgroup(pid)),
		})
	}
}

// elsewhere tells whether a process was started for another compositor or X server.
func (p *programs) elsewhere(pid int32) bool {
	switch display, compositor := p.table.displaysOf(pid); {
	case compositor != "" && p.wayland != "":
		return path.Base(compositor) != path.Base(p.wayland)
	case display != "" && p.display != "":
		return !sameDisplay(display, p.display)
	}
	return false
}

// Bounds of what is read for the sake of one application id.
const (
	maxDesktopFiles = 4000
	maxDesktopFile  = 256 << 10
)

// entry finds the desktop file of an application id: the one that is named after it,
// else the one that says (StartupWMClass) that its windows are called so.
func (p *programs) entry(appID string) desktopEntry {
	if entry, known := p.entries[appID]; known {
		return entry
	}
	if len(p.entries) >= maxWindows {
		clear(p.entries)
	}
	entry, found := p.namedEntry(appID)
	if !found {
		entry = p.classEntry(appID)
	}
	p.entries[appID] = entry
	return entry
}

func (p *programs) namedEntry(appID string) (desktopEntry, bool) {
	if strings.ContainsAny(appID, "/\x00") {
		return desktopEntry{}, false
	}
	for _, folder := range p.folders {
		if entry, _, err := readDesktopEntry(filepath.Join(folder, appID+".desktop")); err == nil {
			return entry, true
		}
	}
	return desktopEntry{}, false
}

func (p *programs) classEntry(appID string) desktopEntry {
	read := 0
	for _, folder := range p.folders {
		files, err := os.ReadDir(folder)
		if err != nil {
			continue
		}
		for _, file := range files {
			if read++; read > maxDesktopFiles {
				return desktopEntry{}
			}
			if !strings.HasSuffix(file.Name(), ".desktop") {
				continue
			}
			if entry, class, err := readDesktopEntry(filepath.Join(folder, file.Name())); err == nil && strings.EqualFold(class, appID) {
				return entry
			}
		}
	}
	return desktopEntry{}
}

func readDesktopEntry(name string) (entry desktopEntry, class string, err error) {
	file, err := os.Open(name)
	if err != nil {
		return desktopEntry{}, "", err
	}
	defer file.Close()
	entry, class = parseDesktopEntry(io.LimitReader(file, maxDesktopFile))
	return entry, class, nil
}

// parseDesktopEntry reads what matters out of a file of the desktop entry
// specification: the program, its package, and what its windows are called.
func parseDesktopEntry(r io.Reader) (entry desktopEntry, class string) {
	inEntry := false
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxDesktopFile)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "[") {
			inEntry = line == "[Desktop Entry]"
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !inEntry {
			continue
		}
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "Exec":
			entry.executable = programOf(value)
		case "StartupWMClass":
			class = value
		case "X-Flatpak", "X-SnapInstanceName":
			entry.pkg = value
		}
	}
	return entry, class
}

// starters start other programs, or run them: a process of theirs says nothing of
// which program it is.
var starters = []string{
	"bash", "dash", "electron", "flatpak", "gjs", "gjs-console", "java", "mono", "node", "perl", "python", "ruby", "sh", "snap", "wine", "zsh",
}

// programOf gives the base name of the program that a command line starts; empty where
// it does not say.
func programOf(command string) string {
	var program string
	for n, field := range strings.Fields(command) {
		field = strings.Trim(field, `"'`)
		if inside, ok := strings.CutPrefix(field, "--command="); ok && program == "flatpak" {
			return path.Base(inside)
		}
		if program != "" || n == 0 && path.Base(field) == "env" || strings.Contains(field, "=") {
			continue
		}
		program = path.Base(field)
	}
	if slices.Contains(starters, strings.TrimRight(program, "0123456789.")) {
		return ""
	}
	return program
}
