package win32

import (
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"strings"
	"unicode/utf16"
	"unsafe"

	"golang.org/x/sys/windows"
)

// MsgIcon tells a window of its icon beside the clock; IconEvent reads it.
const MsgIcon = msgEnd - 1

// IconEvent is what has happened at an icon.
type IconEvent int

// What may happen.
const (
	IconOther IconEvent = iota
	// IconHover: the pointer is over it.
	IconHover
	// IconMenu: its menu is asked for, by either button or by a key.
	IconMenu
)

// iconData is NOTIFYICONDATAW.
type iconData struct {
	size             uint32
	window           windows.HWND
	id, flags        uint32
	message          uint32
	icon             windows.Handle
	tip              [128]uint16
	state, stateMask uint32
	info             [256]uint16
	version          uint32
	infoTitle        [64]uint16
	infoFlags        uint32
	guid             windows.GUID
	balloon          windows.Handle
}

const (
	iconAdd, iconModify, iconDelete, iconSetVersion = 0, 1, 2, 4
	// Message, icon and tip hold, and the tip is the system's own.
	iconFlags = 0x01 | 0x02 | 0x04 | 0x80
	// With this version an event tells where it was, so that nobody has to be asked where
	// the pointer is.
	iconVersion = 4
	iconID      = 1

	eventMouseMove   = 0x0200
	eventContextMenu = 0x007B
	eventSelect      = 0x0400
	eventKeySelect   = 0x0401

	iconFormat = 0x0003_0000
	bitsPixel  = 32
)

// PutIcon shows an icon with a tip beside the clock, in the place of the window's icon
// before.
func (w *Window) PutIcon(drawn *image.NRGBA, tip string) error {
	resource := iconResource(drawn)
	size := drawn.Bounds().Size()
	icon, _, err := w.procs.createIcon.Call(uintptr(unsafe.Pointer(&resource[0])), uintptr(len(resource)), 1, iconFormat, uintptr(size.X), uintptr(size.Y), 0)
	if icon == 0 {
		return fmt.Errorf("win32: make an icon: %w", err)
	}
	defer w.procs.destroyIcon.Call(icon) //nolint:errcheck // The shell has its own copy.
	data := w.iconData()
	data.flags, data.message, data.icon = iconFlags, MsgIcon, windows.Handle(icon)
	text := utf16.Encode([]rune(tip))
	copy(data.tip[:len(data.tip)-1], text)
	if w.notify(iconModify, &data) {
		w.icon = true
		return nil
	}
	w.icon = w.notify(iconAdd, &data)
	if !w.icon {
		return errors.New("win32: nobody shows icons beside the clock")
	}
	data.version = iconVersion
	if !w.notify(iconSetVersion, &data) {
		w.removeIcon()
		return errors.New("win32: whoever shows icons beside the clock does not tell where they are clicked")
	}
	return nil
}

func (w *Window) removeIcon() {
	if w.icon {
		data := w.iconData()
		w.notify(iconDelete, &data)
		w.icon = false
	}
}

func (w *Window) iconData() iconData {
	return iconData{size: uint32(unsafe.Sizeof(iconData{})), window: w.handle, id: iconID}
}

func (w *Window) notify(what uintptr, data *iconData) bool {
	done, _, _ := w.procs.notifyIcon.Call(what, uintptr(unsafe.Pointer(data)))
	return int32(done) != 0
}

// IconEvent reads a MsgIcon: what has happened, and where on the screen.
func (m Message) IconEvent() (IconEvent, image.Point) {
	at := image.Pt(int(int16(m.Word)), int(int16(m.Word>>16)))
	switch uint16(m.Long) {
	case eventMouseMove:
		return IconHover, at
	case eventContextMenu, eventSelect, eventKeySelect:
		return IconMenu, at
	}
	return IconOther, at
}

