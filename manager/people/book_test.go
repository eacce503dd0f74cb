package people

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	keyringv1 "github.com/cetrus/cetrus/proto/cetrus/keyring/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

var silent = slog.New(slog.DiscardHandler)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openBook(t testing.TB, path string) *Book {
	t.Helper()
	b, err := Open(path, silent)
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func bind(t testing.TB, b *Book, agent byte, p *agentv1.Person) contract.ID {
	t.Helper()
	alias := newID()
	p.PrincipalAlias = alias[:]
	id, _, _, err := b.Bind(context.Background(), contract.ID{agent}, p)
	must(t, err)
	if got, ok := b.Principal(contract.ID{agent}, alias); !ok || got != id {
		t.Fatalf("the alias stands for %s, not %s", got, id)
	}
	return id
}

func TestThePersonIsFoundByTheSurestIdentifier(t *testing.T) {
	b := openBook(t, filepath.Join(t.TempDir(), "people"))
	person := func(sid, upn, domain, user string) *agentv1.Person {
		return &agentv1.Person{Sid: sid, UserPrincipalName: upn, Domain: domain, UserName: user}
	}
	anna := bind(t, b, 1, person("S-1-5-21-7", "anna@acme.test", "ACME", "anna"))
	for _, test := range []struct {
		name   string
		person *agentv1.Person
		same   bool
	}{
		{"same sid, another name", person("s-1-5-21-7", "", "ACME", "a.berg"), true},
		{"upn only, on another system", person("", "Anna@Acme.test", "", "anna"), true},
		{"domain and user only", person("", "", "acme", "ANNA"), true},
		{"another sid with her old name", person("S-1-5-21-8", "", "ACME", "anna"), false},
		{"the same name in another domain", person("", "", "desk-1", "anna"), false},
		{"the bare name", person("", "", "", "anna"), true}, // the bare name was told together with her upn above
	} {
		if got := bind(t, b, 2, test.person); (got == anna) != test.same {
			t.Errorf("%s: same person %v, wanted %v", test.name, got == anna, test.same)
		}
	}
}

func TestTheBookSurvivesAndHoldsNoIdentifier(t *testing.T) {
	path := filepath.Join(t.TempDir(), "people")
	b := openBook(t, path)
	p := &agentv1.Person{Sid: "S-1-5-21-7", UserPrincipalName: "anna@acme.test", Domain: "ACME", UserName: "anna", DisplayName: "Anna Berg"}
	anna := bind(t, b, 1, p)
	bindings := b.Bindings(contract.ID{1})
	sealed := b.PersonName(anna)
	must(t, b.Close())
	raw, err := os.ReadFile(path)
	must(t, err)
	for _, secret := range []string{"S-1-5", "acme", "ACME", "anna", "Anna"} {
		if strings.Contains(string(raw), secret) {
			t.Errorf("%q stands in the file", secret)
		}
	}
	b = openBook(t, path)
	if got := bind(t, b, 2, p); got != anna {
		t.Error("after opening again it is another person")
	}
	if again := b.Bindings(contract.ID{1}); len(again) != 1 || string(again[0]) != string(bindings[0]) {
		t.Error("the bindings are others")
	}
	if !proto.Equal(sealed, b.PersonName(anna)) {
		t.Error("the sealed name is another")
	}
	if text, err := b.Open(b.PersonName(anna)); err != nil || text != "Anna Berg" {
		t.Errorf("the name opens to %q, %v", text, err)
	}
}

func TestANameIsAnnouncedUntilTheLogHasIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "people")
	b := openBook(t, path)
	alias := newID()
	p := &agentv1.Person{PrincipalAlias: alias[:], UserName: "anna", DisplayName: "Anna"}
	bindOnce := func() (bool, func()) {
		_, name, named, err := b.Bind(context.Background(), contract.ID{1}, p)
		must(t, err)
		return name != nil, named
	}
	if fresh, _ := bindOnce(); !fresh {
		t.Fatal("a new name is not announced")
	}
	fresh, named := bindOnce()
	if !fresh {
		t.Fatal("a name that the log does not have is not announced again")
	}
	named()
	must(t, b.Close())
	b = openBook(t, path)
	if fresh, _ := bindOnce(); fresh {
		t.Error("a name that the log has is announced again")
	}
	p.DisplayName = "Anna Berg"
	if fresh, _ := bindOnce(); !fresh {
		t.Error("a changed name is not announced")
	}
}

