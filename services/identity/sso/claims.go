package sso

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// maxClaimGroups bounds how many groups of a person are looked at.
const maxClaimGroups = 2000

// claimMailConfirmed says of the claim email whether it holds.
const claimMailConfirmed = "email_verified"

// claims are what a provider says of a person.
type claims map[string]json.RawMessage

// text is a claim that is a text; "" where it is none.
func (c claims) text(name string) string {
	var text string
	if json.Unmarshal(c[name], &text) != nil {
		return ""
	}
	return text
}

// mailConfirmed tells whether the provider has confirmed the mail address; some write true as
// a text.
func (c claims) mailConfirmed() bool {
	var yes bool
	return json.Unmarshal(c[claimMailConfirmed], &yes) == nil && yes || c.text(claimMailConfirmed) == "true"
}

// texts is a claim that is a list of texts, or one text.
func (c claims) texts(name string) []string {
	if one := c.text(name); one != "" {
		return []string{one}
	}
	var list []any
	if json.Unmarshal(c[name], &list) != nil {
		return nil
	}
	var texts []string
	for _, v := range list[:min(len(list), maxClaimGroups)] {
		if text, ok := v.(string); ok && text != "" {
			texts = append(texts, text)
		}
	}
	return texts
}

// fill takes claims from others that are not there.
func (c claims) fill(others claims) {
	for name, value := range others {
		if _, there := c[name]; !there {
			c[name] = value
		}
	}
}

// Person is somebody for whom an account's identity provider vouches.
type Person struct {
	// Subject names the person among all of all providers, in letters that say nothing.
	Subject string
	// Issuer is the provider, as it calls itself.
	Issuer string
	// Name is what a new login is called.
	Name string
	// DisplayName and MailAddress are empty where the provider does not tell them.
	DisplayName, MailAddress string
	// Privileges and Groups are what the person gets; of Managed and ManagedGroups the
	// others are taken away.
	Privileges, Managed   authn.Privileges
	Groups, ManagedGroups []contract.ID
	// Create lets the person get a login, Link the one of their name that is there.
	Create, Link bool
}

// refusal is why a person is not let in, in words for them.
type refusal string

// Error implements error.
func (r refusal) Error() string { return "sso: " + string(r) }

// person reads from claims what counts by the account's settings.
func (p Provider) person(c claims) (Person, error) {
	subject := c.text("sub")
	if subject == "" || len(subject) > 255 {
		return Person{}, refusal("the identity provider does not say who you are (claim sub)")
	}
	// The length in front keeps two pairs from being one text.
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s%s", len(p.Issuer), p.Issuer, subject))
	who := Person{
		Subject: hex.EncodeToString(sum[:]), Issuer: p.Issuer, Name: c.text(p.nameClaim()), DisplayName: c.text("name"), MailAddress: c.text("email"),
		Create: p.CreateLogins, Link: p.LinkLogin,
	}
	if _, said := c[claimMailConfirmed]; said && !c.mailConfirmed() {
		who.MailAddress = "" // links to a new password would go to it
	}
	if err := p.checkDomain(c); err != nil {
		return Person{}, err
	}
	if p.nameClaim() == "email" && !c.mailConfirmed() {
		// Some providers let people enter what address they like.
		who.Name = ""
	}
	groups := c.texts(p.groupsClaim())
	for _, m := range p.Mappings {
		who.Managed |= m.Privileges
		who.ManagedGroups = union(who.ManagedGroups, m.Groups)
		if m.Group == "" || slices.Contains(groups, m.Group) {
			who.Privileges |= m.Privileges
			who.Groups = union(who.Groups, m.Groups)
		}
	}
	return who, nil
}

func (p Provider) checkDomain(c claims) error {
	if len(p.MailDomains) == 0 {
		return nil
	}
	address := c.text("email")
	at := strings.LastIndexByte(address, '@')
	if at < 1 || !slices.Contains(p.MailDomains, strings.ToLower(address[at+1:])) {
		return refusal("your mail address at the identity provider is in none of the domains that the account allows: ask an administrator of the account")
	}
	if !c.mailConfirmed() {
		return refusal("the identity provider does not say that your mail address is confirmed (claim email_verified), and the account allows confirmed ones only")
	}
	return nil
}

func union(a, b []contract.ID) []contract.ID {
	for _, id := range b {
		if !slices.Contains(a, id) {
			a = append(a, id)
		}
	}
	return a
}
