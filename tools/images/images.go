package images

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// User is who programs run as in the images: nobody that a machine knows.
const User = 65532

// Image is one of those that are released.
type Image struct {
	// Name is the image's, and its file's.
	Name string
	// Module and Program are the folders that the program is built from; its file is named as
	// Program's last part.
	Module, Program string
	// Description is for those who look at the image.
	Description string
	// DataDir is where the program keeps what it keeps, and is told so.
	DataDir, DataDirVariable string
}

// Released are all of them.
func Released() []Image {
	return []Image{
		{
			Name: "cetrus", Module: "services", Program: "cmd/cetrus", Description: "Cetrus: the platform, one program for all of its services",
			DataDir: "/var/lib/cetrus", DataDirVariable: "CETRUS_DATA_DIR",
		},
		{
			Name: "cetrus-manager", Module: "manager", Program: "cmd/cetrus-manager", Description: "Cetrus: the Manager of a site",
			DataDir: "/var/lib/cetrus-manager", DataDirVariable: "CETRUS_MANAGER_DATA_DIR",
		},
	}
}

// Architectures are the processors that images are released for.
func Architectures() []string { return []string{"amd64", "arm64"} }

// Config says from what images are made, and where they go.
type Config struct {
	// Root is the checkout; Out the folder that takes NAME.tar and NAME.ARCHITECTURE.cdx.json.
	Root, Out string
	// Version and Revision name what it is built from; Created is the time of all that is in it.
	Version, Revision string
	Created           time.Time
	// Architectures are those wanted.
	Architectures []string
	// BillOfMaterials is the program cyclonedx-gomod.
	BillOfMaterials string
	// Progress takes words for people.
	Progress io.Writer
}

// Built is an image that was made.
type Built struct {
	// File is its tar, Digest that of its index, which names the image for every processor; Name is
	// what it is called where its file is loaded, with its tag.
	File, Digest, Name string
}

// Build makes one image. What was there by its name is replaced once the new one is whole.
func Build(ctx context.Context, c Config, image Image) (Built, error) {
	fail := func(err error) (Built, error) { return Built{}, fmt.Errorf("image %s: %w", image.Name, err) }
	work, err := os.MkdirTemp("", "cetrus-image-")
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.RemoveAll(work) }()

	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, architecture := range c.Architectures {
		_, _ = fmt.Fprintf(c.Progress, "==> %s for %s\n", image.Name, architecture)
		dir := filepath.Join(work, architecture)
		made, err := c.platformImage(ctx, image, architecture, dir)
		if err != nil {
			return fail(fmt.Errorf("%s: %w", architecture, err))
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: made, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}},
		})
	}
	digest, err := index.Digest()
	if err != nil {
		return fail(err)
	}
	tree := filepath.Join(work, "layout")
	at, err := layout.Write(tree, empty.Index)
	if err != nil {
		return fail(err)
	}
	name := "localhost/" + image.Name + ":" + tagOf(c.Version)
	if err := at.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          name,
		"org.opencontainers.image.ref.name": tagOf(c.Version),
	})); err != nil {
		return fail(err)
	}
	file := filepath.Join(c.Out, image.Name+".tar")
	if err := c.archive(tree, file); err != nil {
		return fail(err)
	}
	return Built{File: file, Digest: digest.String(), Name: name}, nil
}

