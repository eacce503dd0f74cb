package desktop

import (
	"sync"
	"testing"

	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
)

// One look at a desktop on which nothing happens: what the agent does every second.
func BenchmarkLook(b *testing.B) {
	d := desktoptest.StartManaged(b)
	d.Open("x11-apps", "Calculator", "xcalc")
	m, err := open(Config{Display: d.Name}, systemKernel())
	if err != nil {
		b.Fatal(err)
	}
	defer m.close()
	defer m.letGo()
	var openers sync.WaitGroup
	for len(m.watched) == 0 || m.watched[m.listed[0].key].seenAt == 0 {
		if _, err := m.observe(b.Context(), false, &openers); err != nil {
			b.Fatal(err)
		}
		openers.Wait()
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.observe(b.Context(), false, &openers); err != nil {
			b.Fatal(err)
		}
	}
}
