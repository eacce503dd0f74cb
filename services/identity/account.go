package identity

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Account is the aggregate of a company or person. It knows its administrators, so that two who
// would take the privilege from each other at once meet here.
type Account struct {
	// ID is zero before it was created.
	ID         contract.ID
	SealedName []byte
	NameID     contract.ID
	// Administrators are the logins that are enabled and have the privilege, by id.
	Administrators []contract.ID
	// Revision counts the account's own changes from 1; it is its etag.
	Revision int
}

// MaxAccountName and MaxLoginName bound names, in characters.
const (
	MaxAccountName = 64
	MaxLoginName   = 128
	maxDisplayName = 120
	maxGroups      = 100
	maxDenied      = 1000
)

// Etag tells one state of an account from the next.
func (a Account) Etag() string { return strconv.Itoa(a.Revision) }

// DecideCreate begins the account.
func (a Account) DecideCreate(op string, id, nameID contract.ID, sealedName []byte) ([]proto.Message, error) {
	if !a.ID.IsZero() {
		return nil, errs.New(errs.AlreadyExists, op, "account "+id.String(), "there is an account of this id")
	}
	return []proto.Message{&identityv1.AccountCreated{AccountId: id[:], SealedName: sealedName, NameId: nameID[:]}}, nil
}

// DecideRename gives it another name.
func (a Account) DecideRename(nameID contract.ID, sealedName []byte) []proto.Message {
	return []proto.Message{&identityv1.AccountRenamed{SealedName: sealedName, NameId: nameID[:]}}
}

// There is an error where the account does not exist.
func (a Account) There(op string, id contract.ID) error {
	if a.ID.IsZero() {
		return errs.New(errs.NotFound, op, "account "+id.String(), "there is no such account")
	}
	return nil
}

// DecideAdministrator takes in whether a login administers the account. The last one stays, and the
// last who can sign in, which canSignIn tells of each.
func (a Account) DecideAdministrator(op string, login contract.ID, is bool, canSignIn func(contract.ID) (bool, error)) ([]proto.Message, error) {
	_, was := slices.BinarySearchFunc(a.Administrators, login, compareIDs)
	switch {
	case is == was:
		return nil, nil
	case is:
		return []proto.Message{&identityv1.AdministratorAdded{LoginId: login[:]}}, nil
	}
	last, err := a.IsLast(login, canSignIn)
	if err != nil {
		return nil, err
	}
	if last {
		return nil, errs.New(errs.Precondition, op, "login "+login.String(), "it is the account's last administrator who can sign in: give the privilege to another login first, and let its person choose a password").WithReason("LAST_ADMINISTRATOR")
	}
	return []proto.Message{&identityv1.AdministratorRemoved{LoginId: login[:]}}, nil
}

// IsLast tells whether nobody could administer the account without a login: it is the only
// administrator, or it can sign in and none of the others can yet.
func (a Account) IsLast(login contract.ID, canSignIn func(contract.ID) (bool, error)) (bool, error) {
	if _, is := slices.BinarySearchFunc(a.Administrators, login, compareIDs); !is {
		return false, nil
	}
	if len(a.Administrators) == 1 {
		return true, nil
	}
	if can, err := canSignIn(login); err != nil || !can {
		return false, err // who could sign in without it still can
	}
	for _, other := range a.Administrators {
		if other == login {
			continue
		}
		if can, err := canSignIn(other); err != nil || can {
			return false, err
		}
	}
	return true, nil
}

// Apply returns the account after an event.
func (a Account) Apply(event proto.Message) (Account, error) {
	switch e := event.(type) {
	case *identityv1.AccountCreated:
		id, err := contract.IDFrom(e.GetAccountId())
		if err != nil {
			return a, fmt.Errorf("identity: account created: %w", err)
		}
		a.ID, a.Revision = id, 1
		return a.named(e.GetSealedName(), e.GetNameId())
	case *identityv1.AccountRenamed:
		a.Revision++
		return a.named(e.GetSealedName(), e.GetNameId())
	case *identityv1.AdministratorAdded:
		id, err := contract.IDFrom(e.GetLoginId())
		if err != nil {
			return a, fmt.Errorf("identity: administrator added: %w", err)
		}
		if at, there := slices.BinarySearchFunc(a.Administrators, id, compareIDs); !there {
			a.Administrators = slices.Insert(slices.Clone(a.Administrators), at, id)
		}
		return a, nil
	case *identityv1.AdministratorRemoved:
		id, err := contract.IDFrom(e.GetLoginId())
		if err != nil {
			return a, fmt.Errorf("identity: administrator removed: %w", err)
		}
		if at, there := slices.BinarySearchFunc(a.Administrators, id, compareIDs); there {
			a.Administrators = slices.Delete(slices.Clone(a.Administrators), at, at+1)
		}
		return a, nil
	}
	return a, fmt.Errorf("identity: %T is no event of an account", event)
}

func (a Account) named(sealed, nameID []byte) (Account, error) {
	id, err := contract.IDFrom(nameID)
	if err != nil {
		return a, fmt.Errorf("identity: name of account %s: %w", a.ID, err)
	}
	a.SealedName, a.NameID = sealed, id
	return a, nil
}

func compareIDs(a, b contract.ID) int { return bytes.Compare(a[:], b[:]) }
