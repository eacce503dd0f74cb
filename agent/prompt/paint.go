package prompt

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"strings"

	"golang.org/x/image/vector"
)

// Colours. Text on its ground has a contrast of at least 4.5 to 1.
var (
	ground    = color.RGBA{0xf7, 0xf8, 0xfa, 0xff}
	paper     = color.RGBA{0xff, 0xff, 0xff, 0xff}
	inkColour = color.RGBA{0x1b, 0x23, 0x30, 0xff}
	quiet     = color.RGBA{0x5b, 0x67, 0x78, 0xff}
	line      = color.RGBA{0xb9, 0xc2, 0xce, 0xff}
	accent    = color.RGBA{0x1f, 0x5f, 0xbf, 0xff}
	selection = color.RGBA{0xcf, 0xe1, 0xfb, 0xff}
	warning   = color.RGBA{0xb0, 0x24, 0x18, 0xff}
)

// Measures, in units of 1/96 inch.
const (
	windowWidth = 460
	margin      = 24
	headHeight  = 68
	labelHeight = 20
	fieldHeight = 34
	fieldGap    = 12
	boxHeight   = 30
	boxSide     = 16
	// problemSpace is for two lines.
	problemSpace = 42
	problemLine  = 17
	buttonHeight = 34
	entryHeight  = 28
	corner       = 4
)

// painter draws models in one scale.
type painter struct {
	scale                     float64
	title, text, label, small *typeface
	// shift is how far the text of a field is moved to the left to show its cursor.
	shift map[int]int
	// wrapped is the text of a notice in lines; nil until it is needed.
	wrapped []string
}

func newPainter(scale float64) (*painter, error) {
	p := &painter{scale: scale, shift: map[int]int{}}
	system := newFallback()
	var err error
	for _, face := range []struct {
		into **typeface
		bold bool
		size float64
	}{{&p.title, true, 17}, {&p.text, false, 14.5}, {&p.label, true, 12.5}, {&p.small, false, 12.5}} {
		if *face.into, err = newTypeface(face.bold, face.size*scale, system); err != nil {
			return nil, fmt.Errorf("prompt: the built-in font: %w", err)
		}
	}
	return p, nil
}

// px turns units into pixels.
func (p *painter) px(units int) int { return int(float64(units)*p.scale + 0.5) }

// box is a rectangle in units.
func (p *painter) box(x, y, w, h int) image.Rectangle {
	return image.Rect(p.px(x), p.px(y), p.px(x+w), p.px(y+h))
}

// size is how large the window of a model is, in pixels.
func (p *painter) size(m *Model) image.Point {
	if m.request.Notice != nil {
		return p.noticeSize(m)
	}
	return image.Pt(p.px(windowWidth), p.px(p.buttonTop(m)+buttonHeight+margin))
}

func (p *painter) fieldTop(i int) int {
	return headHeight + i*(labelHeight+fieldHeight+fieldGap) + labelHeight
}

func (p *painter) buttonTop(m *Model) int {
	if m.request.Notice != nil {
		return p.noticeButtonTop(m)
	}
	return max(p.problemTop(m)+problemSpace+10, headHeight+labelHeight+fieldHeight+2*entryHeight)
}

// boxTop is where the box "the same for all" stands, where there is one.
func (p *painter) boxTop(m *Model) int { return p.fieldTop(len(m.fields)-1) + fieldHeight + 8 }

func (p *painter) problemTop(m *Model) int {
	if m.hasBox() {
		return p.boxTop(m) + boxHeight
	}
	return p.fieldTop(len(m.fields)-1) + fieldHeight
}

func (p *painter) fieldBox(i int) image.Rectangle {
	return p.box(margin, p.fieldTop(i), windowWidth-2*margin, fieldHeight)
}

// buttonTexts are the buttons' texts, as they stand from left to right.
func buttonTexts(m *Model) []string {
	if m.request.Notice != nil {
		return []string{"I have read this", "Later"}
	}
	texts := []string{"Accept", "Not chargeable", "Later"}
	return texts[:m.elements()-int(m.button(0))]
}

func (p *painter) buttonBox(m *Model, n int) image.Rectangle {
	x := margin
	widths := []int{104, 132, 84}
	if m.request.Notice != nil {
		widths = []int{148, 84}
	}
	for i := range n {
		x += widths[i] + 10
	}
	return p.box(x, p.buttonTop(m), widths[n], buttonHeight)
}