func TestATornLineIsCutAndADamagedOneSkipped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "people")
	b := openBook(t, path)
	people := make([]contract.ID, 3)
	for i := range people {
		people[i] = bind(t, b, 1, &agentv1.Person{UserName: fmt.Sprintf("person %d", i)})
	}
	must(t, b.Close())
	raw, err := os.ReadFile(path)
	must(t, err)
	lines := strings.SplitAfter(string(raw), "\n")
	lines[2] = strings.Replace(lines[2], "principal", "principel", 1) // the second person
	must(t, os.WriteFile(path, []byte(strings.Join(lines, "")[:len(raw)-5]), 0o600))
	b = openBook(t, path)
	for i, want := range []bool{true, false, false} {
		if got := bind(t, b, 1, &agentv1.Person{UserName: fmt.Sprintf("person %d", i)}); (got == people[i]) != want {
			t.Errorf("person %d is known: %v", i, got == people[i])
		}
	}
	must(t, b.Close())
	openBook(t, path)
}

func TestSealedNamesOpenForTheirSubjectOnly(t *testing.T) {
	b := openBook(t, filepath.Join(t.TempDir(), "people"))
	anna, ben := bind(t, b, 1, &agentv1.Person{UserName: "anna"}), bind(t, b, 1, &agentv1.Person{UserName: "ben"})
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.String().Draw(rt, "text")
		document := contract.ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "document"))
		name, err := b.SealDocument(anna, document, text)
		must(t, err)
		if got, err := b.Open(name); err != nil || got != text {
			rt.Fatalf("%q opens to %q, %v", text, got, err)
		}
		moved := proto.CloneOf(name)
		moved.PrincipalId = ben[:]
		if _, err := b.Open(moved); err == nil {
			rt.Fatal("it opens for another principal")
		}
		person := &usagev1.SealedName{Subject: &usagev1.SealedName_Person{Person: true}, PrincipalId: anna[:], Sealed: name.GetSealed()}
		if _, err := b.Open(person); err == nil {
			rt.Fatal("it opens as the person's name")
		}
	})
	if _, err := b.SealDocument(contract.ID{7}, contract.ID{8}, "x"); !errors.Is(err, ErrUnknown) {
		t.Errorf("sealed for nobody: %v", err)
	}
}

func TestManyAtOnceGetOnePrincipalEach(t *testing.T) {
	b := openBook(t, filepath.Join(t.TempDir(), "people"))
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[string]contract.ID)
	for i := range 200 {
		wg.Go(func() {
			user := fmt.Sprintf("user %d", i%20)
			id := bind(t, b, byte(i), &agentv1.Person{UserName: user, DisplayName: user})
			mu.Lock()
			defer mu.Unlock()
			if before, ok := seen[user]; ok && before != id {
				t.Errorf("%s is %s and %s", user, before, id)
			}
			seen[user] = id
		})
	}
	wg.Wait()
	if n, _ := b.Count(); n != 20 {
		t.Errorf("%d principals", n)
	}
}

