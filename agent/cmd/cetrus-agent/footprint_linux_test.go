package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestProgramPages(t *testing.T) {
	const maps = `00400000-00a6a000 r-xp 00000000 fe:00 131 /usr/lib/cetrus/cetrus-agent
00a6a000-01121000 r--p 0066a000 fe:00 131 /usr/lib/cetrus/cetrus-agent
01121000-0118d000 rw-p 00d21000 fe:00 131 /usr/lib/cetrus/cetrus-agent
0118d000-03200000 rw-p 00000000 00:00 0
7f0000000000-7f0000100000 r--p 00000000 fe:00 77 /usr/lib/locale/cetrus-agent
7f0000200000-7f0000300000 r--p 00000000 fe:00 131 /usr/lib/cetrus/cetrus-agent
7ffd1000-7ffd2000 r-xp 00000000 00:00 0 [vdso]
`
	want := []pages{{0x400000, 0xa6a000}, {0xa6a000, 0x1121000}}
	if got := programPages(strings.NewReader(maps), "/usr/lib/cetrus/cetrus-agent"); !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// Of this process, the pages are those of its program: giving them back takes nothing away.
func TestOwnProgramPages(t *testing.T) {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if own := programPages(maps, self); len(own) < 2 {
		t.Errorf("code and constants of %s are mapped, found were %x", self, own)
	}
}