// listBox is where the open list of a field stands: below it, or above where there
// is no room.
func (p *painter) listBox(m *Model, i int) image.Rectangle {
	shown := min(page, len(m.fields[i].matches))
	field := p.fieldBox(i)
	height := p.px(shown*entryHeight) + 2
	if field.Max.Y+height > p.size(m).Y && field.Min.Y-height >= 0 {
		return image.Rect(field.Min.X, field.Min.Y-height, field.Max.X, field.Min.Y)
	}
	return image.Rect(field.Min.X, field.Max.Y, field.Max.X, min(field.Max.Y+height, p.size(m).Y))
}

// hit finds what lies at a point: the element, and the entry of its open list or
// -1; ok is false where nothing does.
func (p *painter) hit(m *Model, at image.Point) (e Element, entry int, ok bool) {
	for i := range m.fields {
		if m.fields[i].open {
			if list := p.listBox(m, i); at.In(list) {
				return Element(i), (at.Y - list.Min.Y - 1) / p.px(entryHeight), true
			}
		}
	}
	for i := range m.fields {
		if at.In(p.fieldBox(i)) {
			return Element(i), -1, true
		}
	}
	if m.hasBox() && at.In(p.box(margin, p.boxTop(m), windowWidth-2*margin, boxHeight)) {
		return m.box(), -1, true
	}
	for n := range buttonTexts(m) {
		if at.In(p.buttonBox(m, n)) {
			return m.button(n), -1, true
		}
	}
	return 0, 0, false
}

// paint draws a model.
func (p *painter) paint(m *Model) *image.RGBA {
	if m.request.Notice != nil {
		return p.paintNotice(m)
	}
	size := p.size(m)
	canvas := image.NewRGBA(image.Rectangle{Max: size})
	draw.Draw(canvas, canvas.Bounds(), image.NewUniform(ground), image.Point{}, draw.Src)
	whole := canvas.Bounds()

	width := size.X - 2*p.px(margin)
	title, below := question(m.request)
	p.title.draw(canvas, whole, image.NewUniform(inkColour), p.px(margin), p.px(32), p.title.fit(title, width))
	p.small.draw(canvas, whole, image.NewUniform(quiet), p.px(margin), p.px(52), p.small.fit(below, width))

	for i := range m.fields {
		p.field(canvas, m, i)
	}
	if m.hasBox() {
		p.forAll(canvas, m)
	}
	if text, fault := m.said(); text != "" {
		ink := quiet
		if fault {
			ink = warning
		}
		lines := p.wrap(p.small, text, width)
		if len(lines) > 2 {
			lines = []string{lines[0], p.small.fit(strings.Join(lines[1:], " "), width)}
		}
		for n, text := range lines {
			p.small.draw(canvas, whole, image.NewUniform(ink), p.px(margin), p.px(p.problemTop(m)+20+n*problemLine), text)
		}
	}
	for n, text := range buttonTexts(m) {
		p.button(canvas, m, n, text)
	}
	p.hint(canvas, m)
	for i := range m.fields {
		if m.fields[i].open {
			p.list(canvas, m, i)
		}
	}
	return canvas
}

// question is what is asked, in two lines.
func question(r Request) (title, below string) {
	title = r.Application
	below = "Which project is this for?"
	switch {
	case r.Closing:
		below = "Which project was this for?"
	case r.Waiting:
		below = "Which project is this for? The program waits for your choice."
	}
	if r.Document != "" {
		title = r.Application + " – " + r.Document
	}
	return title, below
}

func (p *painter) hint(canvas *image.RGBA, m *Model) {
	last := p.buttonBox(m, len(buttonTexts(m))-1)
	text := "Enter: accept"
	if !m.request.Waiting {
		text = "Esc: later"
	}
	right := canvas.Bounds().Max.X - p.px(margin)
	if w := p.small.width(text); last.Max.X+w < right {
		p.small.draw(canvas, canvas.Bounds(), image.NewUniform(quiet), right-w, last.Min.Y+p.px(22), text)
	}
}

