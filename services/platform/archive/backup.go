package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

const (
	// pieceBytes is how much of a file of a backup lies in one object.
	pieceBytes = 16 << 20
	// contentsName is the object that is made last: a backup without it is not finished.
	contentsName = "contents"
)

// Contents say what a backup holds.
type Contents struct {
	Name string    `json:"name"`
	Made time.Time `json:"made"`
	// About is the maker's own, as JSON.
	About json.RawMessage `json:"about"`
	// Files are in the order in which they were made.
	Files []File `json:"files"`
}

// File is one of a backup.
type File struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
	// Pieces are the digests of its objects.
	Pieces []string `json:"pieces"`
}

// pieceHeader says of which file a piece is.
type pieceHeader struct {
	Backup string `json:"backup"`
	File   string `json:"file"`
	Piece  int    `json:"piece"`
}

// Backup is one that is being made.
type Backup struct {
	store    Store
	keys     *Keys
	contents Contents
}

// NewBackup begins one under a name, which is that of a folder of the store. Names of later ones sort behind it.
func NewBackup(store Store, keys *Keys, now time.Time) *Backup {
	name := now.UTC().Format(backupName)
	return &Backup{store: Within(store, name), keys: keys, contents: Contents{Name: name, Made: now.UTC()}}
}

// Name is the backup's.
func (b *Backup) Name() string { return b.contents.Name }

// Begin fails where the store cannot be reached, so that nothing is read for it in vain.
func (b *Backup) Begin(ctx context.Context) error {
	switch _, err := b.store.Load(ctx, contentsName); {
	case err == nil:
		return fmt.Errorf("archive: backup %s: %w", b.contents.Name, ErrExists)
	case !errors.Is(err, ErrNone):
		return fmt.Errorf("archive: backup %s: %w", b.contents.Name, err)
	}
	return nil
}

// Add makes a file of what write writes.
func (b *Backup) Add(ctx context.Context, name string, write func(io.Writer) error) error {
	w := &pieces{ctx: ctx, backup: b, file: File{Name: name}}
	err := write(w)
	if err == nil && (len(w.open) > 0 || len(w.file.Pieces) == 0) {
		err = w.close()
	}
	if err != nil {
		return fmt.Errorf("archive: %s of backup %s: %w", name, b.contents.Name, err)
	}
	b.contents.Files = append(b.contents.Files, w.file)
	return nil
}

// pieces writes a file by sealed pieces.
type pieces struct {
	ctx    context.Context // of Add, which this does not outlive
	backup *Backup
	file   File
	open   []byte
}

// Write implements io.Writer.
func (w *pieces) Write(p []byte) (int, error) {
	w.open = append(w.open, p...)
	w.file.Bytes += int64(len(p))
	for len(w.open) >= pieceBytes {
		if err := w.close(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (w *pieces) close() error {
	n, piece := min(len(w.open), pieceBytes), len(w.file.Pieces)
	sum, err := w.backup.create(w.ctx, pieceName(w.file.Name, piece), pieceHeader{File: w.file.Name, Piece: piece}, w.open[:n])
	if err != nil {
		return err
	}
	w.file.Pieces, w.open = append(w.file.Pieces, sum.String()), append(w.open[:0], w.open[n:]...)
	return nil
}

// create makes an object of the backup.
func (b *Backup) create(ctx context.Context, name string, is pieceHeader, body []byte) (digest, error) {
	is.Backup = b.contents.Name
	header, err := json.Marshal(is)
	if err != nil {
		return digest{}, err
	}
	packer := newPacker()
	var blocks [][]byte
	for chunk := range slices.Chunk(body, blockBytes) {
		blocks = append(blocks, packer.EncodeAll(chunk, nil))
	}
	content, sum := b.keys.seal(kindBackup, header, blocks)
	return sum, createOwn(ctx, b.store, name, content)
}

func pieceName(file string, piece int) string { return fmt.Sprintf("%s/%06d", file, piece) }

// Finish makes the backup one: before it, it is none.
func (b *Backup) Finish(ctx context.Context, about any) error {
	var err error
	if b.contents.About, err = json.Marshal(about); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	body, err := json.Marshal(b.contents)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	_, err = b.create(ctx, contentsName, pieceHeader{File: contentsName}, body)
	return err
}

// Backups names the finished ones of a store, the oldest first.
func Backups(ctx context.Context, store Store) ([]string, error) {
	return finishedBackups(ctx, store, nil)
}

// finishedBackups is Backups, where some are known to be finished: they are as long as their folders are there.
func finishedBackups(ctx context.Context, store Store, known []string) ([]string, error) {
	folders, err := store.Folders(ctx, "") // a list of all objects would grow with what was ever backed up
	if err != nil {
		return nil, err
	}
	var found []string
	for _, name := range folders {
		finished := slices.Contains(known, name)
		if !finished {
			if finished, err = store.Has(ctx, name+"/"+contentsName); err != nil {
				return nil, err
			}
		}
		if finished {
			found = append(found, name)
		}
	}
	return found, nil
}

// Kept is a finished backup.
type Kept struct {
	Contents
	store Store
	keys  *Keys
}

// OpenBackup opens one by its name.
func OpenBackup(ctx context.Context, store Store, keys *Keys, name string) (*Kept, error) {
	k := &Kept{store: Within(store, name), keys: keys}
	content, err := k.store.Load(ctx, contentsName)
	if err != nil {
		return nil, fmt.Errorf("archive: backup %s: %w", name, err)
	}
	body, err := k.piece(content, pieceHeader{Backup: name, File: contentsName})
	if err == nil {
		err = json.Unmarshal(body, &k.Contents)
	}
	if err != nil {
		return nil, fmt.Errorf("archive: backup %s: %w", name, err)
	}
	return k, nil
}

// piece opens a piece that must be the one that want says.
func (k *Kept) piece(content []byte, want pieceHeader) ([]byte, error) {
	s, err := parse(kindBackup, content)
	if err != nil {
		return nil, err
	}
	var is pieceHeader
	if err := json.Unmarshal(s.header, &is); err != nil || is != want {
		return nil, fmt.Errorf("%w: it is piece %d of %s of backup %q", ErrGap, is.Piece, is.File, is.Backup)
	}
	var body []byte
	err = s.open(k.keys, func(plain []byte) error {
		body = append(body, plain...)
		return nil
	})
	return body, err
}

// Each calls take with the pieces of a file, in their order; their sizes are of no meaning.
func (k *Kept) Each(ctx context.Context, name string, take func([]byte) error) error {
	at := slices.IndexFunc(k.Files, func(f File) bool { return f.Name == name })
	if at < 0 {
		return fmt.Errorf("archive: backup %s: %w: %s", k.Name, ErrNone, name)
	}
	for i, sum := range k.Files[at].Pieces {
		content, err := k.store.Load(ctx, pieceName(name, i))
		if err == nil && (len(content) < digestBytes || digest(content[len(content)-digestBytes:]).String() != sum) {
			err = fmt.Errorf("%w: it is not the piece that was made", ErrGap)
		}
		var body []byte
		if err == nil {
			body, err = k.piece(content, pieceHeader{Backup: k.Name, File: name, Piece: i})
		}
		if err != nil {
			return fmt.Errorf("archive: piece %d of %s of backup %s: %w", i, name, k.Name, err)
		}
		if err := take(body); err != nil {
			return err
		}
	}
	return nil
}

// Check reads all of a backup.
func (k *Kept) Check(ctx context.Context) error {
	var all []error
	for _, f := range k.Files {
		all = append(all, k.Each(ctx, f.Name, func([]byte) error { return nil }))
	}
	return errors.Join(all...)
}
