package desktop

// systemSeat is what is known of a seat on Linux, where a session is reached through the
// environment of its programs.
type systemSeat struct {
	// uid is whose session it is.
	uid uint32
	// login is the login manager's id of the session; empty: not told.
	login string
	// at is how it is reached, as far as that is known.
	at place
}

// place is how the programs of a session reach its desktop: what a log-in puts into
// their environment.
type place struct {
	// kind is the session's type as logind and $XDG_SESSION_TYPE name it: x11, wayland …
	kind string
	// display and authority are $DISPLAY and $XAUTHORITY.
	display, authority string
	// wayland and runtimeDir are $WAYLAND_DISPLAY and $XDG_RUNTIME_DIR.
	wayland, runtimeDir string
	// home is $HOME, where the keys of displays may lie.
	home string
	// sessionBus is $DBUS_SESSION_BUS_ADDRESS.
	sessionBus string
	// desktop is $XDG_CURRENT_DESKTOP.
	desktop string
}

// Types of sessions that can be looked at.
const (
	kindX11     = "x11"
	kindWayland = "wayland"
)

// placeOf reads a place from an environment. Where no type is told, a display says it.
func placeOf(get func(name string) string) place {
	at := place{
		kind:    get("XDG_SESSION_TYPE"),
		display: get("DISPLAY"), authority: get("XAUTHORITY"),
		wayland: get("WAYLAND_DISPLAY"), runtimeDir: get("XDG_RUNTIME_DIR"), home: get("HOME"),
		sessionBus: get("DBUS_SESSION_BUS_ADDRESS"), desktop: get("XDG_CURRENT_DESKTOP"),
	}
	switch {
	case at.kind == kindX11 || at.kind == kindWayland:
	case at.wayland != "":
		at.kind = kindWayland
	case at.display != "":
		at.kind = kindX11
	}
	return at
}

// environment is what placeOf reads.
func (at place) environment() []string {
	var environment []string
	for _, v := range [][2]string{
		{"XDG_SESSION_TYPE", at.kind},
		{"DISPLAY", at.display},
		{"XAUTHORITY", at.authority},
		{"WAYLAND_DISPLAY", at.wayland},
		{"XDG_RUNTIME_DIR", at.runtimeDir},
		{"HOME", at.home},
		{"DBUS_SESSION_BUS_ADDRESS", at.sessionBus},
		{"XDG_CURRENT_DESKTOP", at.desktop},
	} {
		if v[1] != "" {
			environment = append(environment, v[0]+"="+v[1])
		}
	}
	return environment
}
