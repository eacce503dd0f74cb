package images

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
	classifier "github.com/google/licenseclassifier/v2"
	"github.com/google/licenseclassifier/v2/assets"
)

// compile builds the program static and without a path of this machine.
func (c Config) compile(ctx context.Context, image Image, architecture, dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	program := filepath.Join(dir, filepath.Base(image.Program))
	flags := "-s -w -X main.version=" + c.Version
	// timetzdata: there are no files of time zones beside it.
	_, err := c.run(ctx, filepath.Join(c.Root, image.Module), []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + architecture},
		"go", "build", "-trimpath", "-tags", "timetzdata", "-ldflags", flags, "-o", program, "./"+image.Program)
	return program, err
}

// bill writes what the program is made of, by CycloneDX, with the licences that were found.
func (c Config) bill(ctx context.Context, program, to string, found map[string][]string) error {
	text, err := c.run(ctx, filepath.Dir(program), nil, c.BillOfMaterials,
		"bin", "-json", "-std", "-noserial", "-notimestamp", "-version", c.Version, program)
	if err != nil {
		return err
	}
	var bill cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(bytes.NewReader(text), cyclonedx.BOMFileFormatJSON).Decode(&bill); err != nil {
		return err
	}
	for i := range *bill.Components {
		component := &(*bill.Components)[i]
		ids := found[component.Name]
		if sibling, ours := strings.CutPrefix(component.Name, "../"); ours {
			component.Name, component.Version, component.PackageURL, ids = "github.com/cetrus/cetrus/"+sibling, c.Version, "", found["cetrus"]
		}
		var licences cyclonedx.Licenses
		for _, id := range ids {
			licences = append(licences, cyclonedx.LicenseChoice{License: &cyclonedx.License{ID: id}})
		}
		if len(licences) > 0 {
			component.Evidence = &cyclonedx.Evidence{Licenses: &licences}
		}
	}
	var out bytes.Buffer
	if err := cyclonedx.NewBOMEncoder(&out, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(&bill); err != nil {
		return err
	}
	return os.WriteFile(to, out.Bytes(), 0o644)
}

// licenceNames are the files in which makers of a module say what one may do with it.
var licenceNames = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|unlicense)([-_.].*)?$`)

// licences copies what the makers of all modules in a program want to be passed on with it, and tells
// which licences these are, by their SPDX ids, as far as their texts are known.
func (c Config) licences(ctx context.Context, image Image, program, dir string) (map[string][]string, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, err
	}
	root, err := c.run(ctx, c.Root, nil, "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	known, err := assets.DefaultClassifier()
	if err != nil {
		return nil, err
	}
	where, err := c.modules(ctx, image, info.Deps)
	if err != nil {
		return nil, err
	}
	found := make(map[string][]string)
	take := func(name, version, from string) error {
		ids, err := passOn(known, from, filepath.Join(dir, name+"@"+version))
		if err != nil {
			return fmt.Errorf("licences of %s: %w", name, err)
		}
		found[name] = ids
		return nil
	}
	if err := errors.Join(take("cetrus", c.Version, c.Root), take("std", info.GoVersion, strings.TrimSpace(string(root)))); err != nil {
		return nil, err
	}
	for _, module := range info.Deps {
		if module.Replace != nil { // a sibling of ours
			continue
		}
		if err := take(module.Path, module.Version, where[module.Path]); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// passOn copies the licences among the files of a folder, and tells which they are.
func passOn(known *classifier.Classifier, from, to string) ([]string, error) {
	entries, err := os.ReadDir(from)
	if err != nil {
		return nil, err
	}
	var ids []string
	copied := false
	for _, entry := range entries {
		if entry.IsDir() || !licenceNames.MatchString(entry.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(from, entry.Name()))
		if err != nil {
			return nil, err
		}
		for _, match := range known.Match(text).Matches {
			if match.MatchType == "License" && !slices.Contains(ids, match.Name) {
				ids = append(ids, match.Name)
			}
		}
		if err := copyFile(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())); err != nil {
			return nil, err
		}
		copied = true
	}
	if !copied {
		return nil, fmt.Errorf("there are none in %s: find out what its makers want before it is released", from)
	}
	slices.Sort(ids)
	return ids, nil
}

// modules tells in which folder of the module cache each is.
func (c Config) modules(ctx context.Context, image Image, modules []*debug.Module) (map[string]string, error) {
	args := []string{"list", "-m", "-json"}
	for _, module := range modules {
		args = append(args, module.Path)
	}
	out, err := c.run(ctx, filepath.Join(c.Root, image.Module), nil, "go", args...)
	if err != nil {
		return nil, err
	}
	where := make(map[string]string)
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var module struct{ Path, Dir string }
		if err := decoder.Decode(&module); err != nil {
			return nil, err
		}
		where[module.Path] = module.Dir
	}
	return where, nil
}

// run runs a command and gives back what it wrote.
func (c Config) run(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "GOWORK=off"), env...)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), args[0], err, problems.Bytes())
	}
	return out, nil
}
