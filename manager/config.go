package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/releases"
)

// Defaults of a Config.
const (
	DefaultAgentsAddress  = "127.0.0.1:10041"
	DefaultStatusAddress  = "127.0.0.1:10042"
	DefaultMaxBufferBytes = 16 << 30
	DefaultKeepForwarded  = 72 * time.Hour
	minBufferBytes        = 64 << 20
)

// Security is how agents and Manager know one another.
type Security string

const (
	// ByEnrollment has the Manager be its site's authority: agents enrol with a token, and
	// each proves by a certificate of its own which one it is. It is the default.
	ByEnrollment Security = "enrollment"
	// ByFiles uses certificates that somebody else issues, from TLSConfig's files; it is the
	// default where such files are named. They tell that an agent may speak here, not which
	// one it is.
	ByFiles Security = "files"
	// Plaintext encrypts nothing and believes everybody, and so is for this machine only: for
	// tests and tools.
	Plaintext Security = "plaintext"
)

// Config is what a Manager needs to know. The zero value of a field that is not
// required means its default.
type Config struct {
	// DataDir is the Manager's own folder. Required; made where it is missing.
	DataDir string
	// AccountID is the account that this Manager serves. Required.
	AccountID contract.ID
	// AgentsAddress is where agents connect: host:port, port 0 for any.
	AgentsAddress string
	// StatusAddress is where the status page and its API are: host:port, port 0
	// for any. It has no sign-in, so it must be a loopback address.
	StatusAddress string
	// AgentsManagers are where this Manager's agents are told to find their Managers, in the
	// order of preference; none: what the account says.
	AgentsManagers []string
	// AgentsSecurity is how agents are known.
	AgentsSecurity Security
	// TLS are the certificates with which agents are spoken to by ByFiles.
	TLS TLSConfig
	// MaxBufferBytes bounds the durable buffer on disk; at least 64 MiB. At the
	// bound agents are asked to wait: nothing is dropped.
	MaxBufferBytes int64
	// KeepForwarded is how long forwarded data stays in the buffer, so that a
	// platform that lost a tail can be given it again.
	KeepForwarded time.Duration
	// KeepForwardedBytes bounds forwarded data; half of MaxBufferBytes by default.
	KeepForwardedBytes int64
	// ShowNames lets the status page show people's names instead of the short
	// form of their principals. Anybody on this machine can read that page.
	ShowNames bool

	// Releases are what agents are offered; its Dir is set by the Manager. Without keys
	// none are kept.
	Releases releases.Config

	reborn bool // see buffer.Config.Reborn
}

// Deps is what a Manager is given.
type Deps struct {
	// Platform connects to the platform's NATS. It is called again, with
	// back-off, after it failed; the connection reconnects by itself from then
	// on, and the Manager closes it. It must ask under contract.ManagerInbox of
	// the id given, the only inbox that a Manager may have. Nil: the Manager works
	// on its own.
	Platform func(ctx context.Context, manager contract.ID) (*nats.Conn, error)
	// Log takes what the Manager has to say; slog.Default by default.
	Log *slog.Logger
	// Version is what the platform is told of this build; empty: nothing.
	Version string
}

// Validate fills in defaults and says what is wrong, all at once.
func (c *Config) Validate() error {
	if c.AgentsAddress == "" {
		c.AgentsAddress = DefaultAgentsAddress
	}
	if c.StatusAddress == "" {
		c.StatusAddress = DefaultStatusAddress
	}
	if c.MaxBufferBytes == 0 {
		c.MaxBufferBytes = DefaultMaxBufferBytes
	}
	if c.KeepForwarded == 0 {
		c.KeepForwarded = DefaultKeepForwarded
	}
	if c.KeepForwardedBytes == 0 {
		c.KeepForwardedBytes = c.MaxBufferBytes / 2
	}
	var wrong []error
	if c.DataDir == "" {
		wrong = append(wrong, errors.New("data_dir is missing: name the Manager's own folder"))
	}
	if c.AccountID.IsZero() {
		wrong = append(wrong, errors.New("account_id is missing: give the account's UUID"))
	}
	if c.MaxBufferBytes < minBufferBytes {
		wrong = append(wrong, fmt.Errorf("max_buffer_bytes is %d: at least %d", c.MaxBufferBytes, int64(minBufferBytes)))
	}
	if c.KeepForwarded < 0 {
		wrong = append(wrong, fmt.Errorf("keep_forwarded is %v: it cannot be negative", c.KeepForwarded))
	}
	if c.KeepForwardedBytes < 0 || c.KeepForwardedBytes > c.MaxBufferBytes {
		wrong = append(wrong, fmt.Errorf("keep_forwarded_bytes is %d: from 0 to max_buffer_bytes (%d)", c.KeepForwardedBytes, c.MaxBufferBytes))
	}
	if len(c.AgentsManagers) > contract.MaxManagers {
		wrong = append(wrong, fmt.Errorf("agents_managers has %d addresses: at most %d", len(c.AgentsManagers), contract.MaxManagers))
	}
	for _, address := range c.AgentsManagers {
		if err := contract.CheckAddress(address); err != nil {
			wrong = append(wrong, fmt.Errorf("agents_managers: %w", err))
		}
	}
	if err := c.TLS.check(); err != nil {
		wrong = append(wrong, err)
	}
	if err := c.checkSecurity(); err != nil {
		wrong = append(wrong, fmt.Errorf("agents_security: %w", err))
	}
	if err := loopback(c.StatusAddress); err != nil {
		wrong = append(wrong, fmt.Errorf("status_address: %w", err))
	}
	return errors.Join(wrong...)
}

func (c *Config) checkSecurity() error {
	named := c.TLS.Certificate != ""
	if c.AgentsSecurity == "" {
		c.AgentsSecurity = ByEnrollment
		if named {
			c.AgentsSecurity = ByFiles
		}
	}
	switch c.AgentsSecurity {
	case ByEnrollment, Plaintext:
		if named {
			return fmt.Errorf("%q goes without tls_certificate: leave that out, or say %q", c.AgentsSecurity, ByFiles)
		}
		if c.AgentsSecurity == Plaintext && loopback(c.AgentsAddress) != nil {
			return fmt.Errorf("%q is for agents of this machine, and agents_address %q is open to others: give agents certificates", Plaintext, c.AgentsAddress)
		}
	case ByFiles:
		if !named {
			return fmt.Errorf("%q needs tls_certificate and tls_key", ByFiles)
		}
	default:
		return fmt.Errorf("it is %q: say %s, %s or %s", c.AgentsSecurity, ByEnrollment, ByFiles, Plaintext)
	}
	return nil
}

func loopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%q is not a loopback address, and the page has no sign-in", address)
}