func (p *painter) field(canvas *image.RGBA, m *Model, i int) {
	f, s := m.request.Fields[i], &m.fields[i]
	box := p.fieldBox(i)
	focused := m.shows(Element(i))
	label := f.Label
	if !f.Required {
		label += "  (optional)"
	}
	p.label.draw(canvas, canvas.Bounds(), image.NewUniform(quiet), box.Min.X, box.Min.Y-p.px(6), p.label.fit(label, box.Dx()))
	border, thick := line, max(1, p.px(1))
	if focused {
		border, thick = accent, max(2, p.px(2))
	}
	if m.faulty(i) {
		border = warning
	}
	p.rounded(canvas, box, border)
	p.rounded(canvas, box.Inset(thick), paper)

	inner := box.Inset(p.px(3))
	inner.Min.X, inner.Max.X = box.Min.X+p.px(10), box.Max.X-p.px(10)
	if f.Kind != Text && len(f.Options) > 0 {
		inner.Max.X -= p.px(18)
		p.arrow(canvas, box.Max.X-p.px(18), (box.Min.Y+box.Max.Y)/2)
	}
	text := string(s.text)
	cursor := p.text.width(string(s.text[:s.cursor]))
	shift := p.shift[i]
	switch {
	case !focused:
		shift = 0
		text = p.text.fit(text, inner.Dx())
	case cursor-shift > inner.Dx()-p.px(2):
		shift = cursor - inner.Dx() + p.px(2)
	case cursor < shift:
		shift = cursor
	}
	p.shift[i] = shift
	baseline := box.Min.Y + p.px(22)
	if focused && s.selected {
		marked := image.Rect(inner.Min.X-shift-p.px(1), box.Min.Y+p.px(7), inner.Min.X-shift+p.text.width(text)+p.px(1), box.Max.Y-p.px(7))
		draw.Draw(canvas, marked.Intersect(inner.Inset(-p.px(1))), image.NewUniform(selection), image.Point{}, draw.Src)
	}
	p.text.draw(canvas, inner, image.NewUniform(inkColour), inner.Min.X-shift, baseline, text)
	if focused && !s.selected {
		at := inner.Min.X + cursor - shift
		draw.Draw(canvas, image.Rect(at, box.Min.Y+p.px(8), at+max(1, p.px(1)), box.Max.Y-p.px(8)), image.NewUniform(inkColour), image.Point{}, draw.Src)
	}
}

// forAll draws the box "the same for all".
func (p *painter) forAll(canvas *image.RGBA, m *Model) {
	top := p.boxTop(m) + (boxHeight-boxSide)/2
	square := p.box(margin, top, boxSide, boxSide)
	if m.shows(m.box()) {
		p.rounded(canvas, square.Inset(-p.px(3)), accent)
		p.rounded(canvas, square.Inset(-p.px(1)), ground)
	}
	if m.forAll {
		p.rounded(canvas, square, accent)
		// A tick, as two strokes of one shape.
		x, y, u := float32(square.Min.X), float32(square.Min.Y), float32(p.px(boxSide))/16
		p.fill(canvas, paper, [][2]float32{
			{x + 3*u, y + 8*u}, {x + 4.5*u, y + 6.5*u}, {x + 7*u, y + 9*u}, {x + 11.5*u, y + 4*u}, {x + 13*u, y + 5.5*u}, {x + 7*u, y + 12*u},
		})
	} else {
		p.rounded(canvas, square, quiet)
		p.rounded(canvas, square.Inset(max(1, p.px(1))), paper)
	}
	text := "Same for the other one that waits"
	if m.request.Others > 1 {
		text = fmt.Sprintf("Same for the %d others that wait", m.request.Others)
	}
	left, baseline := p.px(margin+boxSide+10), p.px(p.boxTop(m)+boxHeight/2+5)
	p.text.draw(canvas, canvas.Bounds(), image.NewUniform(inkColour), left, baseline, text)
	p.underline(canvas, inkColour, left, baseline, text[:1]) // Alt+S
}

// underline marks the letter that works with Alt.
func (p *painter) underline(canvas *image.RGBA, ink color.RGBA, x, baseline int, letter string) {
	y := baseline + p.px(2)
	draw.Draw(canvas, image.Rect(x, y, x+p.text.width(letter), y+max(1, p.px(1))), image.NewUniform(ink), image.Point{}, draw.Src)
}

