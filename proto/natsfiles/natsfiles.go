package natsfiles

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	// serverFolder is what the server makes in its store directory.
	serverFolder = "jetstream"
	// heldFolder is beside it, on the same file system.
	heldFolder = "held"
	// releasedFolder is what it is called once nothing of it is needed any more.
	releasedFolder = "released"
	trialFile      = "trial"
	// metaFile is what a stream is known by.
	metaFile = "meta.inf"
	// blockSuffix is that of the files that messages are in, which have numbers.
	blockSuffix = ".blk"
)

// Held are the files of all streams of one store directory.
type Held struct {
	dir string
	// streams are their folders, below serverFolder.
	streams []string
}

// Folder is where the second names of a store directory are.
func Folder(dir string) string { return filepath.Join(dir, heldFolder) }

// SecondNames tells whether a path is a folder of second names of a store directory, for who counts what it holds: their
// bytes are there once. A start that came to no end leaves them.
func SecondNames(dir, path string) bool {
	return path == Folder(dir) || path == filepath.Join(dir, releasedFolder)
}

// Hold gives all files of a store directory their second names, and sees that what was written last is on the
// disk. It fails where the disk does, so that no server is started on it; what an earlier Hold had, that came to no end,
// is put back before.
func Hold(dir string) (*Held, error) {
	h := &Held{dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("hold the files of streams: %w", err)
	}
	if err := Try(dir); err != nil {
		return nil, fmt.Errorf("the disk of %s cannot be written: %w", dir, err)
	}
	if err := os.RemoveAll(filepath.Join(dir, releasedFolder)); err != nil {
		return nil, fmt.Errorf("hold the files of streams: %w", err)
	}
	if err := h.Restore(); err != nil {
		return nil, err
	}
	if err := writeAgain(filepath.Join(dir, serverFolder)); err != nil {
		return nil, fmt.Errorf("write again what was written last in %s: %w", dir, err)
	}
	streams, err := filepath.Glob(filepath.Join(dir, serverFolder, "*", "streams", "*", metaFile))
	if err != nil {
		return nil, fmt.Errorf("hold the files of streams: %w", err)
	}
	for _, path := range streams {
		h.streams = append(h.streams, filepath.Dir(path))
	}
	if err := copyNames(dir, serverFolder, heldFolder); err != nil {
		return nil, errors.Join(fmt.Errorf("hold the files of streams: %w", err), h.Release())
	}
	return h, nil
}

// Missing are the folders of streams that were there, and that a server does not know now that it has started:
// it has removed their files, or some of them.
func (h *Held) Missing(knows func(account, stream string) bool) []string {
	return slices.DeleteFunc(slices.Clone(h.streams), func(folder string) bool {
		account := filepath.Base(filepath.Dir(filepath.Dir(folder)))
		return knows(account, filepath.Base(folder))
	})
}

// Restore puts back all files that are missing. No server may run on them.
func (h *Held) Restore() error {
	if err := copyNames(h.dir, heldFolder, serverFolder); err != nil {
		return fmt.Errorf("put back the files of streams from %s: %w", Folder(h.dir), err)
	}
	return h.Release()
}

// Intact tells whether the files of a stream's messages are those that were held: a server that has failed to open a stream
// removes some, and would make others of the same names. What is in them it does not tell, since a server cuts the torn end
// of one off in its place.
func (h *Held) Intact(account, stream string) (bool, error) {
	intact := true
	err := filepath.WalkDir(filepath.Join(Folder(h.dir), account, "streams", stream), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, blockSuffix) {
			return err
		}
		before, err := entry.Info()
		if err != nil {
			return err
		}
		now, err := os.Lstat(filepath.Join(h.dir, serverFolder, strings.TrimPrefix(path, Folder(h.dir))))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			intact = false
		case err != nil:
			return err
		case !os.SameFile(before, now):
			intact = false
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("look at the files of stream %s: %w", stream, err)
	}
	return intact, nil
}

// Unreadable is why one of the files that held a stream's messages cannot be read, nil where all can. It reads all of them,
// and is for when a server could not open the stream.
func (h *Held) Unreadable(account, stream string) error {
	root, err := os.OpenRoot(h.dir)
	if err != nil {
		return err
	}
	err = fs.WalkDir(root.FS(), filepath.Join(heldFolder, account, "streams", stream), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, blockSuffix) {
			return err
		}
		file, err := root.Open(path)
		if err == nil {
			_, err = io.Copy(io.Discard, file)
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			if at, ok := errors.AsType[*fs.PathError](err); ok {
				err = at.Err // it has the second name
			}
			return fmt.Errorf("%s cannot be read: %w", filepath.Join(h.dir, serverFolder, strings.TrimPrefix(path, heldFolder)), err)
		}
		return nil
	})
	return errors.Join(err, root.Close())
}

// Release takes the second names away, once the server has opened everything: all of them at once or none, since what is
// left of some would be taken for all that there was. Where it fails thereafter none is put back any more, and what is left
// keeps the room of what the server removes until it is released, or held, again.
func (h *Held) Release() error {
	released := filepath.Join(h.dir, releasedFolder)
	if err := os.Rename(Folder(h.dir), released); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release the files of streams: %w", err)
	}
	if err := os.RemoveAll(released); err != nil {
		return fmt.Errorf("release the files of streams: %w", err)
	}
	return nil
}

// writeAgain brings what is in the newest block of each stream, and of each log of a cluster, to the disk. After a
// sync that failed the system reads what was written as if it were there, and no later sync brings it there: a
// server would build on it, and lose all from there on with the power. It writes the same bytes in their place,
// which takes no room.
func writeAgain(folder string) error {
	newest := map[string]uint64{} // by folders of blocks
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		number, ok := strings.CutSuffix(entry.Name(), blockSuffix)
		n, parseErr := strconv.ParseUint(number, 10, 64)
		if ok && parseErr == nil {
			newest[filepath.Dir(path)] = max(n, newest[filepath.Dir(path)])
		}
		return nil
	})
	if err != nil {
		return err
	}
	for at, n := range newest {
		file, err := os.OpenFile(filepath.Join(at, strconv.FormatUint(n, 10)+blockSuffix), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(file)
		if err == nil {
			_, err = file.WriteAt(text, 0)
		}
		if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// copyNames gives each file below a folder a name below another, where there is none. Both are in dir.
func copyNames(dir, from, to string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	err = fs.WalkDir(root.FS(), from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		target := to + strings.TrimPrefix(path, from)
		switch {
		case entry.IsDir():
			return root.MkdirAll(target, 0o700)
		case entry.Type().IsRegular():
			if err := root.Link(path, target); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, root.Close())
}

// writeErrorWords are in what a server (2.15) says, in capitals or not, when a stream, a consumer or a log of its
// cluster gives up writing.
const writeErrorWords = "critical write error"

// GivesUp tells whether an error that a server writes to its log says that it has given up writing something: then
// it writes no more of that, also when its disk is well again, and its log is the only place where it always tells so.
func GivesUp(said string) bool { return strings.Contains(strings.ToLower(said), writeErrorWords) }

// Try writes and syncs a little in a folder, as whoever stores something there has to.
func Try(dir string) error {
	path := filepath.Join(dir, trialFile)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(make([]byte, 64<<10))
	return errors.Join(err, file.Sync(), file.Close(), os.Remove(path))
}
