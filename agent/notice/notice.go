package notice

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Documents is how much is told of documents; the greatest of all applications counts.
type Documents int

// How much is told.
const (
	NoDocuments Documents = iota
	// Unreadable: a mark that stands for the document, or its kind, but no name.
	Unreadable
	FileNames
	WholeTitles
)

// Facts are what the notice depends on.
type Facts struct {
	// Applications are the names of what is recorded, sorted.
	Applications []string
	Documents    Documents
	PauseAllowed bool
	// OtherPrograms: the names of programs that are not on the list are told as well.
	OtherPrograms bool
	// Account is the account's own text; it may be empty.
	Account string
}

// Notice is what a person is told.
type Notice struct {
	// Version changes with what is said.
	Version string
	Title   string
	// Text has paragraphs, with an empty line between two.
	Text string
}

// never is each a part of a sentence.
var never = [...]string{
	"which keys you press, or what you type",
	"where your mouse is",
	"pictures of your screen, camera or microphone",
	"the clipboard",
	"what is in your files",
	"what you do in programs that are not on the list: of these at most “something else was in front”",
}

// Never is what is never recorded, whatever the policy says.
func Never() []string { return never[:] }

// shown is how many applications the text lists.
const shown = 12

// New writes the notice.
func New(f Facts) Notice {
	n := Notice{Title: "What Cetrus records on this computer"}
	fixed := []string{
		documents[f.Documents],
		"Never recorded: " + strings.Join(never[:], "; ") + ".",
		"Who sees it: you, at any time (“My data” in the tray menu, or cetrus-agent my-data); the people whom your organisation has given the right to see reports. Reports show names to them.",
	}
	if f.PauseAllowed {
		fixed = append(fixed, "To pause: choose Pause in the tray menu, or run cetrus-agent pause. While paused, nothing is recorded but that a listed program is open and that you have paused, with a reason if you choose one from the list.")
	} else {
		fixed = append(fixed, "Your organisation has switched pausing off.")
	}
	if f.OtherPrograms {
		fixed = append(fixed, "Your organisation has asked which programs there are beside the list: this computer tells the names of those that run on it and the folders that they lie in; never when, for how long or by whom they are used, and no title of a window.")
	}
	var paragraphs []string
	if own := strings.TrimSpace(f.Account); own != "" {
		paragraphs = append(paragraphs, own)
	}
	paragraphs = append(paragraphs, recorded(f.Applications))
	paragraphs = append(paragraphs, fixed...)
	n.Text = strings.Join(paragraphs, "\n\n")
	sum := sha256.Sum256([]byte(strings.Join(append(fixed, strings.TrimSpace(f.Account)), "\x00")))
	n.Version = hex.EncodeToString(sum[:6])
	return n
}

func recorded(applications []string) string {
	const what = "Recorded: when one of your organisation's listed programs is open, and whether you are working in it (there was input), idle, or elsewhere."
	if len(applications) == 0 {
		return what + " No program is on the list at the moment."
	}
	list := applications[:min(len(applications), shown)]
	more := ""
	if n := len(applications) - len(list); n > 0 {
		more = fmt.Sprintf(" and %d more (cetrus-agent status lists all)", n)
	}
	return what + " The list: " + strings.Join(list, ", ") + more + "."
}

var documents = [...]string{
	NoDocuments: "Of your files and window titles nothing is recorded.",
	Unreadable:  "Of your files nothing readable is recorded: a mark that stands for a file, or its kind, so that hours can be added up.",
	FileNames:   "For some programs the name of the file that is open is recorded, without its folder.",
	WholeTitles: "For some programs the title of the window or the path of the file that is open is recorded.",
}
