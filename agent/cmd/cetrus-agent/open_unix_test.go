//go:build unix

package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What opens a file may be the browser itself: the icon ends without it, and leaves it.
func TestOpenerOutlivesTheIcon(t *testing.T) {
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	script := "#!/bin/sh\necho $$ >" + pid + ".new && mv " + pid + ".new " + pid + "\nexec sleep 600\n"
	if err := os.WriteFile(filepath.Join(dir, "xdg-open"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	left := make(chan error, 1)
	go func() { left <- openFile(ctx, "page.html") }()
	var browser int
	for late := time.After(20 * time.Second); browser == 0; {
		if text, err := os.ReadFile(pid); err == nil {
			browser, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		select {
		case err := <-left:
			t.Fatalf("it is open still, and was left: %v", err)
		case <-late:
			t.Fatal("nothing was opened")
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Cleanup(func() { _ = syscall.Kill(browser, syscall.SIGKILL) })
	stop()
	select {
	case err := <-left:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the icon waits for the browser")
	}
	if err := syscall.Kill(browser, 0); err != nil {
		t.Errorf("the browser was ended: %v", err)
	}
}
