package desktop

import (
	"testing"

	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
)

// One look at a desktop on which nothing happens: what the agent does every second.
func BenchmarkLook(b *testing.B) {
	d := desktoptest.StartManaged(b)
	d.Open("x11-apps", "Calculator", "xcalc")
	opened, err := Open(Config{Display: d.Name})
	if err != nil {
		b.Fatal(err)
	}
	x := opened.(*x11Desktop)
	x.exits = newExitWatch(x.openPIDFD)
	defer x.exits.close()
	if err := x.connect(); err != nil {
		b.Fatal(err)
	}
	defer x.disconnect()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := x.observe(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
