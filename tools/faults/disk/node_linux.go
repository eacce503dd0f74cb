package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// node is a name of the disk.
type node struct {
	fs.LoopbackNode

	disk *Disk
}

// WrapChild makes each name below one of the disk too.
func (n *node) WrapChild(context.Context, fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{LoopbackNode: fs.LoopbackNode{RootData: n.RootData}, disk: n.disk}
}

func (n *node) path(names ...string) string {
	return filepath.Join(append([]string{n.RootData.Path, n.Path(n.Root())}, names...)...)
}

// change does one of names, unless it fails, and notes how it is undone.
func (n *node) change(removes bool, do func() (change, syscall.Errno)) syscall.Errno {
	d := n.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if full := errors.Is(d.failure.Error, unix.ENOSPC); d.fails(d.failure.Writes && (!full || !removes)) {
		return d.failure.Error
	}
	c, errno := do()
	if errno == fs.OK && c.undo != nil {
		d.pending = append(d.pending, c)
	}
	return errno
}

// made is a name that was not there.
func made(path string) change {
	return change{undo: func() error {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("disk: take back a name: %w", err)
		}
		return nil
	}}
}

// aside is where a file is kept whose name is gone, until that is safe.
func (d *Disk) aside() string {
	d.removed++
	return filepath.Join(d.limbo, fmt.Sprint(d.removed))
}

// Create makes a file, or opens one.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (child *fs.Inode, handle fs.FileHandle, fuseFlags uint32, errno syscall.Errno) {
	path := n.path(name)
	errno = n.change(false, func() (change, syscall.Errno) {
		_, err := os.Lstat(path)
		file, err2 := os.OpenFile(path, int(flags)&^(unix.O_APPEND|unix.O_SYNC|unix.O_DSYNC|unix.O_TRUNC)|os.O_CREATE, os.FileMode(mode))
		if err2 != nil {
			return change{}, fs.ToErrno(err2)
		}
		if child, errno = n.Lookup(ctx, name, out); errno != fs.OK {
			_ = file.Close()
			return change{}, errno
		}
		handle = n.disk.handle(file, flags)
		if errors.Is(err, os.ErrNotExist) {
			return made(path), fs.OK
		}
		return change{}, fs.OK
	})
	if errno == fs.OK && flags&unix.O_TRUNC != 0 {
		errno = handle.(*file).truncate(0)
	}
	return child, handle, fuse.FOPEN_DIRECT_IO, errno
}

// Open opens a file.
func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	d := n.disk
	if flags&unix.O_ACCMODE != unix.O_RDONLY {
		d.mu.Lock()
		failed := errors.Is(d.failure.Error, unix.EROFS) && d.fails(true)
		d.mu.Unlock()
		if failed {
			return nil, 0, unix.EROFS
		}
	}
	opened, err := os.OpenFile(n.path(), int(flags)&^(unix.O_APPEND|unix.O_SYNC|unix.O_DSYNC|unix.O_TRUNC|unix.O_CREAT|unix.O_EXCL), 0)
	if err != nil {
		return nil, 0, fs.ToErrno(err)
	}
	handle := d.handle(opened, flags)
	if flags&unix.O_TRUNC != 0 {
		if errno := handle.truncate(0); errno != fs.OK {
			_ = opened.Close()
			return nil, 0, errno
		}
	}
	return handle, fuse.FOPEN_DIRECT_IO, fs.OK
}

// Mkdir makes a folder.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (child *fs.Inode, errno syscall.Errno) {
	errno = n.change(false, func() (change, syscall.Errno) {
		child, errno = n.LoopbackNode.Mkdir(ctx, name, mode, out)
		return made(n.path(name)), errno
	})
	return child, errno
}

// Mknod makes what is neither file nor folder.
func (n *node) Mknod(ctx context.Context, name string, mode, device uint32, out *fuse.EntryOut) (child *fs.Inode, errno syscall.Errno) {
	errno = n.change(false, func() (change, syscall.Errno) {
		child, errno = n.LoopbackNode.Mknod(ctx, name, mode, device, out)
		return made(n.path(name)), errno
	})
	return child, errno
}

// Symlink makes a symbolic link.
func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (child *fs.Inode, errno syscall.Errno) {
	errno = n.change(false, func() (change, syscall.Errno) {
		child, errno = n.LoopbackNode.Symlink(ctx, target, name, out)
		return made(n.path(name)), errno
	})
	return child, errno
}

// Link gives a file a further name.
func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (child *fs.Inode, errno syscall.Errno) {
	errno = n.change(false, func() (change, syscall.Errno) {
		child, errno = n.LoopbackNode.Link(ctx, target, name, out)
		return made(n.path(name)), errno
	})
	return child, errno
}

// Unlink takes a name away; what it named is kept aside until that is safe.
func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	return n.change(true, func() (change, syscall.Errno) {
		path, aside := n.path(name), n.disk.aside()
		if err := os.Rename(path, aside); err != nil {
			return change{}, fs.ToErrno(err)
		}
		return change{undo: func() error { return os.Rename(aside, path) }, commit: func() error { return os.Remove(aside) }}, fs.OK
	})
}

// Rmdir takes an empty folder away.
func (n *node) Rmdir(_ context.Context, name string) syscall.Errno {
	return n.change(true, func() (change, syscall.Errno) { return removeFolder(n.path(name)) })
}

func removeFolder(path string) (change, syscall.Errno) {
	info, err := os.Lstat(path)
	if err == nil {
		err = unix.Rmdir(path)
	}
	if err != nil {
		return change{}, fs.ToErrno(err)
	}
	return change{undo: func() error { return os.Mkdir(path, info.Mode().Perm()) }}, fs.OK
}

