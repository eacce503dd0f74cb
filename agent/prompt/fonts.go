package prompt

import (
	"image"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"
)

// maxFontFiles bounds the search for a font that has a character.
const maxFontFiles = 2000

// typeface draws text in one size: with the built-in font, and where that lacks a
// character with the first font of the system that has it.
type typeface struct {
	size     float64 // pixels to the em
	own      loaded
	fallback *fallback
}

type loaded struct {
	font *sfnt.Font
	face font.Face
}

// fallback are the system's fonts, opened one after the other as characters ask
// for them, and shared by all sizes.
type fallback struct {
	files   []string
	looked  bool
	next    int
	opened  []*sfnt.Font
	unknown map[rune]bool
	faces   map[faceKey]font.Face
	buffer  sfnt.Buffer
}

type faceKey struct {
	font *sfnt.Font
	size float64
}

func newTypeface(bold bool, size float64, f *fallback) (*typeface, error) {
	data := goregular.TTF
	if bold {
		data = gobold.TTF
	}
	parsed, err := opentype.Parse(data)
	if err != nil {
		return nil, err
	}
	face, err := newFace(parsed, size)
	if err != nil {
		return nil, err
	}
	return &typeface{size: size, own: loaded{font: parsed, face: face}, fallback: f}, nil
}

func newFace(f *sfnt.Font, size float64) (font.Face, error) {
	return opentype.NewFace(f, &opentype.FaceOptions{Size: size, DPI: 72, Hinting: font.HintingNone})
}

// faceOf is the face that draws a character.
func (t *typeface) faceOf(r rune) font.Face {
	if n, err := t.own.font.GlyphIndex(&t.fallback.buffer, r); err == nil && n != 0 {
		return t.own.face
	}
	f := t.fallback.find(r)
	if f == nil {
		return t.own.face // draws its box for "unknown"
	}
	key := faceKey{font: f, size: t.size}
	if face := t.fallback.faces[key]; face != nil {
		return face
	}
	face, err := newFace(f, t.size)
	if err != nil {
		return t.own.face
	}
	t.fallback.faces[key] = face
	return face
}

func newFallback() *fallback {
	return &fallback{unknown: map[rune]bool{}, faces: map[faceKey]font.Face{}}
}

// find gives a font of the system that has a character; nil: none does.
func (f *fallback) find(r rune) *sfnt.Font {
	if f.unknown[r] {
		return nil
	}
	for _, opened := range f.opened {
		if n, err := opened.GlyphIndex(&f.buffer, r); err == nil && n != 0 {
			return opened
		}
	}
	if !f.looked {
		f.looked = true
		f.files = fontFiles()
	}
	for f.next < len(f.files) {
		opened := openFont(f.files[f.next])
		f.next++
		f.opened = append(f.opened, opened...)
		for _, o := range opened {
			if n, err := o.GlyphIndex(&f.buffer, r); err == nil && n != 0 {
				return o
			}
		}
	}
	f.unknown[r] = true
	return nil
}

// fontFiles are the fonts of the system, upright ones before the others.
func fontFiles() (files []string) {
	roots := []string{"/usr/share/fonts", "/usr/local/share/fonts"}
	if runtime.GOOS == "windows" {
		roots = []string{filepath.Join(os.Getenv("SystemRoot"), "Fonts")}
	}
	var others []string
	for _, root := range roots {
		_ = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error { //nolint:gosec // The system's folder of fonts.
			if err != nil || len(files)+len(others) >= maxFontFiles {
				return fs.SkipDir
			}
			name := strings.ToLower(filepath.Base(path))
			switch filepath.Ext(name) {
			case ".ttf", ".otf", ".ttc", ".otc":
			default:
				return nil
			}
			if strings.Contains(name, "bold") || strings.Contains(name, "italic") || strings.Contains(name, "oblique") || strings.Contains(name, "mono") {
				others = append(others, path)
			} else {
				files = append(files, path)
			}
			return nil
		})
	}
	return append(files, others...)
}

// openFont opens a file of one font, or of several. It stays open as long as the
// process, since glyphs are read as they are needed.
func openFont(path string) []*sfnt.Font {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	if collection, err := opentype.ParseCollectionReaderAt(file); err == nil && collection.NumFonts() > 0 {
		if first, err := collection.Font(0); err == nil {
			return []*sfnt.Font{first}
		}
	}
	_ = file.Close()
	return nil
}

// width is how wide a text is, in pixels.
func (t *typeface) width(text string) int {
	var x fixed.Int26_6
	for _, r := range text {
		if advance, ok := t.faceOf(r).GlyphAdvance(r); ok {
			x += advance
		}
	}
	return x.Ceil()
}

// draw writes a text with its baseline's left end at (x, y), and nothing outside
// of the clip.
func (t *typeface) draw(canvas *image.RGBA, clip image.Rectangle, ink image.Image, x, y int, text string) {
	onto, ok := canvas.SubImage(clip).(*image.RGBA)
	if !ok || clip.Empty() {
		return
	}
	d := font.Drawer{Dst: onto, Src: ink, Dot: fixed.P(x, y)}
	for _, r := range text {
		d.Face = t.faceOf(r)
		d.DrawString(string(r))
	}
}

// fit shortens a text to a width, and says so with an ellipsis.
func (t *typeface) fit(text string, width int) string {
	if t.width(text) <= width {
		return text
	}
	runes := []rune(text)
	for len(runes) > 0 && t.width(string(runes)+"…") > width {
		runes = runes[:len(runes)-1]
	}
	return string(runes) + "…"
}
