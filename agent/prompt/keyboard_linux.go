package prompt

import (
	"cmp"
	"slices"
	"unicode"

	"github.com/jezek/xgb/xproto"
	"golang.org/x/text/unicode/norm"
)

// keyboard turns key codes into keys, by the server's core mapping.
type keyboard struct {
	first   xproto.Keycode
	columns int
	symbols []xproto.Keysym
	// dead is the accent that the next letter gets.
	dead rune
}

func newKeyboard(setup *xproto.SetupInfo, reply *xproto.GetKeyboardMappingReply) *keyboard {
	return &keyboard{first: setup.MinKeycode, columns: int(reply.KeysymsPerKeycode), symbols: reply.Keysyms}
}

// Modifiers of a key press that the core protocol leaves to convention.
const (
	numLock    = xproto.ModMask2
	levelThree = xproto.ModMask5
	groupShift = 13
)

// Symbols of keys that do not write.
const (
	symBackspace = 0xff08
	symTab       = 0xff09
	symReturn    = 0xff0d
	symEscape    = 0xff1b
	symHome      = 0xff50
	symLeft      = 0xff51
	symUp        = 0xff52
	symRight     = 0xff53
	symDown      = 0xff54
	symPageUp    = 0xff55
	symPageDown  = 0xff56
	symEnd       = 0xff57
	symKeypad    = 0xff80 // first of the keypad
	symKPEnter   = 0xff8d
	symKPHome    = 0xff95
	symKPDelete  = 0xff9f
	symKPEnd     = 0xffb9 // last of the keypad
	symDelete    = 0xffff
	symBackTab   = 0xfe20
	symUnicode   = 0x01000000
)

var named = map[xproto.Keysym]KeyName{
	symBackspace: Backspace, symTab: Tab, symBackTab: BackTab, symReturn: Enter, symKPEnter: Enter, symEscape: Escape,
	symHome: Home, symEnd: End, symLeft: Left, symRight: Right, symUp: Up, symDown: Down,
	symPageUp: PageUp, symPageDown: PageDown, symDelete: Delete, symKPDelete: Delete,
	symKPHome: Home, 0xff96: Left, 0xff97: Up, 0xff98: Right, 0xff99: Down, 0xff9a: PageUp, 0xff9b: PageDown, 0xff9c: End,
}

// deadKeys are accents that wait for their letter.
var deadKeys = map[xproto.Keysym]rune{
	0xfe50: 0x0300, 0xfe51: 0x0301, 0xfe52: 0x0302, 0xfe53: 0x0303, 0xfe54: 0x0304, 0xfe55: 0x0306, 0xfe56: 0x0307,
	0xfe57: 0x0308, 0xfe58: 0x030a, 0xfe59: 0x030b, 0xfe5a: 0x030c, 0xfe5b: 0x0327, 0xfe5c: 0x0328, 0xfe60: 0x0323,
	0xfe61: 0x0309, 0xfe62: 0x031b, 0xfe6e: 0x0326,
}

// press turns a key press into a key; ok is false where it says nothing by itself.
func (k *keyboard) press(e xproto.KeyPressEvent) (key Key, ok bool) {
	symbol := k.symbol(e.Detail, e.State)
	key = Key{Alt: e.State&xproto.ModMask1 != 0, Control: e.State&xproto.ModMaskControl != 0}
	if accent, dead := deadKeys[symbol]; dead {
		k.dead = accent
		return key, false
	}
	if name, ok := named[symbol]; ok {
		k.dead = 0
		if name == Tab && e.State&xproto.ModMaskShift != 0 {
			name = BackTab
		}
		key.Name = name
		return key, true
	}
	r := character(symbol)
	if r == 0 {
		return key, false
	}
	if k.dead != 0 {
		composed := []rune(norm.NFC.String(string([]rune{r, k.dead})))
		k.dead = 0
		if len(composed) == 1 {
			r = composed[0]
		}
	}
	key.Rune = r
	return key, true
}

// symbol picks the symbol of a key for the modifiers that are held: the columns
// are group 1 plain and shifted, group 2 plain and shifted, then AltGr plain and
// shifted.
func (k *keyboard) symbol(code xproto.Keycode, state uint16) xproto.Keysym {
	at := func(column int) xproto.Keysym {
		n := (int(code)-int(k.first))*k.columns + column
		if code < k.first || column >= k.columns || n >= len(k.symbols) {
			return 0
		}
		return k.symbols[n]
	}
	shifted := state&xproto.ModMaskShift != 0
	if second := at(1); second >= symKeypad && second <= symKPEnd {
		if (state&numLock != 0) != shifted {
			return second
		}
		return at(0)
	}
	column := 0
	if state>>groupShift&3 == 1 && at(2) != 0 {
		column = 2
	}
	if state&levelThree != 0 && at(4) != 0 {
		column = 4
	}
	plain := at(column)
	with := cmp.Or(at(column+1), plain)
	if state&xproto.ModMaskLock != 0 && unicode.IsLetter(character(plain)) {
		shifted = !shifted
	}
	if !shifted {
		return plain
	}
	if with == plain {
		if upper := unicode.ToUpper(character(plain)); upper != character(plain) {
			return symUnicode + xproto.Keysym(upper)
		}
	}
	return with
}

// character is what a symbol writes; 0: nothing.
func character(symbol xproto.Keysym) rune {
	switch {
	case symbol >= 0x20 && symbol <= 0x7e, symbol >= 0xa0 && symbol <= 0xff:
		return rune(symbol)
	case symbol > symUnicode && symbol <= symUnicode+unicode.MaxRune:
		return rune(symbol - symUnicode)
	case symbol == symKeypad:
		return ' '
	case symbol >= 0xffaa && symbol <= 0xffb9: // * + , - . / 0 … 9 of the keypad
		return rune(symbol - 0xff80)
	case symbol == 0xffbd:
		return '='
	case symbol > 0xffff:
		return 0
	}
	n, found := slices.BinarySearchFunc(legacyKeysyms[:], uint32(symbol), func(entry, want uint32) int {
		return cmp.Compare(entry>>16, want)
	})
	if !found {
		return 0
	}
	return rune(legacyKeysyms[n] & 0xffff)
}
