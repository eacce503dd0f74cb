package activity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"unicode/utf8"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

// maxLabel is the greatest length of a label in bytes.
const maxLabel = 1024

// Categories of documents that have no extension to tell one by.
const (
	otherCategory   = "other"
	unsavedCategory = "unsaved"
)

// recognised is what an event tells of how its document was found out.
type recognised struct {
	Source     usagev1.DocumentSource     `json:"src,omitempty"`
	Confidence usagev1.DocumentConfidence `json:"sure,omitempty"`
	Unsaved    bool                       `json:"unsaved,omitempty"`
}

// found is a document as it was found out, whole: it stays in memory.
type found struct {
	recognised
	// file: name is a file's, and folder its folder where that is known.
	file         bool
	folder, name string
}

// whole is all that is known of the name.
func (f found) whole() string {
	switch {
	case f.folder == "":
		return f.name
	case strings.HasSuffix(f.folder, "/") || strings.HasSuffix(f.folder, `\`):
		return f.folder + f.name
	case strings.ContainsRune(f.folder, '\\'):
		return f.folder + `\` + f.name
	default:
		return f.folder + "/" + f.name
	}
}

// oneSpelling is the same for every way to write a path of Windows.
func (f found) oneSpelling() string {
	whole := f.whole()
	if f.file && isWindowsPath(whole) {
		return strings.ToLower(strings.ReplaceAll(whole, "/", `\`))
	}
	return whole
}

// reduce cuts a document down to what policy lets out of memory: an id that reports can
// group by, and a label where there is one. ok is false where the id must be random,
// since nothing of the name may go into it. run is what tells one run of a program from
// another: what was never saved is nothing that two of them could share.
func reduce(kind policyv1.DocumentReduction, key []byte, f found, run []byte) (id contract.ID, label string, ok bool) {
	var kept string
	unsaved := f.Unsaved
	switch kind {
	case policyv1.DocumentReduction_DOCUMENT_REDUCTION_CATEGORY:
		if kept = unsavedCategory; !unsaved {
			kept = category(f.name)
		}
		label, unsaved = kept, false
	case policyv1.DocumentReduction_DOCUMENT_REDUCTION_HASH:
		kept = f.oneSpelling()
	case policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME:
		kept = fileName(f.name)
		label = kept
	case policyv1.DocumentReduction_DOCUMENT_REDUCTION_ALL:
		kept, label = f.oneSpelling(), f.whole()
	default:
		return contract.ID{}, "", false
	}
	mac := hmac.New(sha256.New, key)
	// The kind is hashed too, so that the category "plan" is not the file "plan".
	if unsaved {
		mac.Write([]byte{byte(kind) | 0x80})
		mac.Write(run)
	} else {
		mac.Write([]byte{byte(kind)})
	}
	mac.Write([]byte(kept))
	copy(id[:], mac.Sum(nil))
	return id, clip(label, maxLabel), true
}

// runOf tells one run of a program from all others; it does not change while the agent
// is started anew.
func runOf(s *session, w *window) []byte {
	run := append([]byte(nil), s.ID[:]...)
	if w.known {
		run = binary.BigEndian.AppendUint32(run, uint32(w.process.PID))
		return binary.BigEndian.AppendUint64(run, uint64(w.process.StartMillis))
	}
	return binary.BigEndian.AppendUint64(run, w.ID)
}

// isWindowsPath tells a path of Windows, whose case says nothing.
func isWindowsPath(path string) bool {
	if strings.HasPrefix(path, `\\`) {
		return true
	}
	if len(path) < 3 || path[1] != ':' || path[2] != '\\' && path[2] != '/' {
		return false
	}
	return path[0]|0x20 >= 'a' && path[0]|0x20 <= 'z'
}

func fileName(name string) string {
	if i := strings.LastIndexAny(name, `/\`); i >= 0 && i < len(name)-1 {
		return name[i+1:]
	}
	return name
}

// category is the extension, in lower case. A long one, or one that is not plain
// letters and digits, is part of a name and not let out.
func category(name string) string {
	base := fileName(name)
	i := strings.LastIndexByte(base, '.')
	if i < 0 || i == len(base)-1 || len(base)-i > 11 {
		return otherCategory
	}
	for _, r := range base[i+1:] {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') {
			return otherCategory
		}
	}
	return strings.ToLower(base[i:])
}

// clip shortens text to whole runes within n bytes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Evidence tells which files a process has to do with. It is asked for a document that a
// title names without its folder, once for each such title, and never where policy keeps
// nothing of documents. It may be asked of a process that has just gone.
type Evidence interface {
	// CommandLine gives the whole paths of what the process was started with, of
	// arguments that may be files.
	CommandLine(p Process) []string
	// OpenFiles gives the whole paths of the files that the process holds open.
	OpenFiles(p Process) []string
	// Home is the home folder of the process's user; empty: not known.
	Home(p Process) string
}

// noEvidence is that of a desktop that is a script.
type noEvidence struct{}

func (noEvidence) CommandLine(Process) []string { return nil }
func (noEvidence) OpenFiles(Process) []string   { return nil }
func (noEvidence) Home(Process) string          { return "" }

const (
	// maxFamily bounds the processes that are asked for one title.
	maxFamily = 16
	// maxFiles bounds what is remembered of the files of one process.
	maxFiles = 256
)

// findOut finds out which document a window shows, by what its title says.
func (m *Machine) findOut(s *session, w *window, said rules.Document) found {
	f := found{name: said.Name}
	f.Source = usagev1.DocumentSource_DOCUMENT_SOURCE_TITLE
	switch said.Kind {
	case rules.WholeTitle:
		f.Confidence = usagev1.DocumentConfidence_DOCUMENT_CONFIDENCE_LOW
	case rules.Named:
		f.Confidence = usagev1.DocumentConfidence_DOCUMENT_CONFIDENCE_MEDIUM
	case rules.Unsaved:
		f.Confidence, f.Unsaved = usagev1.DocumentConfidence_DOCUMENT_CONFIDENCE_MEDIUM, true
	case rules.File:
		return m.findFile(s, w, said)
	case rules.NoDocument, rules.Private:
	}
	return f
}

// findFile finds the folder of a file whose name a title tells.
func (m *Machine) findFile(s *session, w *window, said rules.Document) found {
	f := found{file: true, folder: said.Folder, name: said.Name}
	f.Source, f.Confidence = usagev1.DocumentSource_DOCUMENT_SOURCE_TITLE, usagev1.DocumentConfidence_DOCUMENT_CONFIDENCE_MEDIUM
	p := s.processes[w.process]
	if !w.known {
		p = nil
	}
	if rest, ok := strings.CutPrefix(said.Folder, "~"); ok && p != nil && (rest == "" || rest[0] == '/') {
		if home := m.evidence.Home(p.Process); home != "" {
			f.folder = strings.TrimRight(home, "/") + rest
		}
	}
	if isAbsolute(f.folder) {
		f.Confidence = usagev1.DocumentConfidence_DOCUMENT_CONFIDENCE_HIGH
		return f
	}
	if p == nil {
		return f.orProject(said)
	}
	asked := asked(said)
	family := s.family(p)
	if path, ok := ask(family, m.evidence.OpenFiles, said); ok {
		f.folder, f.name = split(path)
		f.Source, f.Confidence = usagev1.DocumentSource_DOCUMENT_SOURCE_OPEN_FILE, usagev1.DocumentConfidence_DOCUMENT_CONFIDENCE_HIGH
		return p.remember(asked, f)
	}
	// What was found out once stays so: many programs hold a file open only while they
	// read or write it, and one document must not become two.
	if before, ok := p.files[asked]; ok {
		return before
	}
	if path, ok := ask(family, m.evidence.CommandLine, said); ok {
		f.folder, f.name = split(path)
		f.Source = usagev1.DocumentSource_DOCUMENT_SOURCE_COMMAND_LINE
		return p.remember(asked, f)
	}
	return p.remember(asked, f.orProject(said))
}

// asked names what is asked of a process.
func asked(said rules.Document) string {
	return strings.Join([]string{said.Project, said.Folder, said.Name}, "\x00")
}

// orProject takes the project for a folder that is not known: two projects have a file
// of the same name more often than not.
func (f found) orProject(said rules.Document) found {
	if f.folder == "" {
		f.folder = said.Project
	}
	return f
}

// ask asks the processes one by one, until one knows the file.
func ask(family []*process, paths func(Process) []string, said rules.Document) (path string, ok bool) {
	for _, p := range family {
		if path, ok := theOne(paths(p.Process), said); ok {
			return path, true
		}
	}
	return "", false
}

func (p *process) remember(asked string, f found) found {
	if p.files == nil || len(p.files) >= maxFiles {
		p.files = map[string]found{}
	}
	p.files[asked] = f
	return f
}

// family is a process and what it has started, which is asked where the window's own
// process is a terminal or a launcher; the window's own comes first.
func (s *session) family(first *process) []*process {
	all := []*process{first}
	for key, p := range s.processes {
		at := key
		for range maxParents {
			parent, there := s.lineage[at]
			if !there {
				break
			}
			if parent == first.Key() {
				all = append(all, p)
				break
			}
			at = parent
		}
		if len(all) == maxFamily {
			break
		}
	}
	return all
}

// theOne is the path that a title speaks of, where just one of those given can be it. A
// name without its extension counts only where nothing has the name itself.
func theOne(paths []string, said rules.Document) (path string, ok bool) {
	var whole, stem candidates
	for _, p := range paths {
		folder, name := split(p)
		if !inFolder(folder, said.Folder) {
			continue
		}
		same, sameStem := speaksOf(said.Name, name)
		if same {
			whole.add(p, folder, said.Project)
		} else if sameStem {
			stem.add(p, folder, said.Project)
		}
	}
	if whole.n > 0 {
		return whole.path, whole.n == 1
	}
	return stem.path, stem.n == 1
}

// candidates counts different paths; those in the title's project go before others.
type candidates struct {
	path      string
	n         int
	inProject bool
}

func (c *candidates) add(path, folder, project string) {
	inProject := project != "" && strings.Contains(strings.ToLower(strings.ReplaceAll(folder, `\`, "/"))+"/", "/"+strings.ToLower(project)+"/")
	switch {
	case c.n == 0 || inProject && !c.inProject:
		*c = candidates{path: path, n: 1, inProject: inProject}
	case c.path != path && inProject == c.inProject:
		c.n++
	}
}

// speaksOf tells whether a title's name is a file's, or is so but for the extension,
// which some programs leave off.
func speaksOf(said, name string) (same, sameStem bool) {
	if strings.EqualFold(said, name) {
		return true, true
	}
	i := strings.LastIndexByte(name, '.')
	return false, i > 0 && strings.EqualFold(said, name[:i])
}

// inFolder tells whether a folder can be the one that a title tells a part of.
func inFolder(folder, said string) bool {
	said = strings.TrimLeft(strings.TrimPrefix(strings.TrimPrefix(said, "~"), "…"), `/\`)
	said = strings.TrimPrefix(strings.TrimPrefix(said, "..."), "/")
	if said == "" || said == "." {
		return true
	}
	folder, said = strings.ReplaceAll(folder, `\`, "/"), strings.ReplaceAll(said, `\`, "/")
	return strings.HasSuffix("/"+strings.ToLower(folder), "/"+strings.ToLower(said))
}

func isAbsolute(folder string) bool {
	return strings.HasPrefix(folder, "/") || isWindowsPath(folder) || len(folder) == 2 && isWindowsPath(folder+`\`)
}

// split cuts a whole path into folder and name.
func split(path string) (folder, name string) {
	i := strings.LastIndexAny(path, `/\`)
	switch {
	case i < 0:
		return "", path
	case i == 0:
		return path[:1], path[1:]
	}
	return path[:i], path[i+1:]
}
