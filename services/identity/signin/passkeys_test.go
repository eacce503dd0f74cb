package signin

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/descope/virtualwebauthn"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/passkey"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// device is a browser at some site, with an authenticator that holds one passkey.
type device struct {
	site          virtualwebauthn.RelyingParty
	authenticator virtualwebauthn.Authenticator
	credential    virtualwebauthn.Credential
}

// newDevice counts its uses, as a security key does.
func newDevice(t *testing.T) *device {
	t.Helper()
	d := &device{
		site:          virtualwebauthn.RelyingParty{ID: "localhost", Name: "Cetrus", Origin: "http://localhost:8080"},
		authenticator: virtualwebauthn.NewAuthenticator(),
	}
	for {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		// The library writes coordinates that begin with a zero too short.
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if point[1] == 0 || point[33] == 0 {
			continue
		}
		text, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		d.credential = virtualwebauthn.NewCredentialWithImportedKey(virtualwebauthn.KeyTypeEC2, text)
		return d
	}
}

// create answers a registration.
func (d *device) create(t *testing.T, c *identityv1.PasskeyChallenge) *structpb.Struct {
	t.Helper()
	options, err := virtualwebauthn.ParseAttestationOptions(optionsOf(t, c))
	if err != nil {
		t.Fatal(err)
	}
	d.authenticator.Options.UserHandle = []byte(options.UserID)
	d.authenticator.AddCredential(d.credential)
	return credentialOf(t, virtualwebauthn.CreateAttestationResponse(d.site, d.authenticator, d.credential, *options))
}

// get answers a sign-in, one use later.
func (d *device) get(t *testing.T, c *identityv1.PasskeyChallenge) *identityv1.PasskeyProof {
	t.Helper()
	d.credential.Counter++
	return d.getAgain(t, c)
}

func (d *device) getAgain(t *testing.T, c *identityv1.PasskeyChallenge) *identityv1.PasskeyProof {
	t.Helper()
	options, err := virtualwebauthn.ParseAssertionOptions(optionsOf(t, c))
	if err != nil {
		t.Fatal(err)
	}
	return &identityv1.PasskeyProof{
		ChallengeToken: c.GetChallengeToken(),
		Credential:     credentialOf(t, virtualwebauthn.CreateAssertionResponse(d.site, d.authenticator, d.credential, *options)),
	}
}

