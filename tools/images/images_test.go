package images

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// TestTheManagersImage makes it twice, and looks at what somebody who gets it has.
func TestTheManagersImage(t *testing.T) {
	bill, err := filepath.Abs("../../bin/cyclonedx-gomod")
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	image := Released()[1]
	build := func() (Config, Built) {
		c := Config{
			Root: root, Out: t.TempDir(), Version: "1.2.3+test", Revision: "0123456789", Created: time.Unix(1_800_000_000, 0).UTC(),
			Architectures: []string{runtime.GOARCH}, BillOfMaterials: bill, Progress: io.Discard,
		}
		built, err := Build(t.Context(), c, image)
		if err != nil {
			t.Fatal(err)
		}
		return c, built
	}
	c, first := build()
	_, second := build()
	if first.Digest != second.Digest || !bytes.Equal(read(t, first.File), read(t, second.File)) {
		t.Errorf("the same sources made %s and then %s", first.Digest, second.Digest)
	}

	made := unpacked(t, first)
	file, err := made.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := file.Config.User; got != "65532:65532" {
		t.Errorf("the program runs as %q", got)
	}
	if got := file.Config.Labels["org.opencontainers.image.version"]; got != c.Version {
		t.Errorf("the image calls itself version %q", got)
	}
	tree := filesystem(t, made)
	program := filepath.Join(tree, "cetrus-manager")
	executable, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = executable.Close() }()
	for _, part := range executable.Progs {
		if part.Type == elf.PT_INTERP {
			t.Error("the program needs a loader, which is not in the image")
		}
	}
	if bytes.Contains(read(t, program), []byte(root)) {
		t.Errorf("the program tells that it was built in %s", root)
	}
	materials(t, tree, filepath.Join(c.Out, "cetrus-manager."+runtime.GOARCH+".cdx.json"))

	if os.Geteuid() != 0 {
		t.Log("NOT RUN WITHIN THE IMAGE: only root may")
		return
	}
	cmd := exec.CommandContext(t.Context(), "/cetrus-manager", "--version")
	cmd.Dir, cmd.Env = "/", file.Config.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: tree, Credential: &syscall.Credential{Uid: User, Gid: User}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), c.Version) {
		t.Errorf("the program within the image: %v: %s", err, out)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// unpacked is the one image in a tar, of which all that it says of itself holds.
func unpacked(t *testing.T, built Built) v1.Image {
	t.Helper()
	dir := t.TempDir()
	untar(t, bytes.NewReader(read(t, built.File)), dir)
	outer, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	list, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if got := list.Manifests[0].Digest.String(); got != built.Digest {
		t.Errorf("the tar holds %s, and %s was told", got, built.Digest)
	}
	inner, err := outer.ImageIndex(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(inner); err != nil {
		t.Error(err)
	}
	if list, err = inner.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	made, err := inner.Image(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// filesystem is what a container of the image sees.
func filesystem(t *testing.T, made v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	for at := dir; at != os.TempDir(); at = filepath.Dir(at) { // another user must come in
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	layers, err := made.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		untar(t, content, dir)
		if err := content.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func untar(t *testing.T, from io.Reader, dir string) {
	t.Helper()
	in := tar.NewReader(from)
	for {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, head.Name)
		if head.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			content, readErr := io.ReadAll(in)
			if err = readErr; err == nil {
				err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, head.FileInfo().Mode().Perm()))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// materials compares the bill of materials beside the image with what lies in it: of each
// component it names a licence, and the text of that is there.
func materials(t *testing.T, tree, beside string) {
	t.Helper()
	documents := filepath.Join(tree, "usr", "share", "doc", "cetrus-manager")
	text := read(t, beside)
	if !bytes.Equal(text, read(t, filepath.Join(documents, "bom.cdx.json"))) {
		t.Error("the bill of materials beside the image is not the one in it")
	}
	var bill cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(bytes.NewReader(text), cyclonedx.BOMFileFormatJSON).Decode(&bill); err != nil {
		t.Fatal(err)
	}
	if len(*bill.Components) < 20 {
		t.Errorf("the bill of materials names only %d components", len(*bill.Components))
	}
	for _, component := range *bill.Components {
		if component.Evidence == nil || component.Evidence.Licenses == nil {
			t.Errorf("the bill of materials names no licence of %s", component.Name)
		}
		name := component.Name + "@" + component.Version
		switch {
		case strings.HasPrefix(component.Name, "github.com/cetrus/cetrus/"):
			name = "cetrus@" + component.Version
		case component.Name == "std":
			name = "std@" + runtime.Version()
		}
		if texts, err := os.ReadDir(filepath.Join(documents, "licences", name)); err != nil || len(texts) == 0 {
			t.Errorf("the licence of %s is not in the image: %v", component.Name, err)
		}
	}
}
