package bench

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity"
	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/identity/signin"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/rpc"
	"github.com/cetrus/cetrus/tools/figure"
)

// tokenCheck judges an access token as each call does, one that the process has seen and one
// that it has not. The limit is the signature alone, which is what any judge costs that remembers
// nothing.
func tokenCheck(ctx context.Context, r *run) error {
	dir, err := r.folder("account")
	if err != nil {
		return err
	}
	now := time.Now()
	keys, _, err := authn.Bootstrap(dir, now)
	if err != nil {
		return err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	issuer := authn.Issuer(keys.Account())
	signer, err := authn.NewSigner(issuer, private)
	if err != nil {
		return err
	}
	tokens := authn.NewTokens(issuer, time.Now)
	directory := authn.NewDirectory(tokens, time.Now)
	directory.SigningKeyPublished(public)
	login := contract.ID{1}
	directory.LoginPrivileges(keys.Account(), login, authn.AllPrivileges())
	directory.Level()
	directory.Hears(true)
	token, err := signer.Sign(authn.AccessToken{Account: keys.Account(), Login: login, Session: contract.ID{2}, Issued: now.Truncate(time.Second), Privileges: authn.AllPrivileges()})
	if err != nil {
		return err
	}
	auth := &authn.Authenticator{Keys: keys, Directory: directory}
	set := authn.NewKeySet(public)
	signed := token[:strings.LastIndexByte(token, '.')]
	signature := ed25519.Sign(private, []byte(signed))

	judge := func() error { _, err := auth.Authenticate(ctx, token); return err }
	each := map[string]func() error{
		"seen": judge,
		"first": func() error {
			tokens.SetKeys(set) // forgets what was seen
			return judge()
		},
		"signature": func() error {
			if !ed25519.Verify(public, []byte(signed), signature) {
				return errors.New("bench: a signature that was just made does not verify")
			}
			return nil
		},
	}
	times := sized(r, 200, 5000)
	took := map[string][]float64{} // microseconds
	for range 5 * r.rounds() {
		for name, work := range each {
			n := times
			if name == "seen" {
				n *= 50
			}
			if err := work(); err != nil {
				return err
			}
			began := time.Now()
			for range n {
				if err := work(); err != nil {
					return err
				}
			}
			took[name] = append(took[name], float64(time.Since(began).Nanoseconds())/1000/float64(n))
		}
	}
	micros := func(name string) float64 { return median(took[name]) }
	return r.emit(figure.Line{
		Name: "token_check", Value: micros("seen"), Unit: "µs", Limit: micros("signature"),
		More: map[string]any{"first_sight_us": micros("first"), "signature_us": micros("signature"), "first_sight_over_signature": micros("first") / micros("signature")},
	})
}

// oneLogin is a directory of one person; what signing in does not ask of one is not there.
type oneLogin struct {
	signin.Directory
	login signin.Login
}

func (d oneLogin) FoldName(name string) string { return strings.ToLower(name) }
func (d oneLogin) FindLogin(_ context.Context, account, login string) (signin.Login, bool, error) {
	return d.login, account == d.login.AccountName && login == d.login.Name, nil
}

func (d oneLogin) Login(_ context.Context, account, login contract.ID) (signin.Login, bool, error) {
	return d.login, account == d.login.Account && login == d.login.ID, nil
}

// signingIn signs a person in over gRPC, again and again, on tables and a log that are synced.
// The limit is one hash of the password; the ratio is its share of the whole.
func signingIn(ctx context.Context, r *run) (err error) {
	folder, err := r.folder("signin")
	if err != nil {
		return err
	}
	var closers []func() error
	defer func() {
		for _, closing := range slices.Backward(closers) {
			err = errors.Join(err, closing())
		}
	}()
	d, err := r.newDatabase(ctx)
	if err != nil {
		return err
	}
	closers = append(closers, func() error { return d.close(ctx) })
	cfg := identity.SecretsConfig()
	cfg.URL, cfg.Logger = d.server.URL(), r.log
	secrets, err := postgres.Open(ctx, cfg)
	if err != nil {
		return err
	}
	closers = append(closers, func() error { secrets.Close(); return nil })
	server, err := natsserver.Start(ctx, natsserver.Config{StoreDir: filepath.Join(folder, "nats"), Logger: r.log})
	if err != nil {
		return err
	}
	closers = append(closers, func() error { server.Stop(); return nil })
	nc, err := server.Connect(natsserver.User{})
	if err != nil {
		return err
	}
	closers = append(closers, func() error { nc.Close(); return nil })
	if err := natsserver.EnsureStreams(ctx, nc, natsserver.Streams{}); err != nil {
		return err
	}
	keys, _, err := authn.Bootstrap(folder, time.Now())
	if err != nil {
		return err
	}
	ada := signin.Login{Account: keys.Account(), ID: contract.ID{1}, AccountName: "works", Name: "ada"}
	people, err := signin.New(ctx, signin.Config{Operator: keys.Account(), KeyFile: filepath.Join(folder, "sign-in-key")},
		signin.Deps{Log: eventlog.NewJetStream(nc, contract.EventStream), Secrets: secrets, Directory: oneLogin{login: ada}, Logger: r.log})
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	closers = append(closers, func() error { stop(); done.Wait(); return nil })
	done.Go(func() { _ = people.Run(serving) })
	rpcs, err := rpc.New(rpc.Config{}, rpc.Deps{Authenticator: keys, Logger: r.log, Services: []rpc.Service{people}})
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	done.Go(func() { _ = rpcs.Serve(serving, listener) })
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	closers = append(closers, conn.Close)
	api := identityv1.NewSignInServiceClient(conn)

	first, err := people.SetOneTimePassword(ctx, "bench", ada.Account, ada.ID)
	if err != nil {
		return err
	}
	const chosen = "correct horse battery staple"
	request := &identityv1.SignInRequest{AccountName: "works", LoginName: "ada", Password: first, NewPassword: chosen}
	if _, err := api.SignIn(ctx, request); err != nil {
		return err
	}
	request.Password, request.NewPassword = chosen, ""
	hasher := credential.NewHasher(credential.Cost{}, 1)
	var whole, hash []time.Duration
	for range sized(r, 5, 50) * r.rounds() {
		began := time.Now()
		answer, err := api.SignIn(ctx, request)
		if err != nil {
			return err
		}
		if answer.GetOutcome() != identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN {
			return fmt.Errorf("bench: signing in ended in %s", answer.GetOutcome())
		}
		whole = append(whole, time.Since(began))
		began = time.Now()
		if _, err := hasher.Hash(ctx, chosen); err != nil {
			return err
		}
		hash = append(hash, time.Since(began))
	}
	return r.emit(figure.Line{
		Name: "signin", Value: at(0.5, whole), Unit: "ms", Limit: at(0.5, hash), Ratio: at(0.5, hash) / at(0.5, whole),
		More: map[string]any{"p99_ms": at(0.99, whole), "beside_the_hash_ms": at(0.5, whole) - at(0.5, hash)},
	})
}

// rls asks the same summaries with and without row-level security, in turns. The ratio is the
// median of all questions' own.
func rls(ctx context.Context, r *run) error {
	c, err := r.newCompany(ctx)
	if err != nil {
		return err
	}
	return errors.Join(c.walls(ctx), c.close())
}

func (c *employer) walls(ctx context.Context) error {
	if err := c.hire(ctx, sized(c.r, 5, 200)); err != nil {
		return err
	}
	call := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.key)
	var questions []*meteringv1.SummarizeUsageRequest
	for range sized(c.r, 10, 100) {
		questions = append(questions, c.question())
	}
	set := func(verb string) error {
		return c.database.admin(ctx, c.stores, `DO $$ DECLARE t regclass; BEGIN
			FOR t IN SELECT k.oid::regclass FROM pg_class k WHERE k.relnamespace = '`+c.stores.Views.Schema+`'::regnamespace AND k.relkind = 'r' AND k.relname NOT LIKE 'goose%'
			LOOP EXECUTE format('ALTER TABLE %s `+verb+` ROW LEVEL SECURITY', t); END LOOP; END $$`)
	}
	const walled, bare = "ENABLE", "DISABLE"
	took := map[string][]time.Duration{}
	ask := func(verb string) error {
		if err := set(verb); err != nil {
			return err
		}
		for range 2 { // the first time plans are made anew, in each connection
			took[verb+" last"] = nil
			for _, q := range questions {
				began := time.Now()
				if _, err := c.api.SummarizeUsage(call, q); err != nil {
					return err
				}
				took[verb+" last"] = append(took[verb+" last"], time.Since(began))
			}
		}
		return nil
	}
	if err := ask(walled); err != nil { // pages come into memory
		return err
	}
	var ratios []float64 // of each question, asked both ways within a round
	for round := range 3 * c.r.rounds() {
		order := []string{walled, bare}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, verb := range order {
			if err := ask(verb); err != nil {
				return err
			}
			took[verb] = append(took[verb], took[verb+" last"]...)
		}
		for n := range questions {
			ratios = append(ratios, took[walled+" last"][n].Seconds()/took[bare+" last"][n].Seconds())
		}
	}
	return c.r.emit(figure.Line{
		Name: "rls", Value: at(0.5, took[walled]), Unit: "ms", Limit: at(0.5, took[bare]), Ratio: median(ratios),
		More: map[string]any{"p99_ms": at(0.99, took[walled]), "bare_p99_ms": at(0.99, took[bare]), "people": c.people},
	})
}
