package archive

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/cetrus/cetrus/services/platform/errs"
)

// Errors of a Store.
var (
	// ErrExists means that an object of that name is there already; it stays as it is.
	ErrExists = errors.New("archive: an object of that name is there")
	// ErrNone means that there is no object of that name.
	ErrNone = errors.New("archive: there is no such object")
)

// Store keeps objects that are made once and never changed. Names are words between slashes.
type Store interface {
	// Create makes an object durable, or fails with ErrExists.
	Create(ctx context.Context, name string, content []byte) error
	// Load is an object's content; ErrNone where there is none.
	Load(ctx context.Context, name string) ([]byte, error)
	// List is the names that begin with a prefix that ends with a slash, in the order of their bytes.
	List(ctx context.Context, prefix string) ([]string, error)
	// Folders is what stands between such a prefix, or nothing, and the next slash of names, in the order of their
	// bytes. It costs nothing for what is in each.
	Folders(ctx context.Context, prefix string) ([]string, error)
	// Has tells whether there is an object of that name.
	Has(ctx context.Context, name string) (bool, error)
	// Where names the store to people, without anything secret.
	Where() string
}

// createOwn makes an object that nobody else makes. An attempt whose answer was lost has made it, and the next one is
// refused: S3's client makes that by itself. No two that are sealed are alike, so one with the same bytes is this one.
func createOwn(ctx context.Context, store Store, name string, content []byte) error {
	err := store.Create(ctx, name, content)
	if !errors.Is(err, ErrExists) {
		return err
	}
	there, loading := store.Load(ctx, name)
	if loading != nil {
		return errors.Join(err, loading)
	}
	if !bytes.Equal(there, content) {
		return err
	}
	return nil
}

// OpenStore opens what a URL names: s3://bucket/prefix?endpoint=https://s3.example&region=eu-1, or
// file:///folder. It makes nothing, and asks the store nothing yet.
func OpenStore(text string) (Store, error) { return openStore(text, "") }

// OpenBackups is OpenStore for backups, which may have keys of their own for S3: BACKUPS_AWS_ACCESS_KEY_ID and
// BACKUPS_AWS_SECRET_ACCESS_KEY. One process may reach the archive too, as what the archive's keys may do is no
// matter of backups, and the other way about; and both may be in different services.
func OpenBackups(text string) (Store, error) { return openStore(text, "BACKUPS_") }

// openStore opens what a URL names with the keys that variables with a prefix have, or else those without.
func openStore(text, keysPrefix string) (Store, error) {
	wrong := func(message string) error { return errs.New(errs.Invalid, "archive", text, message) }
	u, err := url.Parse(text)
	if err != nil {
		return nil, errs.As(errs.Invalid, "archive", "the URL of the archive", "cannot be read", err)
	}
	if u.User != nil {
		return nil, errs.New(errs.Invalid, "archive", "the URL of the archive", "holds a password: give keys by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a file of them")
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") || u.Path == "/" {
			return nil, wrong("must name a folder by its whole path, as file:///var/lib/cetrus-archive")
		}
		return &folder{dir: u.Path}, nil
	case "s3":
		store, err := newS3(u, keysPrefix)
		if err != nil {
			return nil, wrong(err.Error())
		}
		return store, nil
	}
	return nil, wrong("must begin with s3:// or file://")
}

// Within is the part of a store under a prefix.
func Within(store Store, prefix string) Store { return within{store, strings.Trim(prefix, "/") + "/"} }

type within struct {
	Store
	prefix string
}

func (w within) Create(ctx context.Context, name string, content []byte) error {
	return w.Store.Create(ctx, w.prefix+name, content)
}

func (w within) Load(ctx context.Context, name string) ([]byte, error) {
	return w.Store.Load(ctx, w.prefix+name)
}

func (w within) List(ctx context.Context, prefix string) ([]string, error) {
	names, err := w.Store.List(ctx, w.prefix+prefix)
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], w.prefix)
	}
	return names, err
}

func (w within) Folders(ctx context.Context, prefix string) ([]string, error) {
	return w.Store.Folders(ctx, w.prefix+prefix)
}

func (w within) Has(ctx context.Context, name string) (bool, error) {
	return w.Store.Has(ctx, w.prefix+name)
}

func (w within) Where() string { return w.Store.Where() + "/" + strings.TrimSuffix(w.prefix, "/") }
