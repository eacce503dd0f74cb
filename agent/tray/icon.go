package tray

import (
	"image"
	"image/color"
	"image/draw"
	"math"

	"golang.org/x/image/vector"
)

// The colours of the icons. They differ in shape too: nobody has to tell them apart by
// colour.
var (
	blue   = color.NRGBA{0x1f, 0x5f, 0xbf, 0xff}
	amber  = color.NRGBA{0xc2, 0x6a, 0x00, 0xff}
	red    = color.NRGBA{0xb0, 0x24, 0x18, 0xff}
	grey   = color.NRGBA{0x80, 0x88, 0x94, 0xff}
	bright = color.NRGBA{0xff, 0xff, 0xff, 0xff}
)

// Draw gives the icon as a square of a size in pixels.
func (i Icon) Draw(size int) *image.NRGBA {
	canvas := image.NewNRGBA(image.Rect(0, 0, size, size))
	s := sketch{canvas: canvas, unit: float64(size) / 16}
	switch i {
	case Recording:
		s.disc(8, 8, 7.5, blue)
		s.disc(8, 8, 3, bright)
	case Waiting:
		s.disc(8, 8, 7.5, blue)
		s.disc(8, 8, 3, bright)
		s.disc(12, 12, 4, bright)
		s.disc(12, 12, 3, amber)
	case Paused:
		s.disc(8, 8, 7.5, amber)
		s.bar(4.8, 4, 2.4, 8, bright)
		s.bar(8.8, 4, 2.4, 8, bright)
	case Trouble:
		s.disc(8, 8, 7.5, red)
		s.bar(6.9, 3.4, 2.2, 5.6, bright)
		s.disc(8, 11.6, 1.3, bright)
	case Off:
		s.disc(8, 8, 7.5, grey)
		s.disc(8, 8, 5.5, bright)
	}
	return canvas
}

// sketch draws in a square of 16 units.
type sketch struct {
	canvas *image.NRGBA
	unit   float64
}

func (s sketch) fill(c color.NRGBA, outline func(*vector.Rasterizer)) {
	z := vector.NewRasterizer(s.canvas.Rect.Dx(), s.canvas.Rect.Dy())
	z.DrawOp = draw.Over
	outline(z)
	z.ClosePath()
	z.Draw(s.canvas, s.canvas.Rect, image.NewUniform(c), image.Point{})
}

// disc is a circle of four curves.
func (s sketch) disc(x, y, radius float64, c color.NRGBA) {
	k := radius * 4 / 3 * (math.Sqrt2 - 1)
	at := func(x, y float64) (float32, float32) { return float32(x * s.unit), float32(y * s.unit) }
	s.fill(c, func(z *vector.Rasterizer) {
		z.MoveTo(at(x+radius, y))
		for _, q := range [4][2]float64{{1, 1}, {-1, 1}, {-1, -1}, {1, -1}} {
			// A quarter each, clockwise from the right.
			var ax, ay, bx, by, ex, ey float64
			if q[0]*q[1] > 0 {
				ax, ay = x+q[0]*radius, y+q[1]*k
				bx, by = x+q[0]*k, y+q[1]*radius
				ex, ey = x, y+q[1]*radius
			} else {
				ax, ay = x+q[0]*k, y+q[1]*radius
				bx, by = x+q[0]*radius, y+q[1]*k
				ex, ey = x+q[0]*radius, y
			}
			a, b := at(ax, ay)
			d, e := at(bx, by)
			f, g := at(ex, ey)
			z.CubeTo(a, b, d, e, f, g)
		}
	})
}

func (s sketch) bar(x, y, width, height float64, c color.NRGBA) {
	at := func(x, y float64) (float32, float32) { return float32(x * s.unit), float32(y * s.unit) }
	s.fill(c, func(z *vector.Rasterizer) {
		z.MoveTo(at(x, y))
		z.LineTo(at(x+width, y))
		z.LineTo(at(x+width, y+height))
		z.LineTo(at(x, y+height))
	})
}
