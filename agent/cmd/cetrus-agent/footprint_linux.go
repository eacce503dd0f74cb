package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel maps 16 pages of the program's file around each fault, so that after its start a
// process holds most of the file and works with a tenth of it. What is not needed is given
// back soon after the start, and then ever less often, for the rare things that it does bring
// more in. Such pages are clean: some hundred come back, at a minor fault of about a
// microsecond each.
const (
	firstGiveBack = time.Second / 8
	giveBackEvery = time.Minute // in the long run
)

// pages are a part of the address space.
type pages struct{ from, to uintptr }

// keepSmall gives back the pages of the program's file, until ctx ends or stop is called,
// which waits. What cannot be given back stays: it is memory, and nothing else.
func keepSmall(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var giving sync.WaitGroup
	giving.Go(func() { giveBack(ctx) })
	return func() {
		cancel()
		giving.Wait()
	}
}

func giveBack(ctx context.Context) {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	self, err := os.Readlink("/proc/self/exe")
	mapped := programPages(maps, self)
	if maps.Close() != nil || err != nil {
		return
	}
	timer := time.NewTimer(0) // what the runtime's own start brought in goes at once
	defer timer.Stop()
	for pause := firstGiveBack; ; pause = min(2*pause, giveBackEvery) {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			debug.FreeOSMemory()
			for _, p := range mapped {
				_, _, _ = unix.Syscall(unix.SYS_MADVISE, p.from, p.to-p.from, unix.MADV_DONTNEED)
			}
			timer.Reset(pause)
		}
	}
}

// staticEnd is above every address of a program that is linked to a fixed place, as ours is.
// One that is placed anew at each start has pages that it changed then and only reads since.
const staticEnd = 1 << 32

// programPages finds where a list of mappings (proc_pid_maps(5)) has a file, but for what may
// be written: that holds variables, which the file does not have.
func programPages(maps io.Reader, file string) (mapped []pages) {
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		line, found := strings.CutSuffix(lines.Text(), " "+file)
		if !found {
			continue
		}
		var p pages
		var access string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &p.from, &p.to, &access); err != nil || strings.ContainsRune(access, 'w') || p.to > staticEnd {
			continue
		}
		mapped = append(mapped, p)
	}
	return mapped
}
