package main

import (
	"cmp"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/cetrus/cetrus/manager"
	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

// settings are those of all targets; each uses what concerns it.
type settings struct {
	dataDir        string
	instance       string
	credentialsDir string
	tlsDir         string
	restTLSDir     string
	healthListen   string
	migrate        bool

	restListen   string
	grpcListen   string
	natsListen   string
	postgresPort int

	manager             bool
	managerAgentsListen string
	managerSecurity     string
	managerStatusListen string

	nats            natsSettings
	natsURL         string
	postgresURL     string
	postgresWithin  time.Duration // of orders; databaseWithin where 0
	meteringAddress string
	identityAddress string

	ssoPrivateAddresses bool

	signInKeyFile  string
	allowShortGaps bool

	nameKey nameKeySettings
	archive archiveSettings
	mail    mailSettings

	trustedProxies []string

	stopWithin time.Duration

	logLevel  string
	logFormat string
}

func (s *settings) flags(fs *pflag.FlagSet) {
	config.AddFileFlag(fs)
	fs.StringVar(&s.dataDir, "data-dir", defaultDataDir(), "directory of everything that is kept")
	fs.StringVar(&s.instance, "instance", "", "name of this process among those of one target that run at once: what it keeps is held by it; default: the host's name")
	fs.StringVar(&s.credentialsDir, "credentials-dir", "", "directory of the secrets that this part is given (account.json, sign-in-key, name-key, nats-password, admin-password); nothing is made there; default: the data directory, where they are made")
	fs.StringVar(&s.tlsDir, "tls-dir", "", "directory of tls.crt, tls.key and ca.crt, by which parts of the platform on different machines know one another; without it nothing is encrypted")
	fs.StringVar(&s.restTLSDir, "rest-tls-dir", "", "directory of tls.crt and tls.key for REST, where people come; default: tls-dir")
	fs.StringVar(&s.healthListen, "health-listen", "", "address for /healthz and /readyz in plain HTTP, for whoever runs the process; empty: none")
	fs.BoolVar(&s.migrate, "migrate", true, "bring tables up to date at start; false: wait until cetrus migrate has")
	fs.StringVar(&s.restListen, "rest-listen", "127.0.0.1:8080", "address for REST; port 0 takes a free one")
	fs.StringVar(&s.grpcListen, "grpc-listen", "127.0.0.1:8081", "address for gRPC; port 0 takes a free one")
	fs.StringVar(&s.natsListen, "nats-listen", "127.0.0.1:4222", "address of the embedded NATS server, for Managers; port 0 takes a free one")
	s.nats.flags(fs)
	fs.IntVar(&s.postgresPort, "postgres-port", 0, "port of the private PostgreSQL server on 127.0.0.1; 0 takes a free one")
	fs.BoolVar(&s.manager, "manager", true, "run a Manager in this process (all)")
	fs.StringVar(&s.managerSecurity, "manager-agents-security", string(manager.ByEnrollment), "how agents of that Manager are known: enrollment, or plaintext for tests on this machine")
	fs.StringVar(&s.managerAgentsListen, "manager-agents-listen", "127.0.0.1:10041", "address where agents reach that Manager; port 0 takes a free one")
	fs.StringVar(&s.managerStatusListen, "manager-status-listen", "127.0.0.1:10042", "address of that Manager's status page; port 0 takes a free one")
	fs.StringVar(&s.natsURL, "nats-url", "", "NATS servers to use instead of an embedded one, as tls://host:port,… or nats://user:password@host:port with the user of this part; without a user, the password is that of nats-password in credentials-dir; default for single targets: of \"cetrus nats\" on the same data directory")
	fs.StringVar(&s.postgresURL, "postgres-url", "", "PostgreSQL server to use instead of a private one, as postgres://user:password@host:port/database; default for single targets: of \"cetrus postgres\" on the same data directory")
	fs.StringVar(&s.meteringAddress, "metering-address", "", "gRPC address of metering; default: of \"cetrus metering\" on the same data directory")
	fs.StringVar(&s.identityAddress, "identity-address", "", "gRPC address of identity; default: of \"cetrus identity\" on the same data directory")
	fs.StringVar(&s.signInKeyFile, "sign-in-key-file", "", "file of the key that seals second factors and signing keys; default: sign-in-key in the data directory")
	fs.BoolVar(&s.ssoPrivateAddresses, "single-sign-on-private-addresses", false, "let administrators of accounts name identity providers in private networks; only where all accounts are your own")
	s.nameKey.flags(fs)
	s.archive.flags(fs)
	fs.BoolVar(&s.allowShortGaps, "allow-short-gaps", false, "allow activity gaps and timeouts from 1 s, for tests; otherwise from 30 s")
	s.mail.flags(fs)
	fs.StringSliceVar(&s.trustedProxies, "trusted-proxies", []string{"127.0.0.0/8", "::1"}, "networks of proxies that are believed when they say for whom they ask (X-Forwarded-For)")
	fs.DurationVar(&s.stopWithin, "stop-within", stopWithin, "how long all parts together may take to stop in good order; the private PostgreSQL server is stopped the hard way a little before")
	fs.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&s.logFormat, "log-format", "text", "text or json")
}

