package desktop

import (
	"cmp"
	"context"
	_ "embed" // the script for KWin
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"

	"github.com/cetrus/cetrus/agent/activity"
)

// The shells of GNOME and KDE tell other programs nothing of their windows, but each
// runs a small script of ours (shells/) that does: an extension that packages install
// and GNOME Shell loads, and a script that is handed to KWin. It calls Show of the
// object below, on the session's message bus.
const (
	gnomeShell = "org.gnome.Shell"
	kwin       = "org.kde.KWin"

	eyesName      = "org.cetrus.Eyes1" // of the bus, where the extension looks for us
	eyesInterface = "org.cetrus.Eyes1"
	eyesPath      = dbus.ObjectPath("/org/cetrus/Eyes")

	dbusInterface = "org.freedesktop.DBus"

	kwinScripting  = "org.kde.kwin.Scripting"
	kwinScript     = "org.kde.kwin.Script"
	kwinPath       = dbus.ObjectPath("/Scripting")
	kwinScriptName = "cetrus-eyes"

	mutterIdleName = "org.gnome.Mutter.IdleMonitor"
	mutterIdlePath = dbus.ObjectPath("/org/gnome/Mutter/IdleMonitor/Core")

	noExtension = "GNOME Shell tells no other program which window is in front, and does not run the extension of this agent"
	noScript    = "KWin has not told yet which window is in front"
	nameTaken   = "another program pretends to be this agent on the session's message bus"

	maxShown = 4 << 20
)

//go:embed shells/kwin/eyes.js
var kwinEyes string

// shellBus is a session's message bus with a shell that has windows to tell of.
type shellBus struct {
	name  string // empty: there is none
	owner string // the shell's unique name
	conn  *dbus.Conn
}

// findShell looks for a shell on a session's message bus.
func findShell(ctx context.Context, address string) shellBus {
	if address == "" {
		return shellBus{}
	}
	// The connection lives as long as the context that it is given.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	conn, err := dbus.Connect(address, dbus.WithContext(life))
	if err != nil {
		end()
		return shellBus{}
	}
	for _, name := range []string{gnomeShell, kwin} {
		var owner string
		if conn.BusObject().CallWithContext(ctx, dbusInterface+".GetNameOwner", 0, name).Store(&owner) == nil && stop() {
			return shellBus{name: name, owner: owner, conn: conn}
		}
	}
	stop()
	end()
	_ = conn.Close()
	return shellBus{}
}

// shellWindows follows the windows that a shell tells of.
type shellWindows struct {
	shell  shellBus
	wake   func()
	loaded bool // KWin was handed the script

	listening sync.WaitGroup
	looks     int

	mu    sync.Mutex
	named bool // the name that the extension looks for is ours
	ids   shellIDs
	facts windowFacts
	gone  error
}

func openShellWindows(ctx context.Context, shell shellBus, at place, wake func()) (*shellWindows, error) {
	s := &shellWindows{shell: shell, wake: wake, facts: windowFacts{unsupported: noExtension}}
	if shell.name == kwin {
		s.facts.unsupported = noScript
	}
	if err := s.open(ctx, at); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *shellWindows) open(ctx context.Context, at place) error {
	bus := s.shell.conn
	signals := make(chan *dbus.Signal, 32)
	bus.Signal(signals)
	s.listening.Go(func() { s.listen(signals) })
	if err := bus.AddMatchSignalContext(ctx, dbus.WithMatchInterface(dbusInterface), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, s.shell.name)); err != nil {
		return fmt.Errorf("desktop: subscribe to the session's message bus: %w", err)
	}
	if err := bus.ExportMethodTable(map[string]any{"Show": s.show}, eyesPath, eyesInterface); err != nil {
		return fmt.Errorf("desktop: %w", err)
	}
	if s.shell.name == kwin {
		return s.loadScript(ctx, at)
	}
	var reply dbus.RequestNameReply
	// Where another program has the name, it is ours as soon as that goes.
	err := bus.BusObject().CallWithContext(ctx, dbusInterface+".RequestName", 0, eyesName, dbus.RequestNameFlags(0)).Store(&reply)
	if err != nil {
		return fmt.Errorf("desktop: take the name %s on the session's message bus: %w", eyesName, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if reply == dbus.RequestNameReplyInQueue && !s.named {
		s.facts.unsupported = nameTaken
	}
	return nil
}

// acquired takes in that the name on the bus is ours from now on: nothing that the shell
// has told was for us before.
func (s *shellWindows) acquired() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.named = true
	if s.facts.unsupported == nameTaken {
		s.facts.unsupported = noExtension
	}
}

