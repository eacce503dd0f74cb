package durable

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

// SyncDir does nothing: NTFS journals a rename, and folders cannot be flushed.
func SyncDir(string) error { return nil }

// renamePatience is how long a file that somebody has open is waited for: what looks for
// viruses opens each one that has just been written, for a moment.
const renamePatience = 2 * time.Second

// Rename puts a file in the place of another one. A program that has just ended holds its
// file for a moment, too.
func Rename(from, to string) error {
	again := time.NewTicker(renamePatience / 100)
	defer again.Stop()
	for late := time.Now().Add(renamePatience); ; <-again.C {
		err := os.Rename(from, to)
		held := errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_ACCESS_DENIED)
		if !held || time.Now().After(late) {
			return err
		}
	}
}
