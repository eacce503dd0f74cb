package passkey

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/cetrus/cetrus/proto/contract"
)

// Life is how long a challenge waits for its answer.
const Life = 5 * time.Minute

var (
	// ErrMalformed means that an answer is none that a browser gives.
	ErrMalformed = errors.New("passkey: the answer cannot be read")
	// ErrRefused means that an answer is not right.
	ErrRefused = errors.New("passkey: the answer is not right")
)

// Party is Cetrus as browsers know it.
type Party struct {
	webauthn *webauthn.WebAuthn
}

// At is the party at the URL under which people reach Cetrus, or an error that says why no
// browser would offer passkeys there.
func At(publicURL string) (*Party, error) {
	u, err := url.Parse(publicURL)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("passkeys cannot be used: %q is no URL of a web site; set public-url to https:// and a host name", publicURL)
	}
	host, port := strings.ToLower(u.Hostname()), u.Port()
	address, err := netip.ParseAddr(host)
	switch {
	case err == nil && address.IsLoopback() && u.Scheme == "http":
		host = "localhost"
	case err == nil:
		return nil, fmt.Errorf("passkeys cannot be used at %s: browsers offer none for an IP address; set public-url to https:// and a host name", publicURL)
	case u.Scheme == "http" && host != "localhost" && !strings.HasSuffix(host, ".localhost"):
		return nil, fmt.Errorf("passkeys cannot be used at %s: browsers offer them over https only; set public-url to https://%s", publicURL, host)
	}
	origin := u.Scheme + "://" + host
	if port != "" && port != map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		origin = u.Scheme + "://" + net.JoinHostPort(host, port)
	}
	timeout := webauthn.TimeoutConfig{Timeout: Life, TimeoutUVD: Life}
	w, err := webauthn.New(&webauthn.Config{
		RPID: host, RPDisplayName: "Cetrus", RPOrigins: []string{origin},
		AttestationPreference: protocol.PreferNoAttestation,
		Timeouts:              webauthn.TimeoutsConfig{Login: timeout, Registration: timeout},
		// Password managers tell of extensions unasked; none is used here.
		ExtensionsUnsolicitedOutputPolicy: protocol.UnsolicitedOutputPolicyIgnore,
	})
	if err != nil {
		return nil, fmt.Errorf("passkeys cannot be used at %s: %w", publicURL, err)
	}
	return &Party{webauthn: w}, nil
}

// ID is the host name that passkeys are bound to.
func (p *Party) ID() string { return p.webauthn.Config.RPID }

// Origin is where browsers answer from.
func (p *Party) Origin() string { return p.webauthn.Config.RPOrigins[0] }

// Key is the public half of a passkey, and what is remembered of its authenticator.
type Key struct {
	// ID is the authenticator's own.
	ID []byte
	// Public is a COSE key.
	Public []byte
	// Format of the statement that it was registered with.
	Format     string
	AAGUID     []byte
	Transports []string
	// Flags are those of the authenticator data.
	Flags byte
	// Count is how often it was used, by its authenticator; zero where that does not count.
	Count uint32
}

// Synced tells whether the passkey may be on several devices.
func (k Key) Synced() bool { return protocol.AuthenticatorFlags(k.Flags).HasBackupEligible() }

func (k Key) credential() webauthn.Credential {
	transports := make([]protocol.AuthenticatorTransport, len(k.Transports))
	for i, t := range k.Transports {
		transports[i] = protocol.AuthenticatorTransport(t)
	}
	return webauthn.Credential{
		ID: k.ID, PublicKey: k.Public, AttestationFormat: k.Format, Transport: transports,
		Flags:         webauthn.NewCredentialFlags(protocol.AuthenticatorFlags(k.Flags)),
		Authenticator: webauthn.Authenticator{AAGUID: k.AAGUID, SignCount: k.Count},
	}
}

// knownTransports are what is kept of a browser's words on how it reaches an authenticator.
func knownTransports() []protocol.AuthenticatorTransport {
	return []protocol.AuthenticatorTransport{protocol.USB, protocol.NFC, protocol.BLE, protocol.SmartCard, protocol.Hybrid, protocol.Internal}
}

func keyOf(c *webauthn.Credential) Key {
	transports := []string{}
	for _, t := range c.Transport {
		if slices.Contains(knownTransports(), t) && len(transports) < len(knownTransports()) {
			transports = append(transports, string(t))
		}
	}
	return Key{
		ID: c.ID, Public: c.PublicKey, Format: c.AttestationFormat, AAGUID: c.Authenticator.AAGUID, Transports: transports,
		Flags: byte(c.Flags.ProtocolValue()), Count: c.Authenticator.SignCount,
	}
}

// Person is a login and its passkeys.
type Person struct {
	Account, Login contract.ID
	// Name is for the person to tell passkeys apart.
	Name string
	Keys []Key
}

// handle is what authenticators keep of a login: random ids, which say nothing of its person.
func handle(account, login contract.ID) []byte {
	return append(append([]byte{}, account[:]...), login[:]...)
}

// user is a Person as the library asks for one.
type user struct{ Person }

func (u user) WebAuthnID() []byte          { return handle(u.Account, u.Login) }
func (u user) WebAuthnName() string        { return u.Name }
func (u user) WebAuthnDisplayName() string { return u.Name }
func (u user) WebAuthnCredentials() []webauthn.Credential {
	list := make([]webauthn.Credential, len(u.Keys))
	for i, k := range u.Keys {
		list[i] = k.credential()
	}
	return list
}