// arrow says that a field has a list.
func (p *painter) arrow(canvas *image.RGBA, x, y int) {
	w, h := float32(p.px(4)), float32(p.px(4))
	p.fill(canvas, quiet, [][2]float32{
		{float32(x) - w, float32(y) - h/2}, {float32(x) + w, float32(y) - h/2}, {float32(x), float32(y) + h/2 + 1},
	})
}

func (p *painter) list(canvas *image.RGBA, m *Model, i int) {
	s, f := &m.fields[i], m.request.Fields[i]
	box := p.listBox(m, i)
	draw.Draw(canvas, box, image.NewUniform(line), image.Point{}, draw.Src)
	inside := box.Inset(1)
	draw.Draw(canvas, inside, image.NewUniform(paper), image.Point{}, draw.Src)
	height := p.px(entryHeight)
	for n := 0; n < page && s.first+n < len(s.matches); n++ {
		at := s.first + n
		row := image.Rect(inside.Min.X, inside.Min.Y+n*height, inside.Max.X, inside.Min.Y+(n+1)*height).Intersect(inside)
		ink := inkColour
		if at == s.at {
			draw.Draw(canvas, row, image.NewUniform(accent), image.Point{}, draw.Src)
			ink = paper
		}
		label := p.text.fit(string(clean(f.Options[s.matches[at]].Label)), row.Dx()-p.px(26))
		p.text.draw(canvas, row, image.NewUniform(ink), row.Min.X+p.px(9), row.Min.Y+p.px(19), label)
	}
	if all := len(s.matches); all > page {
		// Where in the whole list this is.
		track := inside.Dy()
		top, length := inside.Min.Y+s.first*track/all, max(p.px(12), page*track/all)
		bar := image.Rect(inside.Max.X-p.px(5), top, inside.Max.X-p.px(2), min(top+length, inside.Max.Y))
		draw.Draw(canvas, bar, image.NewUniform(line), image.Point{}, draw.Src)
	}
}

func (p *painter) button(canvas *image.RGBA, m *Model, n int, text string) {
	box := p.buttonBox(m, n)
	focused := m.shows(m.button(n))
	fill, ink, border := paper, inkColour, line
	if n == acceptButton {
		fill, ink, border = accent, paper, accent
	}
	if focused {
		p.rounded(canvas, box.Inset(-p.px(3)), accent)
		p.rounded(canvas, box.Inset(-p.px(1)), ground)
	}
	p.rounded(canvas, box, border)
	p.rounded(canvas, box.Inset(max(1, p.px(1))), fill)
	x := box.Min.X + (box.Dx()-p.text.width(text))/2
	p.text.draw(canvas, canvas.Bounds(), image.NewUniform(ink), x, box.Min.Y+p.px(22), text)
	if n == notChargeableButton && m.request.Notice == nil {
		p.underline(canvas, ink, x, box.Min.Y+p.px(22), text[:1]) // Alt+N
	}
}

// rounded fills a rectangle with round corners.
func (p *painter) rounded(canvas *image.RGBA, box image.Rectangle, c color.RGBA) {
	r := float32(p.px(corner))
	x0, y0, x1, y1 := float32(box.Min.X), float32(box.Min.Y), float32(box.Max.X), float32(box.Max.Y)
	z := vector.NewRasterizer(canvas.Bounds().Dx(), canvas.Bounds().Dy())
	z.MoveTo(x0+r, y0)
	z.LineTo(x1-r, y0)
	z.QuadTo(x1, y0, x1, y0+r)
	z.LineTo(x1, y1-r)
	z.QuadTo(x1, y1, x1-r, y1)
	z.LineTo(x0+r, y1)
	z.QuadTo(x0, y1, x0, y1-r)
	z.LineTo(x0, y0+r)
	z.QuadTo(x0, y0, x0+r, y0)
	z.ClosePath()
	z.Draw(canvas, canvas.Bounds(), image.NewUniform(c), image.Point{})
}

func (p *painter) fill(canvas *image.RGBA, c color.RGBA, points [][2]float32) {
	z := vector.NewRasterizer(canvas.Bounds().Dx(), canvas.Bounds().Dy())
	z.MoveTo(points[0][0], points[0][1])
	for _, at := range points[1:] {
		z.LineTo(at[0], at[1])
	}
	z.ClosePath()
	z.Draw(canvas, canvas.Bounds(), image.NewUniform(c), image.Point{})
}
