// Command editor is a program to be watched by an agent: it has a window for each file that it
// is given, with the whole path in its title, for as long as it runs. It opens no file.
package main

import (
	"context"
	"fmt"
	"image"
	"os"
	"sync"

	"github.com/cetrus/cetrus/agent/win32"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: editor FILE...")
		os.Exit(2)
	}
	var windows sync.WaitGroup
	for n, file := range os.Args[1:] {
		windows.Go(func() {
			if err := show(n, file); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		})
	}
	windows.Wait()
}

func show(n int, file string) error {
	return win32.Run(context.Background(), win32.Options{
		Class: fmt.Sprint("CetrusEditor", n), Title: file + " - Edit", Style: win32.StyleCaption | win32.StyleSystemMenu,
		Handle: func(*win32.Window, win32.Message) (uintptr, bool) { return 0, false },
		Ready: func(w *win32.Window) error {
			at := image.Pt(40+30*n, 40+30*n)
			w.Move(image.Rectangle{Min: at, Max: at.Add(image.Pt(300, 120))})
			w.Show()
			return nil
		},
	})
}
