package tray

import (
	"context"
	"errors"
	"fmt"
	"image"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names of the StatusNotifierItem specification and of com.canonical.dbusmenu.
const (
	watcherName    = "org.kde.StatusNotifierWatcher"
	watcherPath    = "/StatusNotifierWatcher"
	itemFace       = "org.kde.StatusNotifierItem"
	itemPath       = "/StatusNotifierItem"
	menuFace       = "com.canonical.dbusmenu"
	propertiesFace = "org.freedesktop.DBus.Properties"
	menuPath       = "/StatusNotifierItem/Menu"
	menuVersion    = uint32(3)
	connectAgain   = 10 * time.Second
	callTimeout    = 5 * time.Second
)

// pixmap is an image as the specification has it: ARGB, in network byte order.
type pixmap struct {
	Width, Height int32
	Data          []byte
}

// toolTip is the ToolTip property.
type toolTip struct {
	IconName string
	Icon     []pixmap
	Title    string
	Text     string
}

// layout is a menu entry with those below it, as GetLayout gives it.
type layout struct {
	ID         int32
	Properties map[string]dbus.Variant
	Children   []dbus.Variant
}

// item is a StatusNotifierItem.
type item struct {
	log *slog.Logger

	mu       sync.Mutex
	view     View
	revision uint32
	conn     *dbus.Conn // nil while there is no bus
	look     func()
	do       func(Action)
}

// NewFront is the icon of this system.
func NewFront(log *slog.Logger) Front {
	return &item{log: log, look: func() {}, do: func(Action) {}, revision: 1}
}

// Show implements Front.
func (i *item) Show(v View) {
	i.mu.Lock()
	defer i.mu.Unlock()
	before := i.view
	i.view = v
	i.revision++
	if i.conn == nil {
		return
	}
	i.put(before)
	// Whoever shows the menu asks for it anew.
	_ = i.conn.Emit(menuPath, menuFace+".LayoutUpdated", i.revision, int32(0))
}

// put tells those who show the icon what has changed since a view. It is called with mu
// held.
func (i *item) put(before View) {
	if before.Icon != i.view.Icon {
		_ = i.conn.Emit(itemPath, itemFace+".NewIcon")
	}
	if before.Title != i.view.Title {
		_ = i.conn.Emit(itemPath, itemFace+".NewTitle")
	}
	if before.Title != i.view.Title || before.Text != i.view.Text {
		_ = i.conn.Emit(itemPath, itemFace+".NewToolTip")
	}
}

// Run implements Front: it is at the session's bus as long as there is one, and tries
// again where there is none.
func (i *item) Run(ctx context.Context, look func(), do func(Action)) error {
	i.mu.Lock()
	i.look, i.do = look, do
	i.mu.Unlock()
	said := false
	for {
		if err := i.serve(ctx); err != nil && !said {
			i.log.InfoContext(ctx, "the icon waits for the session's D-Bus", "reason", err)
			said = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(connectAgain):
		}
	}
}

// serve is at the bus until it goes.
func (i *item) serve(ctx context.Context) error {
	conn, err := dbus.ConnectSessionBus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("tray: the session's bus: %w", err)
	}
	defer conn.Close()
	name := fmt.Sprintf("%s-%d-1", itemFace, os.Getpid())
	if reply, err := conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		return fmt.Errorf("tray: the name %s is taken (%d): %w", name, reply, errors.Join(err))
	}
	if err := i.export(conn); err != nil {
		return err
	}
	defer func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.conn = nil
	}()
	if err := conn.AddMatchSignal(dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchInterface("org.freedesktop.DBus"),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, watcherName)); err != nil {
		return fmt.Errorf("tray: follow who shows icons: %w", err)
	}
	signals := make(chan *dbus.Signal, 8)
	conn.Signal(signals)
	i.register(ctx, conn, name)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-conn.Context().Done():
			return errors.New("tray: the session's bus has gone")
		case signal, open := <-signals:
			if !open {
				return errors.New("tray: the session's bus has gone")
			}
			var of, before, after string
			if signal.Name == "org.freedesktop.DBus.NameOwnerChanged" && dbus.Store(signal.Body, &of, &before, &after) == nil && of == watcherName && after != "" {
				i.register(ctx, conn, name)
			}
		}
	}
}

