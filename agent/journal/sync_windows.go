package journal

import "os"

// syncDirectory does nothing: NTFS journals names itself, and directories cannot be
// flushed.
func syncDirectory(string, func(*os.File) error) error { return nil }
