package wayland

import (
	"bytes"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// What is built is what is read.
func TestMessages(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		object, opcode := rapid.Uint32().Draw(t, "object"), rapid.Uint16().Draw(t, "opcode")
		text := rapid.StringN(0, 200, 800).Filter(utf8.ValidString).Draw(t, "text")
		array := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "array")
		number := rapid.Uint32().Draw(t, "number")
		wire, err := NewMessage(object, opcode).String(text).Array(array).Uint(number).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		m, err := ReadMessage(bytes.NewReader(wire))
		if err != nil {
			t.Fatal(err)
		}
		args := m.Args()
		gotText, gotArray, gotNumber := args.String(), args.Array(), args.Uint()
		if m.Object != object || m.Opcode != opcode || gotText != text || !bytes.Equal(gotArray, array) || gotNumber != number || args.Err() != nil {
			t.Fatalf("%d.%d(%q, %v, %d) is read as %d.%d(%q, %v, %d), %v", object, opcode, text, array, number,
				m.Object, m.Opcode, gotText, gotArray, gotNumber, args.Err())
		}
		if args.Uint(); args.Err() == nil {
			t.Fatal("more is read than there is, and it is not said")
		}
	})
}

func FuzzReadMessage(f *testing.F) {
	seed, err := NewMessage(2, 0).Uint(7).String("wl_seat").Uint(9).Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, "usu")
	f.Add(seed[:9], "aaaa")
	f.Add([]byte{0, 0, 0, 0, 0, 0, 4, 0}, "u")
	f.Add([]byte{1, 0, 0, 0, 0, 0, 12, 0, 0xFF, 0xFF, 0xFF, 0xFF}, "as")
	f.Fuzz(func(t *testing.T, wire []byte, shape string) {
		m, err := ReadMessage(bytes.NewReader(wire))
		if err != nil {
			return
		}
		if len(m.Body) > len(wire) || len(m.Body)%4 != 0 {
			t.Errorf("a body of %d bytes out of %d", len(m.Body), len(wire))
		}
		args := m.Args()
		for _, kind := range shape {
			switch kind {
			case 'u':
				args.Uint()
			case 'a':
				if content := args.Array(); len(content) > len(wire) {
					t.Errorf("an array of %d bytes out of %d", len(content), len(wire))
				}
			case 's':
				if text := args.String(); !utf8.ValidString(text) {
					t.Errorf("%q is no UTF-8", text)
				}
			}
		}
	})
}