// register asks for the icon to be shown. Nobody may be there to show it: then somebody
// who comes is asked.
func (i *item) register(ctx context.Context, conn *dbus.Conn, name string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := conn.Object(watcherName, watcherPath).CallWithContext(ctx, watcherName+".RegisterStatusNotifierItem", dbus.FlagNoAutoStart, name).Err
	if err != nil {
		i.log.DebugContext(ctx, "nobody shows the icon", "reason", err)
	}
}

func (i *item) export(conn *dbus.Conn) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := errors.Join(
		conn.ExportMethodTable(i.clicks(), itemPath, itemFace),
		conn.ExportMethodTable(readable(itemFace, i.iconProperties), itemPath, propertiesFace),
		conn.ExportMethodTable(i.methods(), menuPath, menuFace),
		conn.ExportMethodTable(readable(menuFace, menuProperties), menuPath, propertiesFace),
	); err != nil {
		return fmt.Errorf("tray: %w", err)
	}
	i.conn = conn
	return nil
}

// iconProperties are those of the icon.
func (i *item) iconProperties() map[string]any {
	i.mu.Lock()
	defer i.mu.Unlock()
	return map[string]any{
		"Category":            "ApplicationStatus",
		"Id":                  "cetrus-agent",
		"Title":               i.view.Title,
		"Status":              "Active",
		"WindowId":            int32(0),
		"IconName":            "",
		"IconThemePath":       "",
		"IconPixmap":          pixmapsOf(i.view.Icon),
		"OverlayIconName":     "",
		"OverlayIconPixmap":   []pixmap{},
		"AttentionIconName":   "",
		"AttentionIconPixmap": []pixmap{},
		"AttentionMovieName":  "",
		"ToolTip":             toolTip{Icon: []pixmap{}, Title: i.view.Title, Text: i.view.Text},
		"ItemIsMenu":          true,
		"Menu":                dbus.ObjectPath(menuPath),
	}
}

// menuProperties are those of the menu.
func menuProperties() map[string]any {
	return map[string]any{"Version": menuVersion, "TextDirection": "ltr", "Status": "normal", "IconThemePath": []string{}}
}

// readable are the methods by which the properties of an interface are read. Package prop
// of godbus finds methods by their names, for which the linker keeps every exported method
// of the whole program: 2 MB more of it.
func readable(face string, properties func() map[string]any) map[string]any {
	foreign := func(of string) *dbus.Error {
		return dbus.NewError("org.freedesktop.DBus.Error.UnknownInterface", []any{"there is no interface " + of + " here"})
	}
	return map[string]any{
		"Get": func(of, name string) (dbus.Variant, *dbus.Error) {
			value, has := properties()[name]
			switch {
			case of != face:
				return dbus.Variant{}, foreign(of)
			case !has:
				return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", []any{"there is no property " + name})
			}
			return dbus.MakeVariant(value), nil
		},
		"GetAll": func(of string) (map[string]dbus.Variant, *dbus.Error) {
			if of != face {
				return nil, foreign(of)
			}
			all := map[string]dbus.Variant{}
			for name, value := range properties() {
				all[name] = dbus.MakeVariant(value)
			}
			return all, nil
		},
		"Set": func(_, name string, _ dbus.Variant) *dbus.Error {
			return dbus.NewError("org.freedesktop.DBus.Error.PropertyReadOnly", []any{name + " is only read"})
		},
	}
}

// clicks are the methods of the icon: all that it has is its menu, which whoever shows it
// opens.
func (i *item) clicks() map[string]any {
	at := func(int32, int32) *dbus.Error {
		i.looks()
		return nil
	}
	return map[string]any{
		"Activate": at, "SecondaryActivate": at, "ContextMenu": at,
		"Scroll": func(int32, string) *dbus.Error { return nil },
	}
}

func (i *item) looks() {
	i.mu.Lock()
	look := i.look
	i.mu.Unlock()
	look()
}

// chosen is what the menu calls an entry that was clicked.
const chosen = "clicked"

// clicked is one event of EventGroup.
type clicked struct {
	ID        int32
	Event     string
	Data      dbus.Variant
	Timestamp uint32
}

// properties are those of one entry of GetGroupProperties.
type properties struct {
	ID         int32
	Properties map[string]dbus.Variant
}

