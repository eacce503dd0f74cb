package prompt

import (
	"image"
	"strings"
	"testing"
)

// Whatever is shown is no larger than was wanted, and fits into the room that there is.
func TestFitting(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]Request{
		"question": {Application: "App", Fields: []Field{{Key: "1", Label: "Field", Kind: Text}}},
		"notice":   {Notice: &Notice{Title: "What is recorded", Text: strings.Repeat("Some words that fill lines. ", 40)}},
	} {
		m, err := NewModel(request)
		if err != nil {
			t.Fatal(err)
		}
		for _, room := range []image.Point{{X: 4000, Y: 4000}, {X: 700, Y: 500}} {
			scale, err := fitting(m, 2, room)
			if err != nil {
				t.Fatal(err)
			}
			p, err := newPainter(scale)
			if err != nil {
				t.Fatal(err)
			}
			if size := p.size(m); scale > 2 || size.X > room.X+1 || size.Y > room.Y+1 || room.X == 4000 && scale != 2 {
				t.Errorf("%s: %v at a scale of %v, in a room of %v", name, size, scale, room)
			}
		}
	}
}
