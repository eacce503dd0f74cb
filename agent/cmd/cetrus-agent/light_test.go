package main

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The agent is to stay small: nothing of the platform gets into it.
func TestPullsInNothingHeavy(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	heavy := regexp.MustCompile(`jackc/pgx|nats-io/|go/protovalidate|google/cel-go|cel\.dev/|prometheus/|autoexport|watermill|otlphttp|otlpmetric|otlplog|jezek/xgb/(record|xtest|shm|composite|xfixes|damage|xinput)`)
	packages := strings.Fields(string(out))
	if len(packages) < 50 {
		t.Fatalf("go list gives %d packages only", len(packages))
	}
	for _, p := range packages {
		if heavy.MatchString(p) {
			t.Errorf("the agent pulls in %s", p)
		}
	}
}

// The program cannot ask an X server for keys, the pointer, images or selections:
// it does not hold the functions.
func TestHoldsNoFunctionThatSpies(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "cetrus-agent")
	if out, err := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", binary, ".").CombinedOutput(); err != nil { // as people get it
		t.Fatalf("go build: %v: %s", err, out)
	}
	out, err := exec.Command("go", "tool", "nm", binary).Output()
	if err != nil {
		t.Fatalf("go tool nm: %v", err)
	}
	symbols := string(out)
	if !strings.Contains(symbols, "xproto.GetProperty") || !strings.Contains(symbols, "screensaver.QueryInfo") {
		t.Fatal("the symbols of what the agent does use are missing, so this test could see nothing")
	}
	// SendEvent is not on the list: it is what EWMH's _NET_ACTIVE_WINDOW needs, by which the
	// prompt asks the window manager for the keyboard. That it sends nothing else, and that
	// whoever watches sends nothing at all, their recorded requests show.
	spying := regexp.MustCompile(`xgb/[a-z]+\.(QueryPointer|QueryKeymap|GetImage|GrabKey|GrabKeyboard|GrabPointer|GrabButton|GrabServer|ConvertSelection|SetSelectionOwner|GetSelectionOwner|GetMotionEvents|TranslateCoordinates|CopyArea|SelectInput)(Unchecked|Checked)?\b`)
	for _, found := range spying.FindAllString(symbols, -1) {
		t.Errorf("the program holds %s", found)
	}
	// Where one place of the program finds methods by their names, the linker keeps every
	// exported method of all of it: a quarter more. Templates are such a place, which nobody
	// uses; `go build -ldflags=-dumpdep` tells others by <ReflectMethod>.
	for _, finder := range []string{"text/template.(*state).evalField", "dbus/v5.getMethods"} {
		if strings.Contains(symbols, finder) {
			t.Errorf("the program holds %s", finder)
		}
	}
}
