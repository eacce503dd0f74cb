package parts

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Names of the images.
const (
	Guest    = "localhost/cluster-guest:1"
	CoreDNS  = "localhost/cluster-coredns:1"
	Front    = "localhost/cluster-front:1"
	Postgres = "localhost/cluster-postgres:1"
	S3       = "localhost/cluster-s3:1"
)

//go:embed postgres.sh
var postgresEntry []byte

// image is one of them.
type image struct {
	name string
	// program is one of bin/, and with the libraries that it is linked with all that is in the image but
	// for what fill adds.
	program string
	fill    func(context.Context, *tree) error
	config  v1.Config
}

func images() []image {
	nobody := func(program string) v1.Config {
		return v1.Config{User: "65532:65532", Entrypoint: []string{"/" + program}}
	}
	return []image{
		{name: Guest, program: "cluster-guest", config: nobody("cluster-guest")},
		{name: CoreDNS, program: "coredns", config: nobody("coredns")},
		{name: Front, program: "cluster-front", config: nobody("cluster-front")},
		{name: S3, program: "versitygw", config: nobody("versitygw")},
		{name: Postgres, fill: postgres, config: v1.Config{
			User: "999:999", Entrypoint: []string{"/bin/sh", "/entrypoint.sh"}, Cmd: []string{"postgres"},
			Env:        []string{"PATH=/usr/lib/postgresql/bin:/usr/bin:/bin", "LANG=C.UTF-8", "PGDATA=/var/lib/postgresql/data"},
			StopSignal: "SIGINT", // by SIGTERM it would wait until all have gone by themselves
		}},
	}
}

// Build makes the images named, in the folder out, from the programs in bin, and tells where their
// archives are.
func Build(ctx context.Context, bin, out string, names ...string) ([]string, error) {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	var files []string
	for _, wanted := range names {
		all := images()
		i := slices.IndexFunc(all, func(i image) bool { return i.name == wanted })
		if i < 0 {
			return nil, fmt.Errorf("there is no image %q for test clusters", wanted)
		}
		file, err := all[i].build(ctx, bin, out)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", wanted, err)
		}
		files = append(files, file)
	}
	return files, nil
}

func (i image) build(ctx context.Context, bin, out string) (string, error) {
	var content bytes.Buffer
	t := &tree{to: tar.NewWriter(&content), done: map[string]bool{}}
	t.folder("tmp", 0o1777, 0)
	t.text("etc/passwd", "nobody:x:65532:65532::/tmp:/sbin/nologin\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n", 0o644)
	t.text("etc/group", "nobody:x:65532:\npostgres:x:999:\n", 0o644)
	if i.program != "" {
		program := filepath.Join(bin, i.program)
		t.file(i.program, program)
		libraries, err := needed(ctx, []string{program})
		if err != nil {
			return "", err
		}
		for _, library := range libraries {
			t.file(library[1:], library)
		}
	}
	if i.fill != nil {
		if err := i.fill(ctx, t); err != nil {
			return "", err
		}
	}
	if err := errors.Join(t.err, t.to.Close()); err != nil {
		return "", err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil },
		tarball.WithCompression(compression.None))
	if err != nil {
		return "", err
	}
	made, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return "", err
	}
	bare, err := made.ConfigFile()
	if err != nil {
		return "", err
	}
	made, err = mutate.ConfigFile(made, &v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH, Config: i.config,
		RootFS: bare.RootFS,
	})
	if err != nil {
		return "", err
	}
	tag, err := name.NewTag(i.name)
	if err != nil {
		return "", err
	}
	file := filepath.Join(out, strings.NewReplacer("/", "-", ":", "-").Replace(i.name)+".tar")
	if err := tarball.WriteToFile(file+".new", tag, made); err != nil {
		return "", err
	}
	return file, os.Rename(file+".new", file)
}

// postgres puts the server that is installed on this machine, and the shell that it wants, into an image that
// is used as the official one: POSTGRES_USER, POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, POSTGRES_DB,
// POSTGRES_INITDB_ARGS, PGDATA.
func postgres(ctx context.Context, t *tree) error {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return errors.New("PostgreSQL is not installed: tools/bootstrap.sh cluster does it")
	}
	server := filepath.Dir(filepath.Dir(found[len(found)-1]))
	version := filepath.Base(server)
	programs := []string{"/bin/dash", "/bin/cat", "/bin/chmod", "/bin/sleep", "/bin/ls", "/bin/rm", "/usr/bin/id"}
	for _, folder := range []string{"bin", "lib"} {
		err := filepath.WalkDir(filepath.Join(server, folder), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() && (folder == "bin" || filepath.Ext(path) == ".so") && !strings.Contains(path, "llvm") {
				programs = append(programs, path)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, program := range programs {
		t.file(program[1:], program)
	}
	libraries, err := needed(ctx, programs)
	if err != nil {
		return err
	}
	for _, library := range libraries {
		t.file(library[1:], library)
	}
	for _, folder := range []string{filepath.Join("/usr/share/postgresql", version), "/usr/share/zoneinfo", "/usr/lib/locale/C.utf8"} {
		t.all(folder)
	}
	t.link("bin/sh", "dash")
	t.link("usr/lib/postgresql/bin", version+"/bin")
	t.folder("var/run/postgresql", 0o1777, 999)
	t.folder("var/lib/postgresql/data", 0o1777, 999)
	t.text("entrypoint.sh", string(postgresEntry), 0o755)
	return t.err
}

// needed are the shared libraries that programs are linked with: none with those that are static.
func needed(ctx context.Context, programs []string) ([]string, error) {
	// It fails where one of them is static, and says of the others what is asked all the same.
	out, err := exec.CommandContext(ctx, "ldd", programs...).CombinedOutput()
	if _, refused := errors.AsType[*exec.ExitError](err); err != nil && !refused {
		return nil, fmt.Errorf("ldd: %w", err)
	}
	var libraries []string
	for line := range strings.Lines(string(out)) {
		for field := range strings.FieldsSeq(line) {
			if strings.HasPrefix(field, "/") && !strings.HasSuffix(field, ":") {
				libraries = append(libraries, field)
			}
		}
	}
	slices.Sort(libraries)
	return slices.Compact(libraries), nil
}

// tree is a tar. The first error is kept.
type tree struct {
	to   *tar.Writer
	done map[string]bool
	err  error
}

func (t *tree) head(h tar.Header) bool {
	if t.err != nil || t.done[h.Name] {
		return false
	}
	t.done[h.Name] = true
	h.Format = tar.FormatPAX
	t.err = t.to.WriteHeader(&h)
	return t.err == nil
}

func (t *tree) folder(name string, mode int64, owner int) {
	t.head(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: owner, Gid: owner})
}

func (t *tree) link(name, target string) {
	t.head(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
}

func (t *tree) text(name, content string, mode int64) {
	if t.head(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}) {
		_, t.err = io.WriteString(t.to, content)
	}
}

// file puts what is at path, or what a link there leads to.
func (t *tree) file(name, path string) {
	if t.err != nil {
		return
	}
	in, err := os.Open(path)
	if err != nil {
		t.err = err
		return
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		t.err = err
		return
	}
	if t.head(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(info.Mode().Perm()), Size: info.Size()}) {
		_, t.err = io.Copy(t.to, in)
	}
}

// all puts a folder where it is.
func (t *tree) all(folder string) {
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			t.file(path[1:], path)
		}
		return t.err
	})
	if t.err == nil {
		t.err = err
	}
}