// listen notes when the shell goes, and when the name is ours, until the connection ends.
func (s *shellWindows) listen(signals <-chan *dbus.Signal) {
	defer s.wake()
	defer s.lost(errors.New("desktop: the session's message bus has closed the connection"))
	for signal := range signals {
		if signal.Name == dbusInterface+".NameOwnerChanged" && len(signal.Body) == 3 && signal.Body[0] == s.shell.name && signal.Body[2] != s.shell.owner {
			s.lost(fmt.Errorf("desktop: %s has gone", s.shell.name))
			s.wake()
		}
		if signal.Name == dbusInterface+".NameAcquired" && signal.Sender == dbusInterface && len(signal.Body) == 1 && signal.Body[0] == eyesName {
			s.acquired()
			s.wake()
		}
	}
}

func (s *shellWindows) lost(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone == nil {
		s.gone = why
	}
}

// show takes what the script in the shell tells; nobody else is listened to.
func (s *shellWindows) show(sender dbus.Sender, text string) *dbus.Error {
	if string(sender) != s.shell.owner {
		return dbus.MakeFailedError(errors.New("only the shell of this session tells of its windows"))
	}
	s.mu.Lock()
	facts, err := parseShown([]byte(text), &s.ids)
	if err == nil {
		s.facts = facts
	}
	s.mu.Unlock()
	if err != nil {
		return dbus.MakeFailedError(err)
	}
	s.wake()
	return nil
}