// iconResource is an icon as programs have it in their resources: a bitmap of twice the
// height, from the lowest row up, of which the second half, a mask, says nothing where the
// first has an alpha channel.
func iconResource(drawn *image.NRGBA) []byte {
	size := drawn.Bounds().Size()
	header := bitmapHeader{width: int32(size.X), height: 2 * int32(size.Y), planes: 1, bits: bitsPixel}
	header.size = uint32(unsafe.Sizeof(header))
	resource := make([]byte, header.size, int(header.size)+5*size.X*size.Y)
	for at, value := range map[int]uint32{0: header.size, 4: uint32(header.width), 8: uint32(header.height), 12: uint32(header.bits)<<16 | uint32(header.planes)} {
		binary.LittleEndian.PutUint32(resource[at:], value)
	}
	for y := size.Y - 1; y >= 0; y-- {
		row := drawn.Pix[y*drawn.Stride:][:4*size.X]
		for x := 0; x < len(row); x += 4 {
			resource = append(resource, row[x+2], row[x+1], row[x], row[x+3])
		}
	}
	maskRow := (size.X + 31) / 32 * 4
	return append(resource, make([]byte, maskRow*size.Y)...)
}

// RegisterMessage is the number of a message that programs know by its name.
func (w *Window) RegisterMessage(name string) (uint32, error) {
	text, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return 0, fmt.Errorf("win32: the message %q: %w", name, err)
	}
	id, _, err := w.procs.registerMessage.Call(uintptr(unsafe.Pointer(text)))
	if id == 0 {
		return 0, fmt.Errorf("win32: the message %q: %w", name, err)
	}
	return uint32(id), nil
}

// MenuEntry is a line of a menu.
type MenuEntry struct {
	// ID is what Menu gives where the entry was chosen; not 0, and below 1<<16.
	ID        uint16
	Label     string
	Separator bool
	Disabled  bool
	Entries   []MenuEntry
}

const (
	entryGrey, entryPopup, entrySeparator = 0x0001, 0x0010, 0x0800
	// The choice is given, and nobody else told of it; either button chooses.
	menuFlags = 0x0100 | 0x0080 | 0x0002
	msgNull   = 0x0000
)

// Menu shows a menu at a place of the screen until something is chosen; 0: nothing was.
// Messages are taken in meanwhile.
func (w *Window) Menu(at image.Point, entries []MenuEntry) (id uint16, err error) {
	menu, err := w.menuOf(entries)
	if err != nil {
		return 0, err
	}
	defer w.procs.destroyMenu.Call(menu) //nolint:errcheck // With all below it.
	// A menu closes by a click elsewhere only where its window is in front; and, as
	// documented, only once another message has come.
	_, _, _ = w.procs.setForegroundWindow.Call(uintptr(w.handle))
	chosen, _, _ := w.procs.trackMenu.Call(menu, menuFlags, signed(at.X), signed(at.Y), 0, uintptr(w.handle), 0)
	_, _, _ = w.procs.postMessage.Call(uintptr(w.handle), msgNull, 0, 0)
	return uint16(chosen), nil
}

func (w *Window) menuOf(entries []MenuEntry) (menu uintptr, err error) {
	menu, _, err = w.procs.createMenu.Call()
	if menu == 0 {
		return 0, fmt.Errorf("win32: make a menu: %w", err)
	}
	for _, e := range entries {
		if err := w.append(menu, e); err != nil {
			_, _, _ = w.procs.destroyMenu.Call(menu)
			return 0, err
		}
	}
	return menu, nil
}

func (w *Window) append(menu uintptr, e MenuEntry) error {
	// A single & marks the key of an entry.
	label, err := windows.UTF16PtrFromString(strings.ReplaceAll(e.Label, "&", "&&"))
	if err != nil {
		return fmt.Errorf("win32: the menu entry %q: %w", e.Label, err)
	}
	flags, id := uintptr(0), uintptr(e.ID)
	if e.Disabled {
		flags |= entryGrey
	}
	if e.Separator {
		flags |= entrySeparator
	}
	if len(e.Entries) > 0 {
		flags |= entryPopup
		if id, err = w.menuOf(e.Entries); err != nil {
			return err
		}
	}
	if done, _, err := w.procs.appendMenu.Call(menu, flags, id, uintptr(unsafe.Pointer(label))); int32(done) == 0 {
		return fmt.Errorf("win32: the menu entry %q: %w", e.Label, err)
	}
	return nil
}