// platformImage is the image for one processor, put together in dir.
func (c Config) platformImage(ctx context.Context, image Image, architecture, dir string) (v1.Image, error) {
	program, err := c.compile(ctx, image, architecture, filepath.Join(dir, "program"))
	if err != nil {
		return nil, err
	}
	documents := filepath.Join(dir, "documents")
	found, err := c.licences(ctx, image, program, filepath.Join(documents, "licences"))
	if err != nil {
		return nil, err
	}
	bill := filepath.Join(documents, "bom.cdx.json")
	if err := c.bill(ctx, program, bill, found); err != nil {
		return nil, err
	}
	if err := copyFile(bill, filepath.Join(c.Out, image.Name+"."+architecture+".cdx.json")); err != nil {
		return nil, err
	}

	name := filepath.Base(image.Program)
	base, err := c.layer(filepath.Join(dir, "base.tar"), func(t *tree) {
		t.folder("tmp", 0o1777, 0)
		t.folder("etc", 0o755, 0)
		t.text("etc/passwd", fmt.Sprintf("cetrus:x:%d:%d:Cetrus:%s:/sbin/nologin\n", User, User, image.DataDir))
		t.text("etc/group", fmt.Sprintf("cetrus:x:%d:\n", User))
		t.folder("var", 0o755, 0)
		t.folder("var/lib", 0o755, 0)
		t.folder(image.DataDir[1:], 0o700, User)
		t.folder("usr", 0o755, 0)
		t.folder("usr/share", 0o755, 0)
		t.folder("usr/share/doc", 0o755, 0)
		t.all("usr/share/doc/"+name, documents)
	})
	if err != nil {
		return nil, err
	}
	top, err := c.layer(filepath.Join(dir, "program.tar"), func(t *tree) { t.file(name, program, 0o755) })
	if err != nil {
		return nil, err
	}
	created := v1.Time{Time: c.Created}
	made, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON),
		mutate.Addendum{Layer: base, History: v1.History{Created: created, CreatedBy: "licences, bill of materials, folders"}},
		mutate.Addendum{Layer: top, History: v1.History{Created: created, CreatedBy: "go build ./" + image.Program}},
	)
	if err != nil {
		return nil, err
	}
	file, err := made.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", architecture, created
	file.Config = v1.Config{
		User: fmt.Sprintf("%d:%d", User, User), WorkingDir: image.DataDir, Entrypoint: []string{"/" + name},
		Env: []string{image.DataDirVariable + "=" + image.DataDir},
		Labels: map[string]string{
			"org.opencontainers.image.title":       image.Name,
			"org.opencontainers.image.description": image.Description,
			"org.opencontainers.image.version":     c.Version,
			"org.opencontainers.image.revision":    c.Revision,
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.vendor":      "Cetrus",
		},
	}
	return mutate.ConfigFile(made, file)
}

// layer writes a tar of what fill puts into it, and makes it a layer.
func (c Config) layer(path string, fill func(*tree)) (v1.Layer, error) {
	if err := c.write(path, fill); err != nil {
		return nil, err
	}
	return tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
}

// archive packs a folder into one file.
func (c Config) archive(folder, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := c.write(path+".new", func(t *tree) { t.all("", folder) }); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (c Config) write(path string, fill func(*tree)) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	t := &tree{to: tar.NewWriter(out), at: c.Created}
	fill(t)
	t.keep(t.to.Close())
	t.keep(out.Close())
	return t.err
}

// tree is a tar that comes out the same each time: nobody's names, one time, an order of its own.
// The first error is kept.
type tree struct {
	to  *tar.Writer
	at  time.Time
	err error
}

func (t *tree) keep(err error) {
	if t.err == nil {
		t.err = err
	}
}

func (t *tree) head(h tar.Header) {
	h.ModTime, h.Format = t.at, tar.FormatPAX
	if t.err == nil {
		t.err = t.to.WriteHeader(&h)
	}
}

func (t *tree) folder(name string, mode int64, owner int) {
	t.head(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: owner, Gid: owner})
}

func (t *tree) text(name, content string) {
	t.head(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))})
	if t.err == nil {
		_, t.err = io.WriteString(t.to, content)
	}
}

func (t *tree) file(name, path string, mode int64) {
	if t.err != nil {
		return
	}
	t.keep(func() error {
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		info, err := in.Stat()
		if err != nil {
			return err
		}
		t.head(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: info.Size()})
		if t.err == nil {
			_, err = io.Copy(t.to, in)
		}
		return err
	}())
}

// all puts a folder and what is in it there, in the order of names.
func (t *tree) all(name, folder string) {
	t.keep(filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inner, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		to := filepath.ToSlash(filepath.Join(name, inner))
		switch {
		case to == ".":
		case entry.IsDir():
			t.folder(to, 0o755, 0)
		default:
			t.file(to, path, 0o644)
		}
		return t.err
	}))
}

// tagOf is a version as an image's tag may hold it.
func tagOf(version string) string {
	tag := []byte(version)
	for i, b := range tag {
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '.', b == '_', b == '-':
		default:
			tag[i] = '-'
		}
	}
	return string(tag)
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}
