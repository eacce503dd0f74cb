package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"github.com/cetrus/cetrus/services/platform/errs"
)

// EnvPrefix begins the variables that settings are read from.
const EnvPrefix = "CETRUS_"

// FileFlag is the flag, added by [AddFileFlag], that names the file of settings.
const FileFlag = "config"

// AddFileFlag adds the flag that names the file.
func AddFileFlag(fs *pflag.FlagSet) {
	fs.String(FileFlag, "", "YAML file of settings; its keys are the names of the flags")
}

// EnvName is the variable of a setting: "rest-listen" is CETRUS_REST_LISTEN.
func EnvName(setting string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(setting, "-", "_"))
}

// Load gives the flags that were not set on the command line their values from
// the file and the environment; after it the variables that the flags are bound
// to hold the settings. All that is wrong is told at once.
//
// Variables that begin with CETRUS_ and are no setting are left alone: clients
// and agents have theirs.
func Load(fs *pflag.FlagSet) error {
	const op = "config.Load"
	k := koanf.New("\x00") // names hold no delimiter: settings are flat
	origin := map[string]string{}

	var problems []error
	if path := filePath(fs); path != "" {
		fromFile := koanf.New("\x00")
		if err := fromFile.Load(file.Provider(path), yaml.Parser()); err != nil {
			return errs.As(errs.Invalid, op, "file "+path, fileProblem(err), err)
		}
		for _, key := range fromFile.Keys() {
			if f := fs.Lookup(key); f == nil || key == FileFlag {
				problems = append(problems, errs.New(errs.Invalid, op, "setting "+key,
					fmt.Sprintf("in %s is not known%s", path, suggestion(fs, key))))
			}
			origin[key] = path
		}
		if err := k.Merge(fromFile); err != nil {
			return errs.Wrap(op, path, err)
		}
	}
	known := map[string]string{}
	fs.VisitAll(func(f *pflag.Flag) { known[EnvName(f.Name)] = f.Name })
	if err := k.Load(env.Provider("\x00", env.Opt{
		Prefix: EnvPrefix,
		TransformFunc: func(name, value string) (string, any) {
			setting, ok := known[name]
			if !ok || setting == FileFlag {
				return "", nil
			}
			origin[setting] = name
			return setting, value
		},
	}), nil); err != nil {
		return errs.Wrap(op, "environment", err)
	}

	fs.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == FileFlag || !k.Exists(f.Name) {
			return
		}
		if err := set(f, k.Get(f.Name)); err != nil {
			problems = append(problems, errs.As(errs.Invalid, op, "setting "+f.Name,
				fmt.Sprintf("%q, from %s, is no %s (%s); default: %q", fmt.Sprint(k.Get(f.Name)), origin[f.Name], f.Value.Type(), f.Usage, f.DefValue), err))
		}
	})
	return errors.Join(problems...)
}

// set gives a flag a value of the file or the environment. A list may be a list
// or a text with commas.
func set(f *pflag.Flag, value any) error {
	if list, ok := value.([]any); ok {
		slice, ok := f.Value.(pflag.SliceValue)
		if !ok {
			return errors.New("a list where one value is wanted")
		}
		texts := make([]string, len(list))
		for i, v := range list {
			texts[i] = fmt.Sprint(v)
		}
		return slice.Replace(texts)
	}
	if _, ok := value.(map[string]any); ok {
		return errors.New("a mapping where one value is wanted")
	}
	return f.Value.Set(fmt.Sprint(value))
}

func filePath(fs *pflag.FlagSet) string {
	f := fs.Lookup(FileFlag)
	if f == nil {
		return ""
	}
	if f.Changed {
		return f.Value.String()
	}
	return os.Getenv(EnvName(FileFlag))
}

func fileProblem(err error) string {
	if errors.Is(err, os.ErrNotExist) {
		return "does not exist: correct --" + FileFlag + " or " + EnvName(FileFlag)
	}
	return "cannot be read as YAML of the form `name: value`"
}

// suggestion names the setting that was probably meant.
func suggestion(fs *pflag.FlagSet, key string) string {
	best, least := "", 4
	fs.VisitAll(func(f *pflag.Flag) {
		if d := distance(key, f.Name); d < least && f.Name != FileFlag {
			best, least = f.Name, d
		}
	})
	if best == "" {
		return "; --help lists all settings"
	}
	return "; did you mean " + best + "?"
}

// distance is the number of letters to insert, delete or replace.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost++
			}
			before = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// Problem is what is wrong with one setting: for the Validate methods of
// configurations.
func Problem(setting, value, wayOut string) error {
	return errs.New(errs.Invalid, "config.Validate", "setting "+setting, fmt.Sprintf("%q: %s (--%s or %s)", value, wayOut, setting, EnvName(setting)))
}

// OneOf is a Problem where value is not among allowed, else nil.
func OneOf(setting, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return Problem(setting, value, "must be one of "+strings.Join(allowed, ", "))
}