func optionsOf(t *testing.T, c *identityv1.PasskeyChallenge) string {
	t.Helper()
	text, err := protojson.Marshal(c.GetOptions())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func credentialOf(t *testing.T, text string) *structpb.Struct {
	t.Helper()
	m := &structpb.Struct{}
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func (f *fixture) passkeys() *passkeyAPI { return &passkeyAPI{service: f.Service} }

func (f *fixture) as(c authn.Caller) context.Context { return authn.WithCaller(f.t.Context(), c) }

// register gives a login a passkey on a device.
func (f *fixture) register(by authn.Caller, d *device) (*identityv1.FinishPasskeyRegistrationResponse, error) {
	f.t.Helper()
	begun, err := f.passkeys().BeginPasskeyRegistration(f.as(by), &identityv1.BeginPasskeyRegistrationRequest{Password: f.password})
	if err != nil {
		return nil, err
	}
	return f.passkeys().FinishPasskeyRegistration(f.as(by), &identityv1.FinishPasskeyRegistrationRequest{
		ChallengeToken: begun.GetChallenge().GetChallengeToken(), Credential: d.create(f.t.(*testing.T), begun.GetChallenge()), DisplayName: "Key ring",
	})
}

// adasDevice is a device on which Ada has a passkey.
func (f *fixture) adasDevice() (*device, *identityv1.FinishPasskeyRegistrationResponse) {
	f.t.Helper()
	d := newDevice(f.t.(*testing.T))
	done, err := f.register(f.caller(f.in(), authzv1.Reach_REACH_SELF), d)
	if err != nil {
		f.t.Fatal(err)
	}
	return d, done
}

// ask asks for any passkey.
func (f *fixture) askAny() *identityv1.PasskeyChallenge {
	f.t.Helper()
	begun, err := f.passkeys().BeginPasskeySignIn(f.t.Context(), &identityv1.BeginPasskeySignInRequest{})
	if err != nil {
		f.t.Fatal(err)
	}
	return begun.GetChallenge()
}

// by signs in with a passkey alone.
func (f *fixture) by(p *identityv1.PasskeyProof) (*identityv1.SignInResponse, error) {
	r, err := f.passkeys().SignInWithPasskey(authn.WithOrigin(f.t.Context(), f.home), &identityv1.SignInWithPasskeyRequest{Passkey: p})
	return r.GetSignIn(), err
}

// with signs in with the password, and what else the request says.
func (f *fixture) with(change func(*identityv1.SignInRequest)) (*identityv1.SignInResponse, error) {
	req := &identityv1.SignInRequest{AccountName: "works", LoginName: "ada", Password: f.password}
	if change != nil {
		change(req)
	}
	return (&api{service: f.Service}).SignIn(authn.WithOrigin(f.t.Context(), f.home), req)
}

func TestAPasskeyIsAWholeSignIn(t *testing.T) {
	f := start(t)
	d, done := f.adasDevice()
	if len(done.GetRecoveryCodes()) == 0 || done.GetPasskey().GetDisplayName() != "Key ring" || done.GetPasskey().GetRelyingParty() != "localhost" {
		t.Errorf("registered: %v", done)
	}
	challenge := f.askAny()
	if strings.Contains(optionsOf(t, challenge), "allowCredentials") {
		t.Errorf("a sign-in without a name names passkeys: %v", challenge)
	}
	f.restart() // another process, or the same one later
	r, err := f.by(d.get(t, challenge))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.checks(r.GetTokens().GetAccessToken()); err != nil || !r.GetSession().GetSecondFactor() || r.GetSession().GetLoginId() != f.ada.ID.String() {
		t.Errorf("%v, %v", r, err)
	}
	list, err := f.passkeys().ListPasskeys(f.as(authn.Caller{Account: f.ada.Account, Login: f.ada.ID, Reach: authzv1.Reach_REACH_SELF}), &identityv1.ListPasskeysRequest{})
	if err != nil || len(list.GetPasskeys()) != 1 || list.GetPasskeys()[0].GetLastUseTime() == nil {
		t.Errorf("listed: %v, %v", list, err)
	}
	if added := told[*identityv1.PasskeyAdded](f); len(added) != 1 || contract.ID(added[0].GetLoginId()) != f.ada.ID {
		t.Errorf("told: %v", added)
	}
}

func TestAPasskeyIsASecondFactor(t *testing.T) {
	f := start(t)
	d, done := f.adasDevice()
	d.authenticator.Options.UserNotVerified = true // a key without a PIN
	r, err := f.with(nil)
	if err != nil || r.GetOutcome() != identityv1.SignInOutcome_SIGN_IN_OUTCOME_SECOND_FACTOR_NEEDED || r.GetPasskeyChallenge() == nil || r.GetTakesTotp() || r.GetTokens() != nil {
		t.Fatalf("%v, %v", r, err)
	}
	proof := d.get(t, r.GetPasskeyChallenge())
	signed, err := f.with(func(req *identityv1.SignInRequest) { req.Passkey = proof })
	if err != nil || !signed.GetSession().GetSecondFactor() {
		t.Fatalf("%v, %v", signed, err)
	}
	if again, err := f.with(func(req *identityv1.SignInRequest) { req.Passkey = proof }); reason(err) != ReasonRefused {
		t.Errorf("the same answer again: %v, %v", again, err)
	}
	code := done.GetRecoveryCodes()[0]
	if r, err := f.with(func(req *identityv1.SignInRequest) { req.SecondFactor = code }); err != nil || !r.GetSession().GetSecondFactor() {
		t.Errorf("a recovery code: %v, %v", r, err)
	}
	if _, err := f.with(func(req *identityv1.SignInRequest) { req.SecondFactor = code }); reason(err) != ReasonRefused {
		t.Errorf("the same recovery code: %v", err)
	}
	if _, err := f.with(func(req *identityv1.SignInRequest) { req.SecondFactor = "000000" }); reason(err) != ReasonRefused {
		t.Errorf("a code of no authenticator program: %v", err)
	}
	if _, err := f.with(func(req *identityv1.SignInRequest) { req.SecondFactor, req.Passkey = code, proof }); !errs.Is(errs.Invalid, err) {
		t.Errorf("both: %v", err)
	}
	wrong := f.password + "!"
	if r, err := f.with(func(req *identityv1.SignInRequest) { req.Password = wrong }); reason(err) != ReasonRefused || r.GetPasskeyChallenge() != nil {
		t.Errorf("a wrong password is told of passkeys: %v, %v", r, err)
	}
}

// What an attacker may have got hold of, or can make, lets nobody in.
func TestForgedAnswersAreRefused(t *testing.T) {
	f := start(t)
	d, _ := f.adasDevice()
	challenge := f.askAny()
	good := d.get(t, challenge)
	if _, err := f.by(good); err != nil {
		t.Fatal(err)
	}
	other := newDevice(t)
	other.authenticator.Options.UserHandle = d.authenticator.Options.UserHandle
	bobs := newDevice(t)
	if _, err := f.register(f.inSession(f.bob), bobs); err != nil {
		t.Fatal(err)
	}
	with := func(change func(*device)) *identityv1.PasskeyProof {
		copied := *d
		change(&copied)
		return copied.get(t, f.askAny())
	}
	second, err := f.with(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, proof := range map[string]*identityv1.PasskeyProof{
		"replayed":              good,
		"challenge of another":  {ChallengeToken: f.askAny().GetChallengeToken(), Credential: d.get(t, f.askAny()).GetCredential()},
		"other origin":          with(func(d *device) { d.site.Origin = "http://localhost:8081" }),
		"other scheme":          with(func(d *device) { d.site.Origin = "https://localhost:8080" }),
		"evil origin":           with(func(d *device) { d.site.Origin = "https://localhost:8080.evil.example" }),
		"other relying party":   with(func(d *device) { d.site.ID = "evil.example" }),
		"unverified person":     with(func(d *device) { d.authenticator.Options.UserNotVerified = true }),
		"nobody there":          with(func(d *device) { d.authenticator.Options.UserNotPresent = true }),
		"a key that nobody has": other.get(t, f.askAny()),
		"another's id, own key": with(func(d *device) {
			d.credential = virtualwebauthn.Credential{ID: d.credential.ID, Key: other.credential.Key, Counter: 99}
		}),
		"own key for another's login": with(func(d *device) { d.credential = bobs.credential }),
		"another's login and account": with(func(d *device) { d.authenticator.Options.UserHandle = bobs.authenticator.Options.UserHandle }),
		"own account, another's login": with(func(d *device) {
			d.authenticator.Options.UserHandle = append(f.bob.Account[:len(f.bob.Account):len(f.bob.Account)], f.ada.ID[:]...)
		}),
		"no handle":              with(func(d *device) { d.authenticator.Options.UserHandle = nil }),
		"handle of another size": with(func(d *device) { d.authenticator.Options.UserHandle = []byte("ada") }),
		"nobody's account":       with(func(d *device) { n := nobody(); d.authenticator.Options.UserHandle = append(n[:], f.ada.ID[:]...) }),
		"backed up since":        with(func(d *device) { d.authenticator.Options.BackupEligible = true }),
	} {
		if r, err := f.by(proof); reason(err) != ReasonRefused {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	for name, proof := range map[string]*identityv1.PasskeyProof{
		"that of a second factor": d.get(t, second.GetPasskeyChallenge()),
		"forged":                  {ChallengeToken: "AAAA", Credential: good.GetCredential()},
		"torn":                    {ChallengeToken: challenge.GetChallengeToken()[:40], Credential: good.GetCredential()},
		"no base64":               {ChallengeToken: "?", Credential: good.GetCredential()},
	} {
		if r, err := f.by(proof); reason(err) != ReasonChallenge {
			t.Errorf("challenge %s: %v, %v", name, r, err)
		}
	}
	late := d.get(t, f.askAny())
	f.clock.advance(passkey.Life)
	if r, err := f.by(late); reason(err) != ReasonChallenge {
		t.Errorf("too late: %v, %v", r, err)
	}
	if events := told[*identityv1.PasskeySuspended](f); len(events) != 0 {
		t.Errorf("taken for a copy: %v", events)
	}
	if r, err := f.by(d.get(t, f.askAny())); err != nil {
		t.Errorf("the passkey itself afterwards: %v, %v", r, err)
	}
}

// As the second factor, a passkey is answered for by its login alone, for the sign-in that
// asked for it.
func TestASecondFactorIsBoundToItsSignIn(t *testing.T) {
	f := start(t)
	d, _ := f.adasDevice()
	bobs := newDevice(t)
	if _, err := f.register(f.inSession(f.bob), bobs); err != nil {
		t.Fatal(err)
	}
	bob := func(req *identityv1.SignInRequest) { req.AccountName, req.LoginName = "other", "bob" }
	challenge := func(change func(*identityv1.SignInRequest)) *identityv1.PasskeyChallenge {
		r, err := f.with(change)
		if err != nil || r.GetPasskeyChallenge() == nil {
			t.Fatalf("%v, %v", r, err)
		}
		return r.GetPasskeyChallenge()
	}
	for name, proof := range map[string]*identityv1.PasskeyProof{
		"another's passkey":                 bobs.get(t, challenge(nil)),
		"another's whole answer":            bobs.get(t, challenge(bob)),
		"own answer to another's challenge": d.get(t, challenge(bob)),
		"answer to another of its own":      {ChallengeToken: challenge(nil).GetChallengeToken(), Credential: d.get(t, challenge(nil)).GetCredential()},
	} {
		if r, err := f.with(func(req *identityv1.SignInRequest) { req.Passkey = proof }); reason(err) != ReasonRefused {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	if r, err := f.with(func(req *identityv1.SignInRequest) { req.Passkey = d.get(t, f.askAny()) }); reason(err) != ReasonChallenge {
		t.Errorf("a challenge of a sign-in without a password: %v, %v", r, err)
	}
}

// Of an authenticator and its copy, one is behind: neither comes in from then on.
func TestACopiedAuthenticatorIsFound(t *testing.T) {
	f := start(t)
	d, done := f.adasDevice()
	copied := *d
	for range 3 {
		if _, err := f.by(d.get(t, f.askAny())); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.by(copied.get(t, f.askAny())); reason(err) != ReasonRefused {
		t.Errorf("the copy: %v", err)
	}
	if _, err := f.by(d.get(t, f.askAny())); reason(err) != ReasonRefused {
		t.Errorf("the passkey that has a copy: %v", err)
	}
	if events := told[*identityv1.PasskeySuspended](f); len(events) != 1 {
		t.Errorf("told: %v", events)
	}
	for _, e := range f.events.All() {
		if e.Type == "cetrus.identity.credential.passkey_suspended.v1" && !strings.HasPrefix(e.Origin, f.ada.ID.String()+":") {
			t.Errorf("the alarm does not say where from: %+v", e)
		}
	}
	r, err := f.with(nil)
	if err != nil || r.GetOutcome() != identityv1.SignInOutcome_SIGN_IN_OUTCOME_SECOND_FACTOR_NEEDED || r.GetPasskeyChallenge() != nil {
		t.Errorf("beside the password: %v, %v", r, err)
	}
	in, err := f.with(func(req *identityv1.SignInRequest) { req.SecondFactor = done.GetRecoveryCodes()[0] })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.register(f.caller(result{started: started{session: in.GetSession()}}, authzv1.Reach_REACH_SELF), newDevice(t)); err != nil {
		t.Errorf("another one: %v", err)
	}
}

// One that several devices share does not count.
func TestASharedPasskeyDoesNotCount(t *testing.T) {
	f := start(t)
	d := newDevice(t)
	d.authenticator.Options.BackupEligible, d.authenticator.Options.BackupState = true, true
	done, err := f.register(f.caller(f.in(), authzv1.Reach_REACH_SELF), d)
	if err != nil || !done.GetPasskey().GetSynced() {
		t.Fatal(done, err)
	}
	for range 3 {
		answer := d.getAgain(t, f.askAny())
		if _, err := f.by(answer); err != nil {
			t.Error(err)
		}
		if _, err := f.by(answer); reason(err) != ReasonRefused {
			t.Errorf("the same answer again, which no counter tells: %v", err)
		}
	}
}

func TestAPasskeyMeetsThePolicy(t *testing.T) {
	f := start(t)
	admin := authn.Caller{Account: f.ada.Account, Login: contract.ID{0xad}, Actor: "admin", Reach: authzv1.Reach_REACH_ACCOUNT}
	policy := func(required bool) {
		t.Helper()
		if _, err := (&api{service: f.Service}).UpdateSignInPolicy(f.as(admin), &identityv1.UpdateSignInPolicyRequest{Policy: &identityv1.SignInPolicy{SecondFactorRequired: required}}); err != nil {
			t.Fatal(err)
		}
	}
	policy(true)
	r, err := f.with(nil)
	if err != nil || r.GetOutcome() != identityv1.SignInOutcome_SIGN_IN_OUTCOME_ENROLMENT_NEEDED || r.GetPasskeyChallenge() == nil || r.GetEnrolment() == nil {
		t.Fatalf("%v, %v", r, err)
	}
	d := newDevice(t)
	proof := &identityv1.PasskeyProof{ChallengeToken: r.GetPasskeyChallenge().GetChallengeToken(), Credential: d.create(t, r.GetPasskeyChallenge())}
	in, err := f.with(func(req *identityv1.SignInRequest) { req.Passkey = proof })
	if err != nil || !in.GetSession().GetSecondFactor() || len(in.GetRecoveryCodes()) == 0 {
		t.Fatalf("enrolled: %v, %v", in, err)
	}
	if added := told[*identityv1.PasskeyAdded](f); len(added) != 1 {
		t.Errorf("told: %v", added)
	}
	by := f.caller(result{started: started{session: in.GetSession()}}, authzv1.Reach_REACH_SELF)
	list, err := f.passkeys().ListPasskeys(f.as(by), &identityv1.ListPasskeysRequest{})
	if err != nil || len(list.GetPasskeys()) != 1 {
		t.Fatal(list, err)
	}
	id := list.GetPasskeys()[0].GetPasskeyId()
	remove := func(by authn.Caller, password string) error {
		_, err := f.passkeys().RemovePasskey(f.as(by), &identityv1.RemovePasskeyRequest{PasskeyId: id, Password: password})
		return err
	}
	if err := remove(by, f.password); reason(err) != ReasonLastFactor {
		t.Errorf("the last one: %v", err)
	}
	if _, err := (&api{service: f.Service}).RemoveSecondFactor(f.as(by), &identityv1.RemoveSecondFactorRequest{Password: f.password}); reason(err) != ReasonLastFactor {
		t.Errorf("all of them: %v", err)
	}
	policy(false)
	if err := remove(by, "wrong"); !errs.Is(errs.Invalid, err) {
		t.Errorf("without the password: %v", err)
	}
	if err := remove(authn.Caller{Account: f.bob.Account, Login: f.bob.ID, Reach: authzv1.Reach_REACH_ACCOUNT}, ""); !errs.Is(errs.NotFound, err) {
		t.Errorf("of another account: %v", err)
	}
	if err := remove(authn.Caller{Account: f.ada.Account, Login: contract.ID{0xcc}, Session: contract.ID{1}, Reach: authzv1.Reach_REACH_SELF}, f.password); !errs.Is(errs.NotFound, err) {
		t.Errorf("of another login: %v", err)
	}
	policy(true)
	if err := remove(admin, ""); err != nil {
		t.Errorf("by an administrator: %v", err)
	}
	if removed := told[*identityv1.PasskeyRemoved](f); len(removed) != 1 {
		t.Errorf("told: %v", removed)
	}
	if _, err := f.refresh(t.Context(), in.GetTokens().GetRefreshToken()); reason(err) != ReasonSession {
		t.Errorf("the session afterwards: %v", err)
	}
	if _, err := f.by(d.get(t, f.askAny())); reason(err) != ReasonRefused {
		t.Errorf("the passkey afterwards: %v", err)
	}
	if r, err := f.with(nil); err != nil || r.GetOutcome() != identityv1.SignInOutcome_SIGN_IN_OUTCOME_ENROLMENT_NEEDED {
		t.Errorf("signing in afterwards: %v, %v", r, err)
	}
}

func TestRegistrationsAreBoundToTheirSession(t *testing.T) {
	f := start(t)
	here, there := f.caller(f.in(), authzv1.Reach_REACH_SELF), f.caller(f.in(), authzv1.Reach_REACH_SELF)
	begin := func() *identityv1.PasskeyChallenge {
		begun, err := f.passkeys().BeginPasskeyRegistration(f.as(here), &identityv1.BeginPasskeyRegistrationRequest{Password: f.password})
		if err != nil {
			t.Fatal(err)
		}
		return begun.GetChallenge()
	}
	finish := func(by authn.Caller, c *identityv1.PasskeyChallenge, answer *structpb.Struct) error {
		_, err := f.passkeys().FinishPasskeyRegistration(f.as(by), &identityv1.FinishPasskeyRegistrationRequest{ChallengeToken: c.GetChallengeToken(), Credential: answer})
		return err
	}
	d := newDevice(t)
	c := begin()
	answer := d.create(t, c)
	if err := finish(there, c, answer); reason(err) != ReasonChallenge {
		t.Errorf("from another session: %v", err)
	}
	if err := finish(here, c, answer); err != nil {
		t.Fatal(err)
	}
	if err := finish(here, c, answer); reason(err) != ReasonChallenge {
		t.Errorf("twice: %v", err)
	}
	if c := begin(); !strings.Contains(optionsOf(t, c), base64.RawURLEncoding.EncodeToString(d.credential.ID)) {
		t.Errorf("the passkey that there is is not excluded: %v", c)
	}
	c = begin()
	if err := finish(here, c, d.create(t, c)); !errs.Is(errs.Precondition, err) {
		t.Errorf("the same passkey again: %v", err)
	}
	evil := newDevice(t)
	evil.site.Origin = "https://evil.example"
	c = begin()
	if err := finish(here, c, evil.create(t, c)); !errs.Is(errs.Invalid, err) {
		t.Errorf("from another site: %v", err)
	}
	if err := finish(here, begin(), credentialOf(t, `{"id":"x","a":{"b":[1,null,true]}}`)); !errs.Is(errs.Invalid, err) {
		t.Errorf("no passkey at all: %v", err)
	}
	if _, err := f.passkeys().BeginPasskeyRegistration(f.as(here), &identityv1.BeginPasskeyRegistrationRequest{Password: "wrong"}); !errs.Is(errs.Invalid, err) {
		t.Errorf("without the password: %v", err)
	}
	key := authn.Caller{Account: f.ada.Account, Login: f.ada.ID, Reach: authzv1.Reach_REACH_SELF}
	if _, err := f.passkeys().BeginPasskeyRegistration(f.as(key), &identityv1.BeginPasskeyRegistrationRequest{Password: f.password}); !errs.Is(errs.Denied, err) {
		t.Errorf("by a key: %v", err)
	}
}

func TestADisabledLoginsPasskeyLetsNobodyIn(t *testing.T) {
	f := start(t)
	d, _ := f.adasDevice()
	f.people.change(f.ada.ID, func(l *Login) { l.Disabled = true })
	if _, err := f.by(d.get(t, f.askAny())); reason(err) != ReasonRefused {
		t.Error(err)
	}
	f.people.mu.Lock()
	delete(f.people.logins, f.ada.ID)
	f.people.mu.Unlock()
	if _, err := f.by(d.get(t, f.askAny())); reason(err) != ReasonRefused {
		t.Error(err)
	}
}

// Strangers' passkeys count against the address that they come from, and against nobody's login.
func TestStrangersPasskeysWait(t *testing.T) {
	f := start(t)
	d, _ := f.adasDevice()
	stranger := newDevice(t)
	stranger.authenticator.Options.UserHandle = d.authenticator.Options.UserHandle
	var err error
	for range freeOfAddress + 1 {
		_, err = f.by(stranger.get(t, f.askAny()))
	}
	if reason(err) != ReasonThrottled {
		t.Errorf("after %d: %v", freeOfAddress+1, err)
	}
	home := f.home
	f.home = at("203.0.113.9")
	if _, err := f.by(d.get(t, f.askAny())); err != nil {
		t.Errorf("from elsewhere: %v", err)
	}
	f.home = home
	f.clock.advance(time.Hour)
	if _, err := f.by(d.get(t, f.askAny())); err != nil {
		t.Errorf("later: %v", err)
	}
}

func TestPasskeysAreRenamed(t *testing.T) {
	f := start(t)
	_, done := f.adasDevice()
	by := authn.Caller{Account: f.ada.Account, Login: f.ada.ID, Session: contract.ID{1}, Actor: f.ada.actor(), Reach: authzv1.Reach_REACH_SELF}
	rename := func(by authn.Caller, name string) (*identityv1.Passkey, error) {
		r, err := f.passkeys().UpdatePasskey(f.as(by), &identityv1.UpdatePasskeyRequest{Passkey: &identityv1.Passkey{PasskeyId: done.GetPasskey().GetPasskeyId(), DisplayName: name}})
		return r.GetPasskey(), err
	}
	for range 2 {
		if k, err := rename(by, "Blue one"); err != nil || k.GetDisplayName() != "Blue one" {
			t.Errorf("%v, %v", k, err)
		}
	}
	if events := told[*identityv1.PasskeyRenamed](f); len(events) != 1 {
		t.Errorf("told: %v", events)
	}
	if _, err := rename(by, "a\x00b"); !errs.Is(errs.Invalid, err) {
		t.Error(err)
	}
	by.Login = f.bob.ID
	if _, err := rename(by, "mine"); !errs.Is(errs.NotFound, err) {
		t.Error(err)
	}
}

// Whoever runs the platform hears at its start whether passkeys work, once its address is known.
func TestWhereThereArePasskeysIsSaid(t *testing.T) {
	f := start(t)
	for public, want := range map[string]string{
		"http://127.0.0.1:8080":     "level=INFO msg=\"passkeys can be used\" component=signin at=http://localhost:8080\n",
		"http://cetrus.example.com": "level=WARN msg=\"passkeys cannot be used at http://cetrus.example.com: browsers offer them over https only; set public-url to https://cetrus.example.com\" component=signin\n",
	} {
		var said bytes.Buffer
		asked := 0
		f.cfg.PublicURL = func() (string, error) {
			if asked++; asked < 3 {
				return "", errs.New(errs.Unavailable, "test", "", "no gateway yet")
			}
			return public, nil
		}
		f.restart()
		f.log = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})).With("component", "signin")
		f.sayWherePasskeysAre(t.Context(), time.Millisecond)
		if said.String() != want {
			t.Errorf("%s: %s", public, said.String())
		}
	}
}

// Where no browser would offer a passkey, that is said, and the rest works.
func TestWithoutASiteThereAreNoPasskeys(t *testing.T) {
	f := start(t)
	_, done := f.adasDevice()
	f.cfg.PublicURL = func() (string, error) { return "http://cetrus.example.com", nil }
	f.restart()
	if _, err := f.passkeys().BeginPasskeySignIn(t.Context(), &identityv1.BeginPasskeySignInRequest{}); reason(err) != ReasonPasskeys || !strings.Contains(err.Error(), "https") {
		t.Error(err)
	}
	r, err := f.with(nil)
	if err != nil || r.GetOutcome() != identityv1.SignInOutcome_SIGN_IN_OUTCOME_SECOND_FACTOR_NEEDED || r.GetPasskeyChallenge() != nil {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := f.with(func(req *identityv1.SignInRequest) { req.SecondFactor = done.GetRecoveryCodes()[0] }); err != nil {
		t.Errorf("a recovery code: %v", err)
	}
}
