package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/journal"
	"github.com/cetrus/cetrus/agent/uplink"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"
	"github.com/cetrus/cetrus/proto/proxy"
)

// settings are what can be configured.
type settings struct {
	configFile    string
	dataDir       string
	managers      []string
	tls           uplink.TLSFiles
	token         string
	proxy         string
	controlSocket string
	display       string
	xauthority    string
	journalBytes  int64
	pluginDir     string
	pluginKeys    string
	releaseKeys   string
	releaseTrial  time.Duration
	logLevel      string
	logFormat     string
}

const (
	envPrefix  = "CETRUS_AGENT_"
	configFlag = "config"

	enrollmentToken = "enrollment-token"
)

// flags declares the settings with their defaults.
func (s *settings) flags(f *pflag.FlagSet) {
	f.StringVar(&s.configFile, configFlag, "", "YAML file of settings; its keys are the names of the flags (default "+defaultConfigFile()+", where it exists). The environment sets them too, as "+envName("data-dir"))
	f.StringVar(&s.dataDir, "data-dir", defaultDataDir(), "folder that keeps the journal, the policy and the agent's identity")
	f.StringSliceVar(&s.managers, "manager", []string{"127.0.0.1:10041"}, "address of a Manager, host:port; several in the order of preference")
	f.StringVar(&s.token, enrollmentToken, "", "token by which the agent gets its certificate from the Manager, which made it; it is not needed any more after that. Better lay it ready by `cetrus-agent enroll`, since others may read command lines and settings")
	f.StringVar(&s.tls.CA, "manager-ca", "", "PEM file of the authorities whose certificates of Managers are trusted; with it the agent speaks TLS 1.3 only (default plain)")
	f.StringVar(&s.tls.Certificate, "client-certificate", "", "PEM file of the certificate that the agent shows to a Manager (default none)")
	f.StringVar(&s.tls.Key, "client-key", "", "PEM file of that certificate's key")
	f.StringVar(&s.proxy, "proxy", "", "http://[user:password@]host:port of a proxy on the way to Managers, or \"none\" (default what HTTPS_PROXY and NO_PROXY say)")
	f.StringVar(&s.controlSocket, "control-socket", "", "where status, pause and resume reach the agent; \"none\": nowhere (default control.sock in the data folder; of a machine's service on Linux /run/cetrus-agent/control.sock)")
	f.StringVar(&s.display, "display", "", "X display to watch, such as :0 (default: as root on Linux, all sessions of the machine; else $DISPLAY)")
	f.StringVar(&s.xauthority, "xauthority", "", "file with the display's cookie (default $XAUTHORITY, then ~/.Xauthority)")
	f.Int64Var(&s.journalBytes, "journal-bytes", 0, "most bytes that the journal may take on disk; 0: enough for six weeks")
	f.StringVar(&s.pluginDir, "plugin-dir", "", "folder of plug-ins with their signed list (default none)")
	f.StringVar(&s.pluginKeys, "plugin-keys", "", "JSON file of the Ed25519 public keys whose plug-ins are trusted, by their ids: lists in the folder, and releases from the Manager")
	f.StringVar(&s.releaseKeys, "release-keys", "", "JSON file of the Ed25519 public keys whose releases of the agent are taken, by their ids (default none are)")
	f.DurationVar(&s.releaseTrial, "release-trial", 2*time.Minute, "how long a new release may take to show that it is well, before the one before comes back")
	f.StringVar(&s.logLevel, "log-level", "info", "least level that is logged: debug, info, warn or error")
	f.StringVar(&s.logFormat, "log-format", "text", "form of the log: text or json")
}

