package disk

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Failure is how a disk is.
type Failure struct {
	// Error is what operations end with: EIO, ENOSPC or EROFS; 0: nothing fails.
	Error syscall.Errno
	// OfThousand is how many operations fail; 0: all.
	OfThousand int
	// Writes and Syncs say which: Writes are also making, renaming and removing, except
	// that a full disk lets things be removed.
	Writes, Syncs bool
	// Torn has a write that fails leave its first part.
	Torn bool
	// Untold has a disk that is full tell of free room.
	Untold bool
}

// Full has no room.
func Full() Failure { return Failure{Error: unix.ENOSPC, Writes: true, Torn: true} }

// ReadOnly is as a file system that was remounted so.
func ReadOnly() Failure { return Failure{Error: unix.EROFS, Writes: true, Syncs: true} }

// Broken fails some of all writes and syncs.
func Broken(ofThousand int) Failure {
	return Failure{Error: unix.EIO, OfThousand: ofThousand, Writes: true, Syncs: true, Torn: true}
}

// Figures count what happened to a disk.
type Figures struct {
	Writes, Syncs, Failed, Torn int64
	// Cuts of power, what they took back of pages and of changes of names.
	Cuts, Pages, Names int64
}

// Disk is one, mounted.
type Disk struct {
	platter, limbo, mount string
	server                *fuse.Server

	mu       sync.Mutex
	random   *rand.Rand
	contents map[inode]*content
	pending  []change
	removed  int64
	failure  Failure
	figures  Figures
}

// inode is a file of the platter.
type inode struct{ device, number uint64 }

func (i inode) compare(other inode) int {
	return cmp.Or(cmp.Compare(i.device, other.device), cmp.Compare(i.number, other.number))
}

// change is one of names.
type change struct {
	undo func() error
	// commit is done once it is safe; nil: nothing.
	commit func() error
}

// Mount makes a disk of what is in folder, at mount. The seed decides what it does.
func Mount(folder, mount string, seed uint64) (*Disk, error) {
	d := &Disk{
		platter: filepath.Join(folder, "platter"), limbo: filepath.Join(folder, "limbo"), mount: mount,
		random: rand.New(rand.NewPCG(seed, 0x6469736b)), contents: map[inode]*content{},
	}
	for _, dir := range []string{d.platter, d.limbo, mount} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("disk: %w", err)
		}
	}
	return d, d.attach()
}

func (d *Disk) attach() error {
	info, err := os.Stat(d.platter)
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	root := &fs.LoopbackRoot{Path: d.platter, Dev: info.Sys().(*syscall.Stat_t).Dev}
	top := &node{LoopbackNode: fs.LoopbackNode{RootData: root}, disk: d}
	root.RootNode = top
	// Nothing is remembered by the kernel, since a cut changes it behind the kernel's back.
	never := time.Duration(0)
	d.server, err = fs.Mount(d.mount, top, &fs.Options{
		EntryTimeout: &never, AttrTimeout: &never, NegativeTimeout: &never, NullPermissions: true,
		MountOptions: fuse.MountOptions{AllowOther: true, DirectMountStrict: true, FsName: "cetrus-faults", Name: "disk", DisableXAttrs: true, DisableSplice: true, MaxWrite: 1 << 20},
	})
	if err != nil {
		return fmt.Errorf("disk: mount %s: %w", d.mount, err)
	}
	return nil
}

// Fail makes the disk so from now on; the zero Failure mends it.
func (d *Disk) Fail(f Failure) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failure = f
}

// Figures tells what happened so far.
func (d *Disk) Figures() Figures {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.figures
}

// PowerCut takes away what is not synced, as chance will have it, and mounts what is left. Nothing
// may have files open there: who writes loses its power first.
func (d *Disk) PowerCut() error {
	if err := d.detach(); err != nil {
		return err
	}
	if err := d.cut(); err != nil {
		return err
	}
	return d.attach()
}

// cut takes back what is in files, then the names.
func (d *Disk) cut() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var failures []error
	d.figures.Cuts++
	// In an order of its own, so that a seed cuts the same.
	for _, at := range slices.SortedFunc(maps.Keys(d.contents), inode.compare) {
		c := d.contents[at]
		d.figures.Pages += int64(len(c.pages))
		failures = append(failures, c.cut(d.random), c.file.Close())
		delete(d.contents, at)
	}
	stay := d.random.IntN(len(d.pending) + 1)
	for i := len(d.pending) - 1; i >= stay; i-- {
		d.figures.Names++
		failures = append(failures, d.pending[i].undo())
	}
	d.pending = d.pending[:stay]
	failures = append(failures, d.commit())
	return errors.Join(failures...)
}

// commit makes the names safe. It is called with the lock held.
func (d *Disk) commit() error {
	var failures []error
	for _, c := range d.pending {
		if c.commit != nil {
			failures = append(failures, c.commit())
		}
	}
	d.pending = nil
	return errors.Join(failures...)
}

// Close unmounts the disk, and leaves everything on the platter.
func (d *Disk) Close() error {
	if err := d.detach(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	failures := []error{d.commit()}
	for at, c := range d.contents {
		failures = append(failures, c.file.Close())
		delete(d.contents, at)
	}
	return errors.Join(failures...)
}

func (d *Disk) detach() error {
	// The kernel lets go of a process's files a moment after it has ended.
	for deadline := time.Now().Add(time.Minute); ; <-time.After(5 * time.Millisecond) {
		err := unix.Unmount(d.mount, 0)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("disk: unmount %s: %w", d.mount, err)
		}
	}
	d.server.Wait()
	return nil
}

// fails tells whether an operation fails. It is called with the lock held.
func (d *Disk) fails(applies bool) bool {
	f := d.failure
	if f.Error == 0 || !applies || f.OfThousand > 0 && d.random.IntN(1000) >= f.OfThousand {
		return false
	}
	d.figures.Failed++
	return true
}

// content is that of a file, noted from now on. It is called with the lock held.
func (d *Disk) content(file *os.File) (*content, inode, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return nil, inode{}, err
	}
	at := inode{st.Dev, st.Ino}
	if c := d.contents[at]; c != nil {
		return c, at, nil
	}
	// A descriptor of its own: it outlives who writes, and any name.
	own, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), os.O_RDWR, 0)
	if err != nil {
		return nil, at, err
	}
	c, err := newContent(own)
	if err != nil {
		return nil, at, errors.Join(err, own.Close())
	}
	d.contents[at] = c
	return c, at, nil
}

// sync makes a file safe, and all names. It is called with the lock held.
func (d *Disk) sync(at inode) syscall.Errno {
	d.figures.Syncs++
	c := d.contents[at]
	if d.fails(d.failure.Syncs) {
		if c != nil {
			c.abandon()
		}
		return d.failure.Error
	}
	if err := d.commit(); err != nil {
		return fs.ToErrno(err)
	}
	if c == nil {
		return fs.OK
	}
	all, err := c.synced()
	if err != nil {
		return fs.ToErrno(err)
	}
	if all {
		delete(d.contents, at)
		return fs.ToErrno(c.file.Close())
	}
	return fs.OK
}
