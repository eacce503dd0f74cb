package prompt

import (
	"image"
	"image/draw"
	"strings"
)

// Measures of a notice, in units of 1/96 inch and in lines.
const (
	noticeWidth = 580
	lineHeight  = 21
	// noticeLines is how many lines are shown at once.
	noticeLines = 24
)

// noticeText is the text in lines that fit.
func (p *painter) noticeText(m *Model) []string {
	if p.wrapped == nil {
		for paragraph := range strings.Lines(m.request.Notice.Text) {
			p.wrapped = append(p.wrapped, p.wrap(p.text, paragraph, p.px(noticeWidth-2*margin-12))...)
		}
	}
	return p.wrapped
}

// wrap breaks a paragraph at spaces; a word that is too long is shortened.
func (p *painter) wrap(face *typeface, paragraph string, width int) []string {
	lines := []string{""}
	for _, word := range strings.Fields(paragraph) {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = face.fit(word, width)
		case face.width(*last+" "+word) <= width:
			*last += " " + word
		default:
			lines = append(lines, face.fit(word, width))
		}
	}
	return lines
}

func (p *painter) noticeButtonTop(m *Model) int {
	return headHeight - 12 + min(noticeLines, len(p.noticeText(m)))*lineHeight + 18
}

func (p *painter) noticeSize(m *Model) image.Point {
	return image.Pt(p.px(noticeWidth), p.px(p.noticeButtonTop(m)+buttonHeight+margin))
}

func (p *painter) paintNotice(m *Model) *image.RGBA {
	size := p.noticeSize(m)
	canvas := image.NewRGBA(image.Rectangle{Max: size})
	draw.Draw(canvas, canvas.Bounds(), image.NewUniform(ground), image.Point{}, draw.Src)
	p.title.draw(canvas, canvas.Bounds(), image.NewUniform(inkColour), p.px(margin), p.px(36), p.title.fit(m.request.Notice.Title, size.X-2*p.px(margin)))
	lines := p.noticeText(m)
	m.scrolled = min(m.scrolled, max(0, len(lines)-noticeLines))
	for i, text := range lines[m.scrolled:min(len(lines), m.scrolled+noticeLines)] {
		p.text.draw(canvas, canvas.Bounds(), image.NewUniform(inkColour), p.px(margin), p.px(headHeight+4+i*lineHeight), text)
	}
	if len(lines) > noticeLines {
		// Where in the whole text this is.
		track := p.px(noticeLines * lineHeight)
		top := p.px(headHeight-12) + m.scrolled*track/len(lines)
		bar := image.Rect(size.X-p.px(margin)+p.px(4), top, size.X-p.px(margin)+p.px(8), top+noticeLines*track/len(lines))
		draw.Draw(canvas, bar, image.NewUniform(line), image.Point{}, draw.Src)
	}
	for n, text := range buttonTexts(m) {
		p.button(canvas, m, n, text)
	}
	return canvas
}
