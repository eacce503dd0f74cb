package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/proxy"
	"github.com/cetrus/cetrus/proto/release"

	"github.com/cetrus/cetrus/manager"
	"github.com/cetrus/cetrus/manager/releases"
)

const environmentPrefix = "CETRUS_MANAGER_"

// settings are what may be configured, by their names in the file.
type settings struct {
	DataDir            string        `koanf:"data_dir"`
	AccountID          string        `koanf:"account_id"`
	AgentsAddress      string        `koanf:"agents_address"`
	AgentsManagers     []string      `koanf:"agents_managers"`
	AgentsSecurity     string        `koanf:"agents_security"`
	TLSCertificate     string        `koanf:"tls_certificate"`
	TLSKey             string        `koanf:"tls_key"`
	TLSClientCA        string        `koanf:"tls_client_ca"`
	StatusAddress      string        `koanf:"status_address"`
	MaxBufferBytes     int64         `koanf:"max_buffer_bytes"`
	KeepForwarded      time.Duration `koanf:"keep_forwarded"`
	KeepForwardedBytes int64         `koanf:"keep_forwarded_bytes"`
	ShowNames          bool          `koanf:"show_names"`
	ReleaseKeys        string        `koanf:"release_keys"`
	PluginKeys         string        `koanf:"plugin_keys"`
	ReleaseWaves       string        `koanf:"release_waves"`
	ReleaseWavePeriod  time.Duration `koanf:"release_wave_period"`
	ReleaseHealthy     int           `koanf:"release_healthy_percent"`
	PlatformURL        string        `koanf:"platform_url"`
	PlatformCAFile     string        `koanf:"platform_ca_file"`
	PlatformCreds      string        `koanf:"platform_credentials"`
	Proxy              string        `koanf:"proxy"`

	// statusNamed: the command line says which Manager is meant, whatever the data folder is.
	statusNamed bool
}

func defineFlags(flags *pflag.FlagSet) {
	flags.String("config", "", "configuration file; default: "+defaultConfigFile()+" if it exists. The environment sets what it may hold too, as "+environmentPrefix+"DATA_DIR")
	flags.String("data-dir", defaultDataDir(), "the Manager's own folder")
	flags.String("account-id", "", "the account's UUID (default what the Manager enrolled for)")
	flags.String("agents-address", manager.DefaultAgentsAddress, "where agents connect")
	flags.StringSlice("agents-managers", nil, "addresses, host:port, of the Managers that this one's agents are to move to, in the order of preference; its own is among them where they are to stay (default what the account's settings say)")
	flags.String("agents-security", "", "how agents are known: enrollment (by certificates that this Manager gives them for a token), files (by tls-certificate and tls-client-ca) or plaintext (not at all; on this machine only) (default enrollment, or files where tls-certificate is given)")
	flags.String("tls-certificate", "", "PEM file of this Manager's certificate; with it agents are spoken to under TLS 1.3 only. Renewed files need no restart")
	flags.String("tls-key", "", "PEM file of its key")
	flags.String("tls-client-ca", "", "PEM file of the authorities of agents' certificates; with it an agent must show one")
	flags.String("status-address", manager.DefaultStatusAddress, "where the status page is; a loopback address. Orders go there instead of to the Manager of data-dir, where it is given to them")
	flags.Int64("max-buffer-bytes", manager.DefaultMaxBufferBytes, "bound of the buffer on disk; at it, agents are asked to wait")
	flags.Duration("keep-forwarded", manager.DefaultKeepForwarded, "how long forwarded data stays in the buffer")
	flags.Int64("keep-forwarded-bytes", 0, "how much forwarded data stays in the buffer; default: half of max_buffer_bytes")
	flags.Bool("show-names", false, "show people's names on the status page, which anybody on this machine can read")
	flags.String("release-keys", "", "JSON file of the Ed25519 public keys whose releases of the agent, and of plug-ins, are offered; empty: none are")
	flags.String("plugin-keys", "", "JSON file of further keys, of those who may sign releases of plug-ins and nothing else")
	flags.String("release-waves", "1,10,50,100", "percent of the agents that are offered a release, one wave after the other")
	flags.Duration("release-wave-period", releases.DefaultPeriod, "how long a wave lasts at least")
	flags.Int("release-healthy-percent", releases.DefaultHealthyPercent, "of the agents that tried a release so many percent must be well, or it is held")
	flags.String("platform-url", "", "the platform, as wss://host/nats (WebSocket on port 443), or its NATS as tls://host:4222; empty: work without")
	flags.String("platform-ca-file", "", "PEM file of the authorities by which the platform is known (default the system's)")
	flags.String("platform-credentials", "", "file with the Manager's NATS credentials")
	flags.String("proxy", "", "http://[user:password@]host:port of a proxy on the way to the platform, or \"none\" (default what HTTPS_PROXY and NO_PROXY say)")
}

