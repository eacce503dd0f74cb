package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// Kinds of names; each kind has its own.
const (
	accountNames = "account"
	loginNames   = "login"
	groupNames   = "group"
)

// NameKey keeps hashes of names from being guessed by whoever reads the log.
type NameKey [sha256.Size]byte

// ID is the id of the reservation of a name.
func (k NameKey) ID(kind, name string) contract.ID {
	h := hmac.New(sha256.New, k[:])
	h.Write([]byte(kind + "\x00" + foldName(name)))
	return resource.AsUUID(contract.ID(h.Sum(nil)[:16]), 8)
}

// tidyName is a name as it is kept: spaces around it and doubled ones are no part of it.
func tidyName(name string) string {
	return norm.NFC.String(strings.Join(strings.Fields(name), " "))
}

// foldName is what makes two names the same: case, width and spaces do not.
func foldName(name string) string {
	return strings.Join(strings.Fields(norm.NFKC.String(cases.Fold().String(norm.NFKC.String(name)))), " ")
}

// checkName tells what is wrong with a name that was tidied; "" where nothing is.
func checkName(name string, most int) string {
	switch {
	case name == "" || foldName(name) == "":
		return "is empty: give it a name"
	case len([]rune(name)) > most:
		return fmt.Sprintf("has more than %d characters", most)
	case strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar
	}):
		return "contains a character that cannot be seen"
	case mixed(name):
		return "mixes Latin, Greek or Cyrillic letters in one word: they look alike"
	}
	return ""
}

// mixed tells whether a word of a name has letters of several alphabets that people take for each
// other's: what looks like another's name must not be one.
func mixed(name string) bool {
	for word := range strings.FieldsFuncSeq(name, func(r rune) bool { return !unicode.IsLetter(r) }) {
		alphabets := 0
		for _, alphabet := range []*unicode.RangeTable{unicode.Latin, unicode.Greek, unicode.Cyrillic} {
			if strings.ContainsFunc(word, func(r rune) bool { return unicode.Is(alphabet, r) }) {
				alphabets++
			}
		}
		if alphabets > 1 {
			return true
		}
	}
	return false
}

// Reservation is the aggregate of a name: whose it is, if anybody's.
type Reservation struct {
	// Account and Owner are zero where the name is free.
	Account, Owner contract.ID
}

// DecideReserve gives the name to an owner, unless another has it.
func (r Reservation) DecideReserve(op string, account, owner contract.ID) ([]proto.Message, error) {
	switch r {
	case Reservation{}:
		return []proto.Message{&identityv1.NameReserved{AccountId: account[:], OwnerId: owner[:]}}, nil
	case Reservation{account, owner}:
		return nil, nil
	}
	return nil, errs.New(errs.AlreadyExists, op, "", "this name belongs to another already: choose another name").WithReason("NAME_TAKEN")
}

// DecideRelease makes the name free, where it is this owner's.
func (r Reservation) DecideRelease(account, owner contract.ID) []proto.Message {
	if r != (Reservation{account, owner}) {
		return nil
	}
	return []proto.Message{&identityv1.NameReleased{AccountId: account[:], OwnerId: owner[:]}}
}

// Apply returns the reservation after an event.
func (r Reservation) Apply(event proto.Message) (Reservation, error) {
	switch e := event.(type) {
	case *identityv1.NameReserved:
		account, err := contract.IDFrom(e.GetAccountId())
		if err != nil {
			return r, fmt.Errorf("identity: name reserved: %w", err)
		}
		owner, err := contract.IDFrom(e.GetOwnerId())
		if err != nil {
			return r, fmt.Errorf("identity: name reserved: %w", err)
		}
		return Reservation{account, owner}, nil
	case *identityv1.NameReleased:
		return Reservation{}, nil
	}
	return r, fmt.Errorf("identity: %T is no event of a name", event)
}