// operatorFlags are flags for an order to a platform that runs: it takes all settings, so that one
// file serves both, and its help tells those that matter to it.
func (s *settings) operatorFlags(fs *pflag.FlagSet) {
	s.flags(fs)
	fs.VisitAll(func(f *pflag.Flag) {
		f.Hidden = !slices.Contains([]string{config.FileFlag, "data-dir", "nats-url"}, f.Name)
	})
}

// defaultDataDir is where the system keeps a service's data, or a person's.
func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/cetrus"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "cetrus")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "share", "cetrus")
	}
	return "cetrus-data"
}

// validate tells all that is wrong, each with its setting.
func (s *settings) validate() error {
	problems := []error{
		config.OneOf("log-level", s.logLevel, "debug", "info", "warn", "error"),
		config.OneOf("log-format", s.logFormat, "text", "json"),
		s.mail.validate(),
		s.nameKey.validate(),
		s.archive.validate(),
		s.nats.validate(),
	}
	if _, err := rpc.ParseProxies(s.trustedProxies); err != nil {
		problems = append(problems, config.Problem("trusted-proxies", strings.Join(s.trustedProxies, ","), errs.PublicOf(err).Message))
	}
	if s.dataDir == "" {
		problems = append(problems, config.Problem("data-dir", s.dataDir, "name a directory"))
	}
	for name, address := range s.listened() {
		if address == "" && slices.Contains([]string{"health-listen", "nats-cluster-listen", "nats-websocket-listen"}, name) {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			problems = append(problems, config.Problem(name, address, "must be host:port, as 127.0.0.1:0"))
		}
	}
	if s.stopWithin <= 0 {
		problems = append(problems, config.Problem("stop-within", s.stopWithin.String(), "must be longer than nothing, as 5s"))
	}
	if s.postgresPort < 0 || s.postgresPort > 65535 {
		problems = append(problems, config.Problem("postgres-port", "", "must be 0 to 65535"))
	}
	return errors.Join(problems...)
}

// credentials is where the secrets are that this process uses.
func (s *settings) credentials() string { return cmp.Or(s.credentialsDir, s.dataDir) }

// listened are the addresses by their settings.
func (s *settings) listened() map[string]string {
	return map[string]string{
		"rest-listen": s.restListen, "grpc-listen": s.grpcListen, "nats-listen": s.natsListen, "health-listen": s.healthListen,
		"nats-cluster-listen": s.nats.clusterListen, "nats-websocket-listen": s.nats.websocketListen,
		"manager-agents-listen": s.managerAgentsListen, "manager-status-listen": s.managerStatusListen,
	}
}
