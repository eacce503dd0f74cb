package disk

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
)

const (
	pageBytes   = 4096
	sectorBytes = 512
)

// content is what is unsynced in one file: what stands on the platter where other bytes
// are read by now.
type content struct {
	file  *os.File
	size  int64 // on the platter
	pages map[int64]*page
}

// page is what stands on the platter of one page; shorter where the file ends, empty
// behind its end.
type page struct {
	platter []byte
	// abandoned says that a sync has failed: the page counts as written, and is not.
	abandoned bool
}

func newContent(file *os.File) (*content, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	return &content{file: file, size: info.Size(), pages: map[int64]*page{}}, nil
}

// touch notes what stands where bytes are about to change.
func (c *content) touch(from, to int64) error {
	for index := from / pageBytes; index*pageBytes < to; index++ {
		if p, known := c.pages[index]; known {
			p.abandoned = false
			continue
		}
		p := &page{}
		if begin := index * pageBytes; begin < c.size {
			p.platter = make([]byte, min(pageBytes, c.size-begin))
			if n, err := c.file.ReadAt(p.platter, begin); err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("disk: what stands at %d: %w", begin, err)
			} else if n < len(p.platter) {
				p.platter = p.platter[:n]
			}
		}
		c.pages[index] = p
	}
	return nil
}

// synced makes all safe that no failed sync has abandoned; it tells whether that is all.
func (c *content) synced() (bool, error) {
	info, err := c.file.Stat()
	if err != nil {
		return false, err
	}
	c.size = info.Size()
	for index, p := range c.pages {
		if !p.abandoned {
			delete(c.pages, index)
		}
	}
	return len(c.pages) == 0, nil
}

func (c *content) abandon() {
	for _, p := range c.pages {
		p.abandoned = true
	}
}

// fate is what becomes of what is unsynced in a file.
type fate int

const (
	nothingStays fate = iota
	someStays
	allStays
	fates
)

// cut takes away what is unsynced.
func (c *content) cut(random *rand.Rand) error {
	info, err := c.file.Stat()
	if err != nil {
		return err
	}
	grown, which := info.Size(), fate(random.IntN(int(fates)))
	size := c.size
	switch {
	case which == allStays:
		size = grown
	case which == someStays && grown > c.size:
		size += random.Int64N(grown - c.size + 1)
	case which == someStays && random.IntN(2) == 0:
		size = grown
	}
	for _, index := range slices.Sorted(maps.Keys(c.pages)) {
		p, keep := c.pages[index], 0
		switch {
		case which == allStays && !p.abandoned:
			keep = pageBytes
		case which == someStays && !p.abandoned:
			keep = sectorBytes * random.IntN(pageBytes/sectorBytes+1)
		}
		if keep == pageBytes {
			continue
		}
		old := make([]byte, pageBytes) // behind the end there are zeros
		copy(old, p.platter)
		if _, err := c.file.WriteAt(old[keep:], index*pageBytes+int64(keep)); err != nil {
			return fmt.Errorf("disk: take back a page: %w", err)
		}
	}
	if err := c.file.Truncate(size); err != nil {
		return fmt.Errorf("disk: take back a length: %w", err)
	}
	return nil
}