func TestKeysAreDepositedUntilAnsweredAndOnlyOnce(t *testing.T) {
	server, err := natsserver.NewServer(&natsserver.Options{DontListen: true, NoSigs: true, NoLog: true})
	must(t, err)
	server.Start()
	defer server.Shutdown()
	nc, err := nats.Connect("", nats.InProcessServer(server))
	must(t, err)
	defer nc.Close()
	path := filepath.Join(t.TempDir(), "people")
	b := openBook(t, path)
	anna := bind(t, b, 1, &agentv1.Person{UserName: "anna"})
	account, manager := contract.ID{1}, contract.ID{2}
	var mu sync.Mutex
	keys := make(map[string]int)
	answers := []string{"the database is away", ""}
	deposited := make(chan struct{}, 10)
	_, err = nc.Subscribe(contract.KeyringSubjects, func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		var request keyringv1.DepositRequest
		if proto.Unmarshal(m.Data, &request) != nil || m.Subject != contract.KeyringSubject(account, manager) {
			return
		}
		answer := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		for _, k := range request.GetKeys() {
			if len(k.GetKey()) == 32 {
				keys[string(k.GetPrincipalId())]++
			}
		}
		raw, _ := proto.Marshal(&keyringv1.DepositResponse{Error: answer})
		_ = m.Respond(raw)
		if answer == "" {
			deposited <- struct{}{}
		}
	})
	must(t, err)
	run := func() func() {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = b.Deposit(ctx, nc, account, manager) }()
		return func() { cancel(); <-ended }
	}
	settled := func() {
		t.Helper()
		<-deposited
		for deadline := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
			if _, open := b.Count(); open == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("the keys stay undeposited")
			}
		}
	}
	stop := run()
	settled()
	ben := bind(t, b, 1, &agentv1.Person{UserName: "ben"})
	settled()
	stop()
	must(t, b.Close())
	b = openBook(t, path)
	carl := bind(t, b, 1, &agentv1.Person{UserName: "carl"})
	stop = run()
	settled()
	stop()
	for id, want := range map[contract.ID]int{anna: 2, ben: 1, carl: 1} {
		if keys[string(id[:])] != want {
			t.Errorf("a key was handed over %d times, not %d", keys[string(id[:])], want)
		}
	}
}

func FuzzBook(f *testing.F) {
	path := filepath.Join(f.TempDir(), "people")
	b, err := Open(path, silent)
	must(f, err)
	bind(f, b, 1, &agentv1.Person{UserName: "anna"})
	must(f, b.Close())
	raw, err := os.ReadFile(path)
	must(f, err)
	f.Add(raw)
	f.Add(raw[:len(raw)/2])
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "people")
		must(t, os.WriteFile(path, raw, 0o600))
		b, err := Open(path, silent)
		must(t, err)
		bind(t, b, 1, &agentv1.Person{UserName: "anna"})
		must(t, b.Close())
	})
}

func TestAnAgentNamesABoundedNumberOfPeople(t *testing.T) {
	b := openBook(t, filepath.Join(t.TempDir(), "people"))
	agent := contract.ID{1}
	known := &agentv1.Person{UserName: "anna"}
	bind(t, b, 1, known)
	b.drawn[agent] = maxPerAgent
	alias := newID()
	stranger := &agentv1.Person{PrincipalAlias: alias[:], UserName: "bert"}
	if _, _, _, err := b.Bind(context.Background(), agent, stranger); !errors.Is(err, ErrTooMany) {
		t.Errorf("one person too many: %v", err)
	}
	if _, _, _, err := b.Bind(context.Background(), agent, known); err != nil {
		t.Errorf("a known person: %v", err)
	}
	bind(t, b, 2, stranger) // another agent may
	for len(b.bindings[agent]) < maxPerAgent {
		b.bindings[agent] = append(b.bindings[agent], nil)
	}
	if _, _, _, err := b.Bind(context.Background(), agent, &agentv1.Person{PrincipalAlias: stranger.GetPrincipalAlias(), UserName: "bert"}); !errors.Is(err, ErrTooMany) {
		t.Errorf("one alias too many: %v", err)
	}
	b.changes[agent] = maxChanges
	if _, _, _, err := b.Bind(context.Background(), agent, known); !errors.Is(err, ErrTooMany) {
		t.Errorf("one change too many: %v", err)
	}
}

func TestHowManyPeopleAnAgentToldOfSurvivesReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "people")
	b := openBook(t, path)
	bind(t, b, 1, &agentv1.Person{UserName: "anna"})
	bind(t, b, 1, &agentv1.Person{UserName: "bert"})
	bind(t, b, 2, &agentv1.Person{UserName: "bert"})
	must(t, b.Close())
	b = openBook(t, path)
	if b.drawn[contract.ID{1}] != 2 || b.drawn[contract.ID{2}] != 0 {
		t.Errorf("drawn: %v", b.drawn)
	}
}