// windows implements windowSource.
func (s *shellWindows) windows(ctx context.Context) (windowFacts, error) {
	s.looks++
	if s.loaded && s.looks%fullLookEvery == 0 {
		var loaded bool
		if err := s.kwin().CallWithContext(ctx, kwinScripting+".isScriptLoaded", dbus.FlagNoAutoStart, kwinScriptName).Store(&loaded); err == nil && !loaded {
			return windowFacts{}, errors.New("desktop: KWin does not run the script any more that tells which window is in front")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.facts, s.gone
}

func (s *shellWindows) kwin() dbus.BusObject { return s.shell.conn.Object(kwin, kwinPath) }

// loadScript hands KWin the script, which tells this connection and nobody else: the
// file names it.
func (s *shellWindows) loadScript(ctx context.Context, at place) error {
	names := s.shell.conn.Names()
	if len(names) == 0 {
		return errors.New("desktop: the session's message bus has given no name")
	}
	if at.runtimeDir == "" {
		return errors.New("desktop: XDG_RUNTIME_DIR is not set, so there is no place for KWin's script")
	}
	// Always the same file, so that one that a crash has left is overwritten. KWin has read
	// it by the time that it says to run it; a helper is confined afterwards, and could not
	// remove it any more.
	script := filepath.Join(at.runtimeDir, "cetrus-eyes.js")
	defer os.Remove(script)
	if err := os.WriteFile(script, []byte(strings.ReplaceAll(kwinEyes, "@EYES@", names[0])), 0o600); err != nil {
		return fmt.Errorf("desktop: KWin's script: %w", err)
	}
	var unloaded bool
	_ = s.kwin().CallWithContext(ctx, kwinScripting+".unloadScript", 0, kwinScriptName).Store(&unloaded) // of an agent before this one
	var id int32
	if err := s.kwin().CallWithContext(ctx, kwinScripting+".loadScript", 0, script, kwinScriptName).Store(&id); err != nil || id < 0 {
		return fmt.Errorf("desktop: KWin does not load the script that tells which window is in front: %d, %w", id, err)
	}
	s.loaded = true
	// Plasma 6 has it at the first path, Plasma 5 at the second.
	var err error
	for _, path := range []dbus.ObjectPath{dbus.ObjectPath(fmt.Sprintf("/Scripting/Script%d", id)), dbus.ObjectPath(fmt.Sprintf("/%d", id))} {
		if err = s.shell.conn.Object(kwin, path).CallWithContext(ctx, kwinScript+".run", 0).Err; err == nil {
			return nil
		}
	}
	return fmt.Errorf("desktop: KWin does not run the script that tells which window is in front: %w", err)
}

// close implements windowSource.
func (s *shellWindows) close() {
	if s.loaded {
		ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
		_ = s.kwin().CallWithContext(ctx, kwinScripting+".unloadScript", dbus.FlagNoAutoStart, kwinScriptName).Err
		cancel()
	}
	_ = s.shell.conn.Close()
	s.listening.Wait()
}

// shellIDs gives numbers to what a shell calls its windows. One number is given once.
type shellIDs struct {
	last    uint64
	numbers map[string]uint64
}

func (i *shellIDs) of(name string) uint64 {
	if name == "" {
		return 0
	}
	return i.numbers[name]
}

// renew gives numbers to windows that are new, and forgets those that are gone.
func (i *shellIDs) renew(windows []shownWindow) {
	numbers := make(map[string]uint64, len(windows))
	for _, w := range windows {
		if _, twice := numbers[w.ID]; twice || w.ID == "" {
			continue
		}
		number, known := i.numbers[w.ID]
		if !known {
			i.last++
			number = i.last
		}
		numbers[w.ID] = number
	}
	i.numbers = numbers
}

// shown is what a script tells: all windows, every time.
type shown struct {
	// Ended: the script is being stopped, and not because the screen is locked.
	Ended   bool          `json:"ended"`
	Focus   string        `json:"focus"`
	Windows []shownWindow `json:"windows"`
}

type shownWindow struct {
	ID     string `json:"id"`
	Parent string `json:"parent"`
	PID    int32  `json:"pid"`
	Class  string `json:"class"`
	Title  string `json:"title"`
}

// parseShown reads what a script in a shell tells.
func parseShown(text []byte, ids *shellIDs) (windowFacts, error) {
	if len(text) > maxShown {
		return windowFacts{}, fmt.Errorf("desktop: a shell tells %d bytes of its windows, at most %d are read", len(text), maxShown)
	}
	var told shown
	if err := json.Unmarshal(text, &told); err != nil {
		return windowFacts{}, fmt.Errorf("desktop: what a shell tells of its windows: %w", err)
	}
	if told.Ended {
		return windowFacts{unsupported: noExtension}, nil
	}
	if len(told.Windows) > maxWindows {
		return windowFacts{}, fmt.Errorf("desktop: a shell tells of %d windows, at most %d are read", len(told.Windows), maxWindows)
	}
	ids.renew(told.Windows)
	var facts windowFacts
	for _, w := range told.Windows {
		id := ids.of(w.ID)
		if id == 0 || slices.ContainsFunc(facts.list, func(other activity.Window) bool { return other.ID == id }) {
			continue
		}
		shown := activity.Window{ID: id, PID: max(0, w.PID), Class: clipText(w.Class), Title: clipText(w.Title)}
		if parent := ids.of(w.Parent); parent != id {
			shown.Parent = parent
		}
		facts.list = append(facts.list, shown)
	}
	// A shell may tell them in the order in which they lie on each other.
	slices.SortFunc(facts.list, func(a, b activity.Window) int { return cmp.Compare(a.ID, b.ID) })
	facts.foreground = ids.of(told.Focus)
	return facts, nil
}

// mutterIdle asks GNOME's compositor how long ago the last input was. What keeps the
// session from becoming idle is not in it.
type mutterIdle struct {
	shell shellBus
	input lastInput
	sleep sleepMeter
	last  moment
}

// lastInput implements idleSource.
func (m *mutterIdle) lastInput(ctx context.Context, reading moment) (inputFacts, error) {
	m.sleep.note(m.last, reading)
	m.last = reading
	var idle uint64
	before := awakeMillis()
	call := m.shell.conn.Object(mutterIdleName, mutterIdlePath).CallWithContext(ctx, mutterIdleName+".GetIdletime", dbus.FlagNoAutoStart)
	if err := call.Store(&idle); err != nil {
		if ctx.Err() != nil {
			return inputFacts{}, ctx.Err()
		}
		return inputFacts{unsupported: noIdlenessOffered}, nil
	}
	after := awakeMillis()
	since := int64(min(idle, uint64(after)))
	boot, _ := m.input.take(inputReading{known: true, earliest: before - since, latest: after - since}, m.sleep)
	return inputFacts{bootMillis: boot}, nil
}

// close implements idleSource; the connection is not its own.
func (*mutterIdle) close() {}
