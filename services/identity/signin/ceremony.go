package signin

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/passkey"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// What a challenge may be answered for.
const (
	forSignIn       = "sign-in"
	forSecondFactor = "second factor"
	forRegistration = "registration"
)

// ceremonyPlace is where sealed ceremonies belong.
const ceremonyPlace = "passkey ceremony"

// maxCredential bounds what a browser may answer, in bytes.
const maxCredential = 64 << 10

const (
	// ReasonPasskeys is the reason of an error where no browser would offer passkeys.
	ReasonPasskeys = "PASSKEYS_UNAVAILABLE"
	// ReasonChallenge is the reason of an error that asks to begin again.
	ReasonChallenge = "PASSKEY_CHALLENGE_OVER"
)

// ceremony is one challenge that waits for its answer. It lies sealed with whoever asked for
// it, so that strangers who ask fill no table, and any process knows it again.
type ceremony struct {
	For string `json:"for"`
	// Account and Login are whose passkey it is about; zero for a sign-in without a name.
	Account contract.ID `json:"account"`
	Login   contract.ID `json:"login"`
	// Session of a registration: it is finished from where it was begun.
	Session contract.ID `json:"session"`
	// Party is the host name that it was asked for.
	Party   string          `json:"party"`
	State   json.RawMessage `json:"state"`
	Once    string          `json:"once"`
	Expires time.Time       `json:"expires"`
}

// asked is a challenge as it goes to a browser.
type asked struct {
	token   string
	options []byte
	expires time.Time
}

func (a asked) message() (*identityv1.PasskeyChallenge, error) {
	options := &structpb.Struct{}
	if err := protojson.Unmarshal(a.options, options); err != nil {
		return nil, errs.Wrap("identity.PasskeyChallenge", "", err)
	}
	return &identityv1.PasskeyChallenge{ChallengeToken: a.token, Options: options, ExpireTime: timestamppb.New(a.expires)}, nil
}

// answered is what a browser gave, with the challenge that it is for; the zero one is none.
type answered struct {
	token      string
	credential []byte
}

func (a answered) any() bool { return a.token != "" }

func answeredOf(op, path, token string, credential *structpb.Struct) (answered, error) {
	text, err := protojson.Marshal(credential)
	if err != nil || len(text) > maxCredential {
		return answered{}, errs.InvalidFields(op, "", errs.Field{Path: path, Description: "it is not what navigator.credentials gave, by its toJSON()"})
	}
	return answered{token: token, credential: text}, nil
}

// party is Cetrus as browsers know it.
func (s *Service) party(op string) (*passkey.Party, error) {
	unavailable := func(message string, err error) error {
		e := errs.New(errs.Precondition, op, "", message).WithReason(ReasonPasskeys)
		e.Err = err
		return e
	}
	if s.cfg.PublicURL == nil {
		return nil, unavailable("passkeys cannot be used: this platform does not know its public URL", errors.New("signin: no Config.PublicURL"))
	}
	public, err := s.cfg.PublicURL()
	if err != nil {
		return nil, unavailable("passkeys cannot be used: this platform does not know its public URL", err)
	}
	p, err := passkey.At(public)
	if err != nil {
		return nil, unavailable(err.Error(), err)
	}
	return p, nil
}

// ask seals a challenge.
func (s *Service) ask(op string, c ceremony, of passkey.Challenge) (asked, error) {
	c.State, c.Once, c.Expires = of.State, of.Once, s.now().Add(passkey.Life)
	text, err := json.Marshal(c)
	if err != nil {
		return asked{}, errs.Wrap(op, "", err)
	}
	return asked{token: base64.RawURLEncoding.EncodeToString(s.box.seal(text, ceremonyPlace)), options: of.Options, expires: c.Expires}, nil
}

func challengeOver(op string) error {
	return errs.New(errs.Precondition, op, "", "this challenge is not good any more: it was answered, has expired, or was another's; begin again").WithReason(ReasonChallenge)
}

// ceremony opens what ask sealed, for one purpose, while it may be answered.
func (s *Service) ceremony(op, purpose string, p *passkey.Party, token string) (c ceremony, err error) {
	over := challengeOver(op)
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return c, over
	}
	text, err := s.box.open(sealed, ceremonyPlace)
	if err != nil {
		return c, over
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, errs.Wrap(op, "", err)
	}
	if c.For != purpose || c.Party != p.ID() || !s.now().Before(c.Expires) {
		return c, over
	}
	return c, nil
}

// errAnswered means that a challenge was answered before.
var errAnswered = errors.New("signin: the challenge was answered before")

// consume notes that a challenge was answered; the second answer gets errAnswered.
func (s *Service) consume(ctx context.Context, c ceremony) error {
	hash := sha256.Sum256([]byte(c.Once))
	return s.secrets.ChangeInAccount(ctx, nobody(), func(tx pgx.Tx) error {
		done, err := tx.Exec(ctx, "INSERT INTO used_challenge (account_id, hash, expires) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", [16]byte(nobody()), hash[:], c.Expires)
		if err == nil && done.RowsAffected() == 0 {
			return errAnswered
		}
		return err
	})
}