// load reads file, environment and flags, and refuses names that it does not know.
func load(flags *pflag.FlagSet) (settings, error) {
	var s settings
	k := koanf.New(".")
	path, _ := flags.GetString("config")
	explicit := path != ""
	if !explicit {
		path = defaultConfigFile()
	}
	if err := k.Load(file.Provider(path), yaml.Parser()); err != nil && (explicit || !errors.Is(err, fs.ErrNotExist)) {
		return s, fmt.Errorf("configuration file %s: %w", path, err)
	}
	for _, key := range k.Keys() {
		if flags.Lookup(strings.ReplaceAll(key, "_", "-")) == nil {
			return s, fmt.Errorf("configuration file %s: there is no setting %q", path, key)
		}
	}
	if err := k.Load(env.Provider(".", env.Opt{Prefix: environmentPrefix, TransformFunc: func(key, value string) (string, any) {
		name := strings.ToLower(strings.TrimPrefix(key, environmentPrefix))
		if name == "agents_managers" {
			// As on the command line.
			return name, strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
		}
		return name, value
	}}), nil); err != nil {
		return s, fmt.Errorf("environment: %w", err)
	}
	if err := k.Load(posflag.ProviderWithFlag(flags, ".", k, func(f *pflag.Flag) (string, any) {
		return strings.ReplaceAll(f.Name, "-", "_"), posflag.FlagVal(flags, f)
	}), nil); err != nil {
		return s, fmt.Errorf("flags: %w", err)
	}
	if err := k.Unmarshal("", &s); err != nil {
		return s, fmt.Errorf("configuration: %w", err)
	}
	s.statusNamed = flags.Changed("status-address")
	return s, nil
}

func (s settings) config() (manager.Config, error) {
	c := manager.Config{
		DataDir: s.DataDir, AgentsAddress: s.AgentsAddress, StatusAddress: s.StatusAddress, AgentsManagers: s.AgentsManagers,
		AgentsSecurity: manager.Security(s.AgentsSecurity),
		TLS:            manager.TLSConfig{Certificate: s.TLSCertificate, Key: s.TLSKey, ClientCA: s.TLSClientCA},
		MaxBufferBytes: s.MaxBufferBytes, KeepForwarded: s.KeepForwarded, KeepForwardedBytes: s.KeepForwardedBytes, ShowNames: s.ShowNames,
	}
	if s.AccountID != "" {
		var err error
		if c.AccountID, err = contract.ParseID(s.AccountID); err != nil {
			return c, fmt.Errorf("account_id: %w", err)
		}
	} else if s.DataDir != "" {
		var err error
		if c.AccountID, _, err = manager.AccountOf(s.DataDir); err != nil {
			return c, err
		}
	}
	if _, err := proxy.Parse(s.Proxy); err != nil {
		return c, fmt.Errorf("proxy: %w", err)
	}
	err := s.checkPlatform()
	if err != nil {
		return c, err
	}
	if c.Releases.Keys, err = readKeys("release_keys", s.ReleaseKeys); err != nil {
		return c, err
	}
	if c.Releases.PluginKeys, err = readKeys("plugin_keys", s.PluginKeys); err != nil {
		return c, err
	}
	if c.Releases.Shares, err = releases.ParseShares(s.ReleaseWaves); err != nil {
		return c, fmt.Errorf("release_waves: %w", err)
	}
	if s.ReleaseWavePeriod <= 0 || s.ReleaseHealthy < 0 || s.ReleaseHealthy > 100 {
		return c, fmt.Errorf("release_wave_period is %v and release_healthy_percent %d: the one is longer than 0, the other from 0 to 100", s.ReleaseWavePeriod, s.ReleaseHealthy)
	}
	c.Releases.Period, c.Releases.HealthyPercent = s.ReleaseWavePeriod, s.ReleaseHealthy
	if err := c.Validate(); err != nil {
		return c, fmt.Errorf("configuration:\n%w", err)
	}
	return c, nil
}

// readKeys reads the file of keys that a setting names; none where it names none.
func readKeys(setting, path string) (release.Keys, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	keys, err := release.ParseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", setting, path, err)
	}
	return keys, nil
}

func defaultDataDir() string {
	if runtime.GOOS == "windows" {
		return filepath.Join(os.Getenv("ProgramData"), "Cetrus", "Manager")
	}
	return "/var/lib/cetrus-manager"
}

func defaultConfigFile() string {
	if runtime.GOOS == "windows" {
		return filepath.Join(os.Getenv("ProgramData"), "Cetrus", "manager.yaml")
	}
	return "/etc/cetrus/manager.yaml"
}
