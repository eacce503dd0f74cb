// Package config reads settings in one way for all targets: defaults, then a
// YAML file, then CETRUS_* variables, then flags; the later wins.
//
// A setting is declared once, as a flag with its default and its help; its key in
// the file is the flag's name, its variable is CETRUS_ and the name in capitals
// with underscores. Every value, wherever from, is parsed by the flag's own type,
// and every error names the setting, where the value came from, and the way out.
package config
