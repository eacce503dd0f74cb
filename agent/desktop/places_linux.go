package desktop

// places finds out how a session's desktop is reached.
type places struct{ processes *processTable }

// of tells how a session is reached, as far as that is known; false: it is no desktop.
func (p *places) of(s login) (place, bool) {
	switch s.kind {
	case kindX11, kindWayland, "mir":
		return place{kind: s.kind, display: s.display, desktop: s.desktop}, true
	}
	return place{}, false
}