// Challenge is what is asked of a browser.
type Challenge struct {
	// Options are JSON for the browser.
	Options []byte
	// State is JSON for judging the answer: to be kept from everybody else until then.
	State []byte
	// Once is what tells the challenge from all others.
	Once string
}

func challenge(options any, session *webauthn.SessionData, err error) (Challenge, error) {
	if err != nil {
		return Challenge{}, fmt.Errorf("passkey: %w", err)
	}
	c := Challenge{Once: session.Challenge}
	if c.Options, err = json.Marshal(options); err == nil {
		c.State, err = json.Marshal(session)
	}
	if err != nil {
		return Challenge{}, fmt.Errorf("passkey: %w", err)
	}
	return c, nil
}

// Register asks for a new passkey of a person, on an authenticator that has none of theirs.
func (p *Party) Register(of Person) (Challenge, error) {
	options, session, err := p.webauthn.BeginRegistration(user{of},
		webauthn.WithExclusions(webauthn.Credentials(user{of}.WebAuthnCredentials()).CredentialDescriptors()),
		webauthn.WithAuthenticatorSelection(protocol.AuthenticatorSelection{
			// Preferred: a key that can do neither is still a second factor.
			ResidentKey: protocol.ResidentKeyRequirementPreferred, UserVerification: protocol.VerificationPreferred,
		}))
	return challenge(options, session, err)
}

// Ask asks for one of a person's passkeys, beside the password.
func (p *Party) Ask(of Person) (Challenge, error) {
	options, session, err := p.webauthn.BeginLogin(user{of}, webauthn.WithUserVerification(protocol.VerificationPreferred))
	return challenge(options, session, err)
}

// AskAnybody asks for any passkey, whose authenticator makes sure of its person.
func (p *Party) AskAnybody() (Challenge, error) {
	options, session, err := p.webauthn.BeginDiscoverableLogin(webauthn.WithUserVerification(protocol.VerificationRequired))
	return challenge(options, session, err)
}

// Registered judges the answer to Register.
func (p *Party) Registered(of Person, state, answer []byte) (Key, error) {
	session, err := sessionOf(state)
	if err != nil {
		return Key{}, err
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(answer)
	if err != nil {
		return Key{}, malformed(err)
	}
	c, err := p.webauthn.CreateCredential(user{of}, session, parsed)
	if err != nil {
		return Key{}, refused(err)
	}
	return keyOf(c), nil
}

// Shown is a passkey that has proved itself.
type Shown struct {
	// Key is as it is from now on.
	Key Key
	// WentBack: its authenticator's counter is not above the one before, so that there may
	// be two of it.
	WentBack bool
}

// Answer is what a browser gave to Ask or AskAnybody.
type Answer struct {
	parsed *protocol.ParsedCredentialAssertionData
}

// Read reads an answer, which may be anything.
func Read(answer []byte) (Answer, error) {
	parsed, err := protocol.ParseCredentialRequestResponseBytes(answer)
	if err != nil {
		return Answer{}, malformed(err)
	}
	return Answer{parsed}, nil
}

// Of tells whose passkey it says that it is; ok is false where it does not.
func (a Answer) Of() (account, login contract.ID, ok bool) {
	h := a.parsed.Response.UserHandle
	if len(h) != len(account)+len(login) {
		return account, login, false
	}
	return contract.ID(h[:len(account)]), contract.ID(h[len(account):]), true
}

// Asked judges an answer to Ask.
func (p *Party) Asked(of Person, state []byte, answer Answer) (Shown, error) {
	session, err := sessionOf(state)
	if err != nil {
		return Shown{}, err
	}
	c, err := p.webauthn.ValidateLogin(user{of}, session, answer.parsed)
	return shown(c, err)
}

// AskedAnybody judges an answer to AskAnybody, by the passkeys of whom it says that it is.
func (p *Party) AskedAnybody(of Person, state []byte, answer Answer) (Shown, error) {
	session, err := sessionOf(state)
	if err != nil {
		return Shown{}, err
	}
	_, c, err := p.webauthn.ValidatePasskeyLogin(func(_, _ []byte) (webauthn.User, error) { return user{of}, nil }, session, answer.parsed)
	return shown(c, err)
}

func shown(c *webauthn.Credential, err error) (Shown, error) {
	if err != nil {
		return Shown{}, refused(err)
	}
	return Shown{Key: keyOf(c), WentBack: c.Authenticator.CloneWarning}, nil
}

func sessionOf(state []byte) (s webauthn.SessionData, err error) {
	if err := json.Unmarshal(state, &s); err != nil {
		return s, fmt.Errorf("passkey: state of a challenge: %w", err)
	}
	return s, nil
}

func malformed(err error) error { return fmt.Errorf("%w: %w", ErrMalformed, detail(err)) }

func refused(err error) error { return fmt.Errorf("%w: %w", ErrRefused, detail(err)) }

// detail adds what the library keeps apart from an error's text.
func detail(err error) error {
	var of *protocol.Error
	if errors.As(err, &of) && of.DevInfo != "" {
		return fmt.Errorf("%w (%s)", err, of.DevInfo)
	}
	return err
}
