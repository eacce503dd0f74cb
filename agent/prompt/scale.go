package prompt

import (
	"image"
	"os"
	"strconv"
)

// Pixels to 1/96 inch that are believed, and below which nothing can be read.
const (
	leastScale = 0.5
	mostScale  = 4
)

// wantedScale is how many pixels there are to 1/96 inch: as the screen says, unless the
// environment says otherwise.
func wantedScale(screen func() float64) float64 {
	if own, err := strconv.ParseFloat(os.Getenv("CETRUS_PROMPT_SCALE"), 64); err == nil && own >= leastScale && own <= mostScale {
		return own
	}
	return min(max(screen(), leastScale), mostScale)
}

// fitting is the wanted scale, or a smaller one with which the window of a model fits
// into the room that there is: nine fields at twice the size are higher than many
// screens.
func fitting(m *Model, wanted float64, room image.Point) (float64, error) {
	unscaled, err := newPainter(1) // with its fonts: they say how many lines a notice has
	if err != nil {
		return 0, err
	}
	units := unscaled.size(m)
	return max(leastScale, min(wanted, float64(room.X)/float64(units.X), float64(room.Y)/float64(units.Y))), nil
}

// windowTitle says what a window is to people who do not see it.
func windowTitle(r Request) string {
	if r.Notice != nil {
		return r.Notice.Title
	}
	return "Project: " + r.Application
}
