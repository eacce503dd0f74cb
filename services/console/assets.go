package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed assets
var assetFiles embed.FS

const assetsPath = "/assets/"

// asset is a file that browsers keep for good: its address changes with its content.
type asset struct {
	contentType   string
	plain, zipped []byte
}

// assets are all of them, by what follows assetsPath.
type assets struct {
	files     map[string]asset
	addresses map[string]string
}

func loadAssets() (*assets, error) {
	a := &assets{files: map[string]asset{}, addresses: map[string]string{}}
	err := fs.WalkDir(assetFiles, "assets", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := assetFiles.ReadFile(name)
		if err != nil {
			return err
		}
		var zipped bytes.Buffer
		z, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := z.Write(content); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		short := strings.TrimPrefix(name, "assets/")
		address := hex.EncodeToString(sum[:6]) + "/" + path.Base(name)
		a.files[address] = asset{contentType: mime.TypeByExtension(path.Ext(name)), plain: content, zipped: zipped.Bytes()}
		a.addresses[short] = assetsPath + address
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the files of the console: %w", err)
	}
	return a, nil
}

// address is where a file of the folder assets is found; a template that names one that is not
// there fails when it is made into a page.
func (a *assets) address(name string) (string, error) {
	if address, ok := a.addresses[name]; ok {
		return address, nil
	}
	return "", fmt.Errorf("there is no asset %q", name)
}

func (a *assets) serve(w http.ResponseWriter, r *http.Request) {
	file, ok := a.files[strings.TrimPrefix(r.URL.Path, assetsPath)]
	if !ok {
		http.NotFound(w, r)
		return
	}
	content := file.plain
	h := w.Header()
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		content = file.zipped
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Vary", "Accept-Encoding")
	h.Set("Content-Type", file.contentType)
	h.Set("Content-Length", strconv.Itoa(len(content)))
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(content) // the browser is gone where this fails
}
