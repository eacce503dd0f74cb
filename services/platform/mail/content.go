package mail

import (
	"net/netip"
	"net/url"
	"path"
	"time"
)

// Content is what a mail says: one of the types of this file.
type Content interface {
	// template names the files in templates/.
	template() string
}

// linked is a content with a link.
type linked interface {
	// link is where it leads below the public URL, and the parameters that it carries.
	link() (path string, parameters url.Values)
}

// Paths below the public URL that links lead to; their secret is the parameter "token".
const (
	PathPasswordReset = "/reset-password"
	PathInvitation    = "/accept-invitation"
)

// PathSavedReports is below which the console shows saved reports by their ids.
const PathSavedReports = "/saved-reports"

// Origin is from where something was asked for.
type Origin struct {
	// Address is the zero one where it is not known.
	Address netip.Addr
	// Device is what [Device] makes of a user agent.
	Device string
}

// PasswordReset brings the link to a new password.
type PasswordReset struct {
	Login   string
	Secret  string
	Expires time.Time
	At      time.Time
	From    Origin
}

// Invitation brings the link to the first password of a new login.
type Invitation struct {
	Login   string
	Secret  string
	Expires time.Time
}

// PasswordChanged says that a password is another one.
type PasswordChanged struct {
	Login string
	At    time.Time
	From  Origin
	// ByAdministrator: somebody else did it, and it must be changed at the next sign-in.
	ByAdministrator bool
}

// SecondFactorChanged says that a login can be opened with something else too, or not any more.
type SecondFactorChanged struct {
	Login string
	// What it is, as "a passkey".
	What    string
	Removed bool
	At      time.Time
	From    Origin
	// ByAdministrator: somebody else removed it.
	ByAdministrator bool
}

// PasskeySuspended says that a passkey may have a copy, and is refused.
type PasskeySuspended struct {
	Login string
	At    time.Time
	From  Origin
}

// AddressChanged says, at the former address, that mails to a login go elsewhere.
type AddressChanged struct {
	Login string
	At    time.Time
}

// LoginsLinked says that who signs in to one login comes into another too, or does not any more.
type LoginsLinked struct {
	Login string
	// OtherLogin and OtherAccount are the other end; empty where nobody can read them any more.
	OtherLogin, OtherAccount string
	Ended                    bool
	At                       time.Time
	From                     Origin
	// ByOther: the link ended as somebody else set the password of one of the two, or took it away.
	ByOther bool
}

// NewDevice says that somebody signed in from where nobody had before.
type NewDevice struct {
	Login string
	At    time.Time
	From  Origin
}

// APIKeyMade says that a program can now call in the login's name.
type APIKeyMade struct {
	Login      string
	Key        string
	Privileges []string
	// Expires is the zero time where it does not.
	Expires time.Time
	At      time.Time
	From    Origin
}

// PrivilegesChanged says what a login may do from now on that it could not, and the other
// way round.
type PrivilegesChanged struct {
	Login        string
	Given, Taken []string
	At           time.Time
}

// Maintenance announces when Cetrus cannot be used.
type Maintenance struct {
	Starts, Ends time.Time
	// What is done, in a few words; may be empty.
	What string
}

// Report brings a saved report, or tells where it is.
type Report struct {
	// Report is its id.
	Report string
	// Name is what its owner calls it, Kind which report it is, Period what it is about; Period may
	// be empty.
	Name, Kind, Period string
	// Owner is who has saved it; empty where that is the recipient.
	Owner string
	// At is the moment that its period is reckoned from.
	At time.Time
	// ByHand: somebody sent it, and no schedule.
	ByHand bool
	// File is the name of what comes with the mail; empty: nothing does. TooLarge says that it would have.
	File     string
	TooLarge bool
}

func (PasswordReset) template() string       { return "password-reset" }
func (Invitation) template() string          { return "invitation" }
func (PasswordChanged) template() string     { return "password-changed" }
func (SecondFactorChanged) template() string { return "second-factor-changed" }
func (PasskeySuspended) template() string    { return "passkey-suspended" }
func (AddressChanged) template() string      { return "address-changed" }
func (LoginsLinked) template() string        { return "logins-linked" }
func (NewDevice) template() string           { return "new-device" }
func (APIKeyMade) template() string          { return "api-key-made" }
func (PrivilegesChanged) template() string   { return "privileges-changed" }
func (Maintenance) template() string         { return "maintenance" }
func (Report) template() string              { return "report" }

func (c PasswordReset) link() (string, url.Values) { return PathPasswordReset, token(c.Secret) }
func (c Invitation) link() (string, url.Values)    { return PathInvitation, token(c.Secret) }

// token are the parameters of a link that works once.
func token(secret string) url.Values { return url.Values{"token": {secret}} }

func (c Report) link() (string, url.Values) {
	return path.Join(PathSavedReports, c.Report, "open"), url.Values{"at": {c.At.UTC().Format(time.RFC3339)}}
}

// linkOf is the whole link of a content, "" where it has none.
func linkOf(public *url.URL, c Content) string {
	l, ok := c.(linked)
	if !ok {
		return ""
	}
	path, parameters := l.link()
	u := public.JoinPath(path)
	u.RawQuery = parameters.Encode()
	return u.String()
}
