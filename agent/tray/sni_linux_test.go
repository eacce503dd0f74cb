package tray

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
)

// startBus starts a message bus that is the session's for this test.
func startBus(t *testing.T) {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Fatal("dbus-daemon is missing: install it with: apt-get install dbus-daemon")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=%s/bus</listen>
<policy context="default"><allow send_destination="*"/><allow eavesdrop="false"/><allow own="*"/></policy></busconfig>`, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "--config-file="+config, "--nofork", "--print-address=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("dbus-daemon did not say its address: %v", err)
	}
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", strings.TrimSpace(address))
}

// host is a panel as the specification has it: the watcher with which icons register, and
// what reads their properties and their menu.
type host struct {
	conn *dbus.Conn
	mu   sync.Mutex
	// items are the names that have registered; changes counts the signals of each kind.
	items   []string
	changes map[string]int
}

func newHost(t *testing.T) *host {
	t.Helper()
	conn, err := dbus.ConnectSessionBus()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	h := &host{conn: conn, changes: map[string]int{}}
	if err := conn.ExportMethodTable(map[string]any{"RegisterStatusNotifierItem": func(service string) *dbus.Error {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.items = append(h.items, service)
		return nil
	}}, watcherPath, watcherName); err != nil {
		t.Fatal(err)
	}
	for _, face := range []string{itemFace, menuFace} {
		if err := conn.AddMatchSignal(dbus.WithMatchInterface(face)); err != nil {
			t.Fatal(err)
		}
	}
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	go func() { // ends when the connection is closed
		for s := range signals {
			h.mu.Lock()
			h.changes[s.Name]++
			h.mu.Unlock()
		}
	}()
	if reply, err := conn.RequestName(watcherName, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("own %s: %v, %v", watcherName, reply, err)
	}
	return h
}

func (h *host) registered() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.items) == 0 {
		return ""
	}
	return h.items[len(h.items)-1]
}

func (h *host) told(signal string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changes[signal]
}

// icon is the first pixmap of the icon, as bytes.
func (h *host) icon(t *testing.T) string {
	t.Helper()
	value, err := h.conn.Object(h.registered(), itemPath).GetProperty(itemFace + ".IconPixmap")
	if err != nil {
		t.Fatal(err)
	}
	if signature := value.Signature().String(); signature != "a(iiay)" {
		t.Fatalf("IconPixmap is %s", signature)
	}
	var maps []pixmap
	if err := value.Store(&maps); err != nil || len(maps) == 0 {
		t.Fatalf("no pixmaps: %v", err)
	}
	for _, m := range maps {
		if len(m.Data) != int(4*m.Width*m.Height) || m.Width < 16 {
			t.Fatalf("a pixmap of %d × %d has %d bytes", m.Width, m.Height, len(m.Data))
		}
	}
	return string(maps[0].Data)
}

func (h *host) text(t *testing.T, property string) (text string) {
	t.Helper()
	value, err := h.conn.Object(h.registered(), itemPath).GetProperty(itemFace + "." + property)
	if err == nil {
		err = value.Store(&text)
	}
	if err != nil {
		t.Fatalf("%s: %v", property, err)
	}
	return text
}

// menu is the menu as a host lays it out: labels and numbers of the entries that can be
// clicked.
func (h *host) menu(t *testing.T) map[string]int32 {
	t.Helper()
	value, err := h.conn.Object(h.registered(), itemPath).GetProperty(itemFace + ".Menu")
	if err != nil {
		t.Fatal(err)
	}
	var path dbus.ObjectPath
	if err := value.Store(&path); err != nil {
		t.Fatal(err)
	}
	var revision uint32
	var top layout
	call := h.conn.Object(h.registered(), path).Call(menuFace+".GetLayout", 0, int32(0), int32(-1), []string{})
	if err := call.Store(&revision, &top); err != nil {
		t.Fatal(err)
	}
	entries := map[string]int32{}
	var walk func(layout)
	walk = func(l layout) {
		label, _ := l.Properties["label"].Value().(string)
		if enabled, set := l.Properties["enabled"].Value().(bool); label != "" && (!set || enabled) {
			entries[label] = l.ID
		}
		for _, child := range l.Children {
			var below layout
			if err := dbus.Store([]any{child.Value()}, &below); err != nil {
				t.Fatal(err)
			}
			walk(below)
		}
	}
	walk(top)
	return entries
}

func (h *host) click(t *testing.T, label string) {
	t.Helper()
	id, there := h.menu(t)[label]
	if !there {
		t.Fatalf("the menu has no %q, but %v", label, h.menu(t))
	}
	if err := h.conn.Object(h.registered(), menuPath).Call(menuFace+".Event", 0, id, "clicked", dbus.MakeVariant(""), uint32(0)).Err; err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// A person's click in the menu of a panel pauses the real agent, and the icon follows; a
// panel that is started anew gets the icon again.
func TestIconOnABus(t *testing.T) {
	startBus(t)
	me, err := desktop.UserOf(t.Context(), uint32(os.Geteuid()))
	if err != nil {
		t.Fatal(err)
	}
	x := desktoptest.Record(t, desktoptest.Start(t), filepath.Join(t.TempDir(), "x"))
	t.Setenv("DISPLAY", x.Display)
	d := scripted.New(scripted.Config{Begin: time.Now(), Pace: scripted.Real(), Endless: true, Script: scripted.Steps(
		scripted.Step{Do: scripted.LogOn{User: me}},
		scripted.Step{Do: scripted.Start{PID: 10, Path: "/usr/bin/editor"}},
		scripted.Step{Do: scripted.Show{ID: 1, PID: 10}},
		scripted.Step{Do: scripted.Focus{ID: 1}},
	)})
	defer d.Close()
	dir := t.TempDir()
	id := func(n byte) []byte { return append(make([]byte, 15), n) }
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	a, err := agent.New(agent.Config{DataDir: dir, Managers: []string{"127.0.0.1:1"}, Version: "test"}, agent.Deps{Desktop: d, Log: log, Policy: &policyv1.Policy{
		AccountId: id(1), Revision: 1, PauseAllowed: true, DocumentKey: make([]byte, 32),
		Applications: []*policyv1.ApplicationPolicy{{ApplicationId: id(2), DisplayName: "Edit_or", Rules: []*policyv1.Rule{{RuleId: id(3), Executable: "editor"}}}},
		Person:       &policyv1.PersonPolicy{PauseReasons: []*policyv1.PauseReason{{Code: "break", Label: "A break"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() {
		if err := a.Run(ctx); err != nil {
			t.Errorf("the agent: %v", err)
		}
	})
	control := agent.NewControl(dir, "")
	waitFor(t, "the agent answers", func() bool {
		s, err := control.Status(ctx)
		return err == nil && len(s.Open) == 1
	})
	notices := make(chan string, 8)
	shown := make(chan struct{}, 8)
	running.Go(func() {
		err := Run(ctx, Deps{
			Agent: control, Front: NewFront(log), Log: log,
			ShowNotice: func(_ context.Context, n agent.NoticeStatus) (bool, error) {
				notices <- n.Version
				return true, nil
			},
			ShowData: func(context.Context) error {
				shown <- struct{}{}
				return nil
			},
		})
		if err != nil {
			t.Errorf("the icon: %v", err)
		}
	})
	// The notice is shown once, before anybody shows the icon.
	waitFor(t, "the notice has been seen", func() bool {
		s, err := control.Status(ctx)
		return err == nil && s.Person.Notice.Seen != nil && !s.Person.Notice.Due
	})
	first := newHost(t)
	waitFor(t, "the icon registers", func() bool { return first.registered() != "" })
	if first.text(t, "Category") != "ApplicationStatus" || first.text(t, "Status") != "Active" || first.text(t, "Id") != "cetrus-agent" {
		t.Error("the icon does not say what it is")
	}
	waiting := first.icon(t)
	if _, there := first.menu(t)["Resume recording"]; there {
		t.Error("resume is there before a pause")
	}
	first.click(t, "A break")
	waitFor(t, "the agent pauses", func() bool {
		s, err := control.Status(ctx)
		return err == nil && s.Person.Pause != nil && s.Person.Pause.Reason == "A break" && s.Open[0].Attention == "paused"
	})
	waitFor(t, "the icon changes", func() bool {
		return first.icon(t) != waiting && first.told(itemFace+".NewIcon") > 0 && first.told(menuFace+".LayoutUpdated") > 0 && strings.Contains(first.text(t, "Title"), "paused")
	})
	// The panel is started anew.
	_ = first.conn.Close()
	second := newHost(t)
	waitFor(t, "the icon registers again", func() bool { return second.registered() != "" })
	for label := range second.menu(t) {
		if strings.HasPrefix(label, "Resume recording") {
			second.click(t, label)
		}
	}
	waitFor(t, "the agent goes on", func() bool {
		s, err := control.Status(ctx)
		return err == nil && s.Person.Pause == nil && s.Open[0].Attention != "paused"
	})
	second.click(t, "My data of the last 30 days")
	<-shown
	<-notices
	second.click(t, "What is recorded, and what never…")
	<-notices
	if len(notices) > 0 {
		t.Error("the notice was shown when nobody asked")
	}
	if n := x.Connections(); n > 0 {
		t.Errorf("the icon, which is the bus's, has connected to the X server %d times", n)
	}
	// Numbers that no entry has are told so, and do nothing.
	if err := second.conn.Object(second.registered(), menuPath).Call(menuFace+".Event", 0, int32(7), "clicked", dbus.MakeVariant(""), uint32(0)).Err; err == nil {
		t.Error("an entry that is not there was clicked")
	}
}

// An entry with an underscore keeps it: hosts take a single one for a key.
func TestUnderscores(t *testing.T) {
	t.Parallel()
	if got := propertiesOf(Entry{ID: 1, Label: "a_b"}, nil)["label"].Value(); got != "a__b" {
		t.Errorf("the label is %v", got)
	}
}