// load fills in what the command line has not set, and checks everything; all
// that is wrong is told at once.
func (s *settings) load(f *pflag.FlagSet) error {
	k := koanf.New("\x00") // settings are flat, and no name holds this
	origin := make(map[string]string)
	var problems []error

	file, wanted := s.configFile, true
	if !f.Changed(configFlag) {
		if file = os.Getenv(envName(configFlag)); file == "" {
			file, wanted = defaultConfigFile(), false
		}
	}
	text, err := os.ReadFile(file) //nolint:gosec // The file that whoever starts the agent names.
	switch {
	case err == nil:
		s.configFile = file
		values, err := yaml.Parser().Unmarshal(text)
		if err != nil {
			return fmt.Errorf("%s cannot be read as YAML of the form \"name: value\": %w", file, err)
		}
		for key := range values {
			if known := f.Lookup(key); known == nil || key == configFlag {
				problems = append(problems, fmt.Errorf("%s: there is no setting %q; `cetrus-agent run --help` lists them", file, key))
			}
			origin[key] = file
		}
		if err := k.Load(parsed(values), nil); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	case wanted || !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the file of settings: %w", err)
	}

	known := make(map[string]string)
	f.VisitAll(func(flag *pflag.Flag) { known[envName(flag.Name)] = flag.Name })
	if err := k.Load(env.Provider("\x00", env.Opt{
		Prefix: envPrefix,
		TransformFunc: func(name, value string) (string, any) {
			setting, ok := known[name]
			if !ok {
				problems = append(problems, fmt.Errorf("%s in the environment is no setting; `cetrus-agent run --help` lists them", name))
				return "", nil
			}
			if setting == configFlag {
				return "", nil
			}
			origin[setting] = name
			return setting, value
		},
	}), nil); err != nil {
		return fmt.Errorf("the environment: %w", err)
	}

	f.VisitAll(func(flag *pflag.Flag) {
		if flag.Changed || flag.Name == configFlag || !k.Exists(flag.Name) {
			return
		}
		if err := give(flag, k.Get(flag.Name)); err != nil {
			problems = append(problems, fmt.Errorf("%s from %s: %w", flag.Name, origin[flag.Name], err))
		}
	})
	return errors.Join(append(problems, s.check()...)...)
}

// checkToken tells whether the token can be used.
func (s *settings) checkToken() error {
	if s.token == "" {
		return nil
	}
	if _, err := enrollment.ParseToken(s.token); err != nil {
		return fmt.Errorf("enrollment-token: %w", err)
	}
	return nil
}

// check tells what cannot work.
func (s *settings) check() (problems []error) {
	if s.dataDir == "" {
		problems = append(problems, errors.New("data-dir is empty; give a folder that this user may write"))
	}
	if len(s.managers) == 0 {
		problems = append(problems, errors.New("manager is empty; give at least one address as host:port"))
	}
	for _, m := range s.managers {
		if err := contract.CheckAddress(m); err != nil {
			problems = append(problems, fmt.Errorf("manager: %w", err))
		}
	}
	if err := s.tls.Check(); err != nil {
		problems = append(problems, fmt.Errorf("manager-ca, client-certificate and client-key: %w", err))
	}
	if s.token != "" && s.tls.CA != "" {
		problems = append(problems, errors.New("enrollment-token and manager-ca are both set; give the token where the Manager's agents enrol, and the CA where certificates come from elsewhere"))
	}
	if _, err := proxy.Parse(s.proxy); err != nil {
		problems = append(problems, fmt.Errorf("proxy: %w", err))
	}
	if s.journalBytes != 0 && s.journalBytes < journal.LeastMaxBytes {
		problems = append(problems, fmt.Errorf("journal-bytes is %d; it is 0 or at least %d", s.journalBytes, journal.LeastMaxBytes))
	}
	if s.releaseKeys != "" && !takesReleases {
		problems = append(problems, errors.New("release-keys is set, and the agent takes releases of itself on Linux and Windows only; leave it out here"))
	}
	if s.releaseTrial < agent.DefaultWellFor+agent.DefaultOfflineAfter {
		problems = append(problems, fmt.Errorf("release-trial is %v; it is at least %v", s.releaseTrial, agent.DefaultWellFor+agent.DefaultOfflineAfter))
	}
	if _, err := s.level(); err != nil {
		problems = append(problems, err)
	}
	if !slices.Contains([]string{"text", "json"}, s.logFormat) {
		problems = append(problems, fmt.Errorf("log-format is %q; it is text or json", s.logFormat))
	}
	return problems
}

func (s *settings) level() (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.logLevel)); err != nil {
		return level, fmt.Errorf("log-level is %q; it is debug, info, warn or error", s.logLevel)
	}
	return level, nil
}

// parsed is a koanf provider of values that are there already.
type parsed map[string]any

func (p parsed) Read() (map[string]any, error) { return p, nil }

func (p parsed) ReadBytes() ([]byte, error) { return nil, errors.New("there are no bytes") }

// give sets a flag to a value of the file or the environment; a list may be
// written as a list or with commas.
func give(flag *pflag.Flag, value any) error {
	list, ok := value.([]any)
	if !ok {
		return flag.Value.Set(fmt.Sprint(value))
	}
	slice, ok := flag.Value.(pflag.SliceValue)
	if !ok {
		return errors.New("one value is wanted, not a list")
	}
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = fmt.Sprint(v)
	}
	return slice.Replace(texts)
}

func envName(setting string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(setting, "-", "_"))
}
