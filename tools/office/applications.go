package office

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
)

// Program is a program that people of the office work with, as their desktops
// show it.
type Program struct {
	// Name is the application's name in Cetrus.
	Name string
	// Path and Class are what a desktop tells of its process and windows.
	Path, Class string
	// Title makes a window's title of a document's name; without %s the program
	// has no documents.
	Title string
	// Documents are names to draw from.
	Documents []string
	// Heavy programs start slowly and stay open.
	Heavy bool
}

// Programs of the office, by a short name.
func programs() map[string]Program {
	return map[string]Program{
		"writer": {
			Name: "LibreOffice Writer", Path: "/usr/lib/libreoffice/program/soffice.bin",
			Class: "libreoffice-writer", Title: "%s - LibreOffice Writer",
			Documents: []string{"Offer Harbour Bridge.odt", "Minutes site meeting.odt", "Quarterly report.odt", "Letter to council.odt", "Safety plan.odt"},
		},
		"calc": {
			Name: "LibreOffice Calc", Path: "/usr/lib/libreoffice/program/soffice.bin",
			Class: "libreoffice-calc", Title: "%s - LibreOffice Calc",
			Documents: []string{"Budget 2026.ods", "Bill of quantities.ods", "Hours November.ods", "Load cases.ods"},
		},
		"firefox": {
			Name: "Firefox", Path: "/usr/lib/firefox-esr/firefox-esr", Class: "firefox-esr",
			Title: "%s — Mozilla Firefox", Documents: []string{"Wikipedia", "Weather", "Company intranet", "Building regulations", "Timetable"},
		},
		"thunderbird": {
			Name: "Thunderbird", Path: "/usr/lib/thunderbird/thunderbird", Class: "thunderbird",
			Title: "%s - Mozilla Thunderbird", Documents: []string{"Inbox", "Sent", "Write: Re: Drawings"},
		},
		"freecad": {
			Name: "FreeCAD", Path: "/usr/bin/freecad", Class: "FreeCAD", Title: "FreeCAD - %s",
			Documents: []string{"Bearing housing.FCStd", "Gate valve.FCStd", "Pier 3.FCStd", "Roof truss.FCStd"}, Heavy: true,
		},
		"blender": {
			Name: "Blender", Path: "/usr/bin/blender", Class: "Blender", Title: "%s - Blender",
			Documents: []string{"Lobby daylight.blend", "Harbour flyover.blend", "Facade study.blend"}, Heavy: true,
		},
		"qgis": {
			Name: "QGIS", Path: "/usr/bin/qgis.bin", Class: "QGIS3", Title: "%s — QGIS",
			Documents: []string{"Flood map.qgz", "Plot survey.qgz", "Pipelines.qgz"}, Heavy: true,
		},
		"inkscape": {
			Name: "Inkscape", Path: "/usr/bin/inkscape", Class: "org.inkscape.Inkscape", Title: "%s - Inkscape",
			Documents: []string{"Site plan.svg", "Logo.svg", "Poster open day.svg"},
		},
		"code": {
			Name: "Visual Studio Code", Path: "/usr/share/code/code", Class: "Code", Title: "%s - Visual Studio Code",
			Documents: []string{"solver.go", "mesh.py", "README.md", "pipeline.yaml", "loads_test.go"}, Heavy: true,
		},
		"terminal": {
			Name: "Terminal", Path: "/usr/libexec/gnome-terminal-server", Class: "Gnome-terminal",
			Title: "%s", Documents: []string{"~", "~/src/solver", "ssh build-3"},
		},
	}
}

// Rule makes one rule of an application.
type rule = meteringv1.Rule

func application(name string, documents bool, rules ...*rule) *meteringv1.Application {
	a := &meteringv1.Application{
		DisplayName:   name,
		Rules:         rules,
		ActivityGap:   durationpb.New(30 * time.Second),
		Timeout:       durationpb.New(30 * time.Minute),
		InstanceScope: policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE,
	}
	if documents {
		a.Documents = true
		a.DocumentReduction = policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME
	}
	return a
}

// Applications is what the office meters, and a fair first choice for any Linux
// desktop: terminals, browsers, editors, office programs, drawing and mail.
func Applications() []*meteringv1.Application {
	executables := func(names ...string) []*rule {
		rules := make([]*rule, len(names))
		for i, name := range names {
			rules[i] = &rule{Executable: name}
		}
		return rules
	}
	// The programs of an office suite share one process, so windows tell them
	// apart, and each window is an instance of its own.
	suite := func(name, class string) *meteringv1.Application {
		a := application(name, true, &rule{
			Executable: "soffice*", WindowClass: class, Priority: 10,
			DocumentTitle: `^(?P<document>.+) [-—–] LibreOffice`,
		})
		a.InstanceScope = policyv1.InstanceScope_INSTANCE_SCOPE_WINDOW
		return a
	}
	titled := func(name, title string, names ...string) *meteringv1.Application {
		rules := executables(names...)
		for _, r := range rules {
			r.DocumentTitle = title
		}
		return application(name, true, rules...)
	}
	return []*meteringv1.Application{
		suite("LibreOffice Writer", "libreoffice-writer"),
		suite("LibreOffice Calc", "libreoffice-calc"),
		suite("LibreOffice Impress", "libreoffice-impress"),
		application("Firefox", false, executables("firefox", "firefox-esr", "firefox-bin")...),
		application("Chromium", false, executables("chromium", "chromium-browser", "chrome", "google-chrome*", "msedge")...),
		application("Thunderbird", false, executables("thunderbird", "thunderbird-bin")...),
		titled("FreeCAD", `^FreeCAD[^-]* - (?P<document>.+)$`, "freecad", "freecad-daily"),
		titled("Blender", `^\*?(?P<document>.+) - Blender`, "blender"),
		titled("QGIS", `^\*?(?P<document>.+) — QGIS`, "qgis", "qgis.bin"),
		titled("Inkscape", `^\*?(?P<document>.+) - Inkscape`, "inkscape"),
		titled("GIMP", `^\*?(?P<document>[^\]]+?)-\d`, "gimp", "gimp-*"),
		titled("Visual Studio Code", `^(?:● )?(?P<document>.+?) - .*Visual Studio Code`, "code", "code-oss", "codium"),
		application("Terminal", false, executables(
			"xterm", "gnome-terminal-server", "gnome-terminal-*", "konsole", "xfce4-terminal", "mate-terminal", "lxterminal",
			"qterminal", "alacritty", "kitty", "ptyxis", "kgx", "urxvt", "rxvt", "st",
		)...),
		// Debian's gvim is a link: the process is vim.gtk3.
		application("Text editor", false, executables(
			"gedit", "gnome-text-editor", "kate", "kwrite", "mousepad", "xed", "pluma", "emacs*", "gvim", "vim.gtk*", "geany", "leafpad", "featherpad", "xedit",
		)...),
		application("File manager", false, executables("nautilus", "dolphin", "thunar", "nemo", "caja", "pcmanfm*")...),
	}
}