// methods are those of the menu.
func (i *item) methods() map[string]any {
	unknown := func(id int32) *dbus.Error {
		return dbus.NewError("com.canonical.dbusmenu.Error", []any{fmt.Sprintf("there is no entry %d", id)})
	}
	return map[string]any{
		"GetLayout": func(parent, depth int32, names []string) (uint32, layout, *dbus.Error) {
			i.mu.Lock()
			defer i.mu.Unlock()
			top := Entry{Entries: i.view.Menu}
			if parent != 0 {
				found, ok := i.view.Find(parent)
				if !ok {
					return 0, layout{}, unknown(parent)
				}
				top = found
			}
			return i.revision, layoutOf(top, depth, names), nil
		},
		"GetGroupProperties": func(ids []int32, names []string) ([]properties, *dbus.Error) {
			i.mu.Lock()
			defer i.mu.Unlock()
			all := []properties{}
			for _, id := range ids {
				if e, ok := i.view.Find(id); ok {
					all = append(all, properties{id, propertiesOf(e, names)})
				}
			}
			return all, nil
		},
		"GetProperty": func(id int32, name string) (dbus.Variant, *dbus.Error) {
			i.mu.Lock()
			defer i.mu.Unlock()
			e, ok := i.view.Find(id)
			value, has := propertiesOf(e, nil)[name]
			if !ok || !has {
				return dbus.Variant{}, unknown(id)
			}
			return value, nil
		},
		"Event": func(id int32, event string, _ dbus.Variant, _ uint32) *dbus.Error {
			if !i.event(id, event) {
				return unknown(id)
			}
			return nil
		},
		"EventGroup": func(events []clicked) ([]int32, *dbus.Error) {
			wrong := []int32{}
			for _, e := range events {
				if !i.event(e.ID, e.Event) {
					wrong = append(wrong, e.ID)
				}
			}
			return wrong, nil
		},
		"AboutToShow": func(int32) (bool, *dbus.Error) {
			i.looks()
			return false, nil // what changes is told by LayoutUpdated
		},
		"AboutToShowGroup": func([]int32) ([]int32, []int32, *dbus.Error) {
			i.looks()
			return []int32{}, []int32{}, nil
		},
	}
}

func (i *item) event(id int32, event string) (known bool) {
	i.mu.Lock()
	e, ok := i.view.Find(id)
	do := i.do
	i.mu.Unlock()
	if ok && event == chosen && !e.Disabled && e.Action.Do != Nothing {
		do(e.Action)
	}
	return ok || id == 0
}

func layoutOf(e Entry, depth int32, names []string) layout {
	l := layout{ID: e.ID, Properties: propertiesOf(e, names), Children: []dbus.Variant{}}
	if depth == 0 {
		return l
	}
	for _, below := range e.Entries {
		l.Children = append(l.Children, dbus.MakeVariant(layoutOf(below, depth-1, names)))
	}
	return l
}

// propertiesOf are the properties of an entry that are not what they are by default; of
// those that are asked for, where some are.
func propertiesOf(e Entry, names []string) map[string]dbus.Variant {
	all := map[string]dbus.Variant{}
	switch {
	case e.Separator:
		all["type"] = dbus.MakeVariant("separator")
	case e.ID != 0:
		all["label"] = dbus.MakeVariant(escape(e.Label))
	}
	if e.Disabled {
		all["enabled"] = dbus.MakeVariant(false)
	}
	if len(e.Entries) > 0 {
		all["children-display"] = dbus.MakeVariant("submenu")
	}
	if len(names) == 0 {
		return all
	}
	some := map[string]dbus.Variant{}
	for _, name := range names {
		if value, ok := all[name]; ok {
			some[name] = value
		}
	}
	return some
}

// escape doubles underscores: a single one marks the key of an entry.
func escape(label string) string {
	runes := make([]rune, 0, len(label))
	for _, r := range label {
		if r == '_' {
			runes = append(runes, '_')
		}
		runes = append(runes, r)
	}
	return string(runes)
}

// pixmapsOf is an icon in the sizes of common panels.
func pixmapsOf(icon Icon) []pixmap {
	var all []pixmap
	for _, size := range []int{16, 22, 32, 48} {
		all = append(all, pixmapOf(icon.Draw(size)))
	}
	return all
}

func pixmapOf(drawn *image.NRGBA) pixmap {
	p := pixmap{Width: int32(drawn.Rect.Dx()), Height: int32(drawn.Rect.Dy()), Data: make([]byte, 0, len(drawn.Pix))}
	for n := 0; n < len(drawn.Pix); n += 4 {
		c := drawn.Pix[n : n+4]
		p.Data = append(p.Data, c[3], c[0], c[1], c[2])
	}
	return p
}
