package office

import "time"

// Kind is what happens at a desk.
type Kind int

// Kinds of acts.
const (
	// LogOn begins a desktop session.
	LogOn Kind = iota
	// LogOff ends it; every window is closed before.
	LogOff
	// Open starts a program, or opens another window of it, in front.
	Open
	// Retitle gives a window another document.
	Retitle
	// Close closes a window, and its program with the last one.
	Close
	// Focus brings a window to the front; 0: nothing is in front.
	Focus
	// Input is a key or a click, whichever.
	Input
	// Lock and Unlock are the screen's.
	Lock
	Unlock
	// Sleep and Wake are the machine's.
	Sleep
	Wake
)

// String names the kind.
func (k Kind) String() string {
	return [...]string{"log on", "log off", "open", "retitle", "close", "focus", "input", "lock", "unlock", "sleep", "wake"}[k]
}

// Act is one thing that happens at a desk.
type Act struct {
	At   time.Time
	Kind Kind
	// Window is the window that Open, Retitle, Close and Focus speak of; never used
	// twice by one person.
	Window uint64
	// Program is what Open starts.
	Program Program
	// Title is the window's title, of Open and Retitle.
	Title string
}