// Rename gives another name, which may have been that of something else.
func (n *node) Rename(_ context.Context, name string, newParent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	parent, ok := newParent.(*node)
	if !ok {
		return unix.EXDEV
	}
	if flags&^unix.RENAME_NOREPLACE != 0 {
		return unix.EINVAL
	}
	return n.change(false, func() (change, syscall.Errno) {
		from, to := n.path(name), parent.path(newName)
		replaced := change{undo: func() error { return nil }}
		info, err := os.Lstat(to)
		switch {
		case err != nil:
		case flags&unix.RENAME_NOREPLACE != 0:
			return change{}, unix.EEXIST
		case info.IsDir():
			var errno syscall.Errno
			if replaced, errno = removeFolder(to); errno != fs.OK {
				return change{}, errno
			}
		default:
			aside := n.disk.aside()
			if err := os.Link(to, aside); err != nil {
				return change{}, fs.ToErrno(err)
			}
			replaced = change{undo: func() error { return os.Rename(aside, to) }, commit: func() error { return os.Remove(aside) }}
		}
		if err := os.Rename(from, to); err != nil {
			return change{}, fs.ToErrno(err)
		}
		return change{undo: func() error { return errors.Join(os.Rename(to, from), replaced.undo()) }, commit: replaced.commit}, fs.OK
	})
}

// Setattr changes a length, which is content, or what is not: that is safe at once.
func (n *node) Setattr(ctx context.Context, handle fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		opened, known := handle.(*file)
		if !known {
			at, err := os.OpenFile(n.path(), os.O_RDWR, 0)
			if err != nil {
				return fs.ToErrno(err)
			}
			defer func() { _ = at.Close() }()
			opened = n.disk.handle(at, 0)
		}
		if errno := opened.truncate(int64(size)); errno != fs.OK {
			return errno
		}
		in.Valid &^= fuse.FATTR_SIZE
	}
	return n.LoopbackNode.Setattr(ctx, nil, in, out)
}

// Fsync makes a file safe, or the names of a folder.
func (n *node) Fsync(_ context.Context, handle fs.FileHandle, _ uint32) syscall.Errno {
	d := n.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	opened, ok := handle.(*file)
	if !ok {
		return d.sync(inode{})
	}
	return d.sync(opened.at)
}

// Statfs tells how much room there is.
func (n *node) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	errno := n.LoopbackNode.Statfs(ctx, out)
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	if f := n.disk.failure; errors.Is(f.Error, unix.ENOSPC) && !f.Untold {
		out.Bavail, out.Bfree = 0, 0
	}
	return errno
}

// CopyFileRange is left to reading and writing.
func (n *node) CopyFileRange(context.Context, fs.FileHandle, uint64, *fs.Inode, fs.FileHandle, uint64, uint64, uint64) (uint32, syscall.Errno) {
	return 0, unix.ENOSYS
}

// file is an open one.
type file struct {
	*fs.LoopbackFile

	disk   *Disk
	opened *os.File
	at     inode
	// always says that each write is synced.
	always bool
}

func (d *Disk) handle(opened *os.File, flags uint32) *file {
	f := &file{LoopbackFile: fs.NewLoopbackFileFromOS(opened), disk: d, opened: opened, always: flags&(unix.O_SYNC|unix.O_DSYNC) != 0}
	var st unix.Stat_t
	if unix.Fstat(int(opened.Fd()), &st) == nil {
		f.at = inode{st.Dev, st.Ino}
	}
	return f
}

// Write writes.
func (f *file) Write(_ context.Context, data []byte, offset int64) (uint32, syscall.Errno) {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.figures.Writes++
	failed := d.fails(d.failure.Writes)
	if failed {
		if !d.failure.Torn || len(data) < 2 || d.random.IntN(2) == 0 {
			return 0, d.failure.Error
		}
		d.figures.Torn++
		data = data[:1+d.random.IntN(len(data)-1)]
	}
	c, at, err := d.content(f.opened)
	if err == nil {
		err = c.touch(offset, offset+int64(len(data)))
	}
	if err != nil {
		return 0, fs.ToErrno(err)
	}
	n, err := f.opened.WriteAt(data, offset)
	switch {
	case err != nil:
		return uint32(n), fs.ToErrno(err)
	case failed && d.random.IntN(2) == 0:
		return 0, d.failure.Error // its first part is there, and it does not say so
	case failed:
		return uint32(n), fs.OK
	case f.always:
		if errno := d.sync(at); errno != fs.OK {
			return 0, errno
		}
	}
	return uint32(n), fs.OK
}

// truncate changes the length.
func (f *file) truncate(size int64) syscall.Errno {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	// A full disk has room for what becomes shorter.
	if !errors.Is(d.failure.Error, unix.ENOSPC) && d.fails(d.failure.Writes) {
		return d.failure.Error
	}
	info, err := f.opened.Stat()
	if err != nil {
		return fs.ToErrno(err)
	}
	c, _, err := d.content(f.opened)
	if err == nil && size < info.Size() {
		err = c.touch(size, info.Size())
	}
	if err == nil {
		err = f.opened.Truncate(size)
	}
	return fs.ToErrno(err)
}

// Allocate makes a file longer.
func (f *file) Allocate(ctx context.Context, offset, size uint64, mode uint32) syscall.Errno {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fails(d.failure.Writes) {
		return d.failure.Error
	}
	c, _, err := d.content(f.opened)
	if err == nil && mode != 0 {
		err = c.touch(int64(offset), int64(offset+size))
	}
	if err != nil {
		return fs.ToErrno(err)
	}
	return f.LoopbackFile.Allocate(ctx, offset, size, mode)
}

// Fsync makes it safe.
func (f *file) Fsync(context.Context, uint32) syscall.Errno {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return f.disk.sync(f.at)
}
