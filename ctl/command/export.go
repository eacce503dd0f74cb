package command

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/ctl/manifest"
	"github.com/cetrus/cetrus/ctl/table"
)

// kindWords are the kinds as arguments.
var kindWords = []struct{ word, kind string }{
	{"settings", manifest.Settings},
	{"sign-in-policy", manifest.SignInPolicy},
	{"applications", manifest.Application},
	{"expense-to-project", manifest.ExpenseToProject},
	{"groups", manifest.Group},
}

func (s *session) exportCommand() *cobra.Command {
	var into string
	var words []string
	for _, k := range kindWords {
		words = append(words, k.word)
	}
	c := &cobra.Command{
		Use: "export [KIND ...]", Short: "Write applications, groups and settings as files for apply",
		Long:      "Writes what the platform has of these kinds, or of all, as files that apply reads:\n" + strings.Join(words, ", ") + ".",
		Example:   "  cetrusctl export --into settings/\n  cetrusctl export applications groups > acme.yaml",
		ValidArgs: words,
		Args: func(_ *cobra.Command, args []string) error {
			for _, arg := range args {
				if !slices.Contains(words, arg) {
					return fmt.Errorf("%q is none of %s", arg, strings.Join(words, ", "))
				}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			var kinds []string
			for _, k := range kindWords {
				if len(args) == 0 || slices.Contains(args, k.word) {
					kinds = append(kinds, k.kind)
				}
			}
			live, err := s.live(c.Context(), kinds)
			if err != nil {
				return err
			}
			if into != "" {
				if err := os.MkdirAll(into, 0o755); err != nil {
					return err
				}
			}
			first := true
			for _, k := range kindWords {
				if !slices.Contains(kinds, k.kind) {
					continue
				}
				var text bytes.Buffer
				for i, d := range live.Documents(k.kind) {
					encoded, err := manifest.Encode(d)
					if err != nil {
						return err
					}
					if i > 0 || into == "" && !first {
						text.WriteString("---\n")
					}
					text.Write(encoded)
					first = false
				}
				switch {
				case into == "":
					if _, err := s.Out.Write(text.Bytes()); err != nil {
						return err
					}
				case text.Len() > 0:
					path := filepath.Join(into, k.word+".yaml")
					if err := whole(path, text.Bytes()); err != nil {
						return err
					}
					fmt.Fprintln(s.Err, table.Clean(path))
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&into, "into", "", "folder to write into, a file a kind; otherwise the standard output")
	must(c.MarkFlagDirname("into"))
	return c
}

// whole writes a file that is there whole or as it was.
func whole(path string, text []byte) error {
	file, err := newWhole(path)
	if err != nil {
		return err
	}
	if _, err := file.Write(text); err != nil {
		file.abandon()
		return err
	}
	return file.keep()
}

// wholeFile takes the place of a file once it is complete.
type wholeFile struct {
	*os.File
	path string
}

// newWhole begins a file beside the one that it will replace.
func newWhole(path string) (*wholeFile, error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return nil, err
	}
	return &wholeFile{file, path}, nil
}

// keep puts the file where it belongs, with the rights that a new file has.
func (f *wholeFile) keep() error {
	err := f.Sync()
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		mode := os.FileMode(0o600) // names of people may stand in it
		if info, there := os.Stat(f.path); there == nil {
			mode = info.Mode().Perm()
		}
		if err = os.Chmod(f.Name(), mode); err == nil {
			err = os.Rename(f.Name(), f.path)
		}
	}
	if err != nil {
		_ = os.Remove(f.Name()) // what went wrong is told
	}
	return err
}

// abandon leaves what was there.
func (f *wholeFile) abandon() {
	_ = f.Close()
	_ = os.Remove(f.Name())
}
