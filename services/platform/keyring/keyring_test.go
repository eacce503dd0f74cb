package keyring

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	keyringv1 "github.com/cetrus/cetrus/proto/cetrus/keyring/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/platformtest"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

func newID() (id contract.ID) {
	rand.Read(id[:])
	return id
}

func person(principal contract.ID) *usagev1.SealedName {
	return &usagev1.SealedName{PrincipalId: principal[:], Subject: &usagev1.SealedName_Person{Person: true}}
}

func document(principal, id contract.ID) *usagev1.SealedName {
	return &usagev1.SealedName{PrincipalId: principal[:], Subject: &usagev1.SealedName_DocumentId{DocumentId: id[:]}}
}

// running is a keyring that takes deposits, and a connection to make them on.
func running(t *testing.T) (*Keyring, *nats.Conn) {
	t.Helper()
	store := platformtest.Store(t, StoreConfig())
	nc := platformtest.NATS(t)
	k, err := New(t.Context(), Config{KeyFile: filepath.Join(t.TempDir(), "keyring.key")}, Deps{NATS: nc, Store: store, Logger: platformtest.Logger(nil)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := k.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); ended.Wait() })
	return k, nc
}

// deposit asks as a Manager does, and again while nobody listens yet.
func deposit(t *testing.T, nc *nats.Conn, account, manager contract.ID, keys map[contract.ID]Key) string {
	t.Helper()
	request := &keyringv1.DepositRequest{AccountId: account[:], ManagerId: manager[:]}
	for principal, key := range keys {
		request.Keys = append(request.Keys, &keyringv1.PrincipalKey{PrincipalId: bytes.Clone(principal[:]), Key: bytes.Clone(key[:])})
	}
	return ask(t, nc, contract.KeyringSubject(account, manager), request)
}

func ask(t *testing.T, nc *nats.Conn, subject string, request *keyringv1.DepositRequest) string {
	t.Helper()
	data, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		answer, err := nc.Request(subject, data, 10*time.Second)
		if errors.Is(err, nats.ErrNoResponders) && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var response keyringv1.DepositResponse
		if err := proto.Unmarshal(answer.Data, &response); err != nil {
			t.Fatal(err)
		}
		return response.GetError()
	}
}

func opened(t *testing.T, k *Keyring, account contract.ID, names ...*usagev1.SealedName) string {
	t.Helper()
	texts, err := k.OpenNames(t.Context(), account, names)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(texts, "|")
}

func TestDepositOpenForget(t *testing.T) {
	k, nc := running(t)
	account, manager := newID(), newID()
	ada, bob, unknown := newID(), newID(), newID()
	keys := map[contract.ID]Key{ada: NewKey(), bob: NewKey()}
	if text := deposit(t, nc, account, manager, keys); text != "" {
		t.Fatal(text)
	}
	if text := deposit(t, nc, account, manager, keys); text != "" {
		t.Fatalf("the same deposit again: %s", text)
	}
	names := []*usagev1.SealedName{person(ada), document(ada, newID()), person(bob), person(unknown)}
	for i, text := range []string{"Ada Lovelace", "Ünïcode plan.dwg", "Bob"} {
		key := keys[contract.ID(names[i].GetPrincipalId())]
		if err := Seal(key, names[i], text); err != nil {
			t.Fatal(err)
		}
	}
	names[3].Sealed = names[0].GetSealed()
	if got := opened(t, k, account, names...); got != "Ada Lovelace|Ünïcode plan.dwg|Bob|" {
		t.Errorf("opened %q", got)
	}
	if got := opened(t, k, newID(), names[0]); got != "" {
		t.Errorf("another account reads %q", got)
	}
	if err := k.Forget(t.Context(), account, ada); err != nil {
		t.Fatal(err)
	}
	if got := opened(t, k, account, names...); got != "||Bob|" {
		t.Errorf("after forgetting: %q", got)
	}
	if text := deposit(t, nc, account, manager, keys); text != "" {
		t.Errorf("a deposit for the forgotten: %s", text)
	}
	if err := k.Forget(t.Context(), account, ada); err != nil {
		t.Errorf("forgotten twice: %v", err)
	}
	if err := k.Forget(t.Context(), account, unknown); err != nil {
		t.Errorf("forgotten before it was known: %v", err)
	}
	if text := deposit(t, nc, account, manager, map[contract.ID]Key{unknown: keys[ada]}); text != "" {
		t.Error(text)
	}
	if got := opened(t, k, account, names...); got != "||Bob|" {
		t.Errorf("the forgotten came back: %q", got)
	}
}

func TestAnotherKeyIsRefusedAndTheOthersStand(t *testing.T) {
	k, nc := running(t)
	account, manager := newID(), newID()
	ada, bob := newID(), newID()
	first := NewKey()
	if text := deposit(t, nc, account, manager, map[contract.ID]Key{ada: first}); text != "" {
		t.Fatal(text)
	}
	text := deposit(t, nc, account, newID(), map[contract.ID]Key{ada: NewKey(), bob: first})
	if !strings.Contains(text, ada.String()) || strings.Contains(text, bob.String()) {
		t.Errorf("answer %q", text)
	}
	a, b := person(ada), person(bob)
	if err := errors.Join(Seal(first, a, "Ada"), Seal(first, b, "Bob")); err != nil {
		t.Fatal(err)
	}
	if got := opened(t, k, account, a, b); got != "Ada|Bob" {
		t.Errorf("opened %q", got)
	}
}

func TestForeignDepositsAreRefused(t *testing.T) {
	_, nc := running(t)
	account, manager := newID(), newID()
	good := func() *keyringv1.DepositRequest {
		p, key := newID(), NewKey()
		return &keyringv1.DepositRequest{AccountId: account[:], ManagerId: manager[:], Keys: []*keyringv1.PrincipalKey{{PrincipalId: p[:], Key: key[:]}}}
	}
	subject := contract.KeyringSubject(account, manager)
	other := newID()
	for name, c := range map[string]struct {
		subject string
		change  func(*keyringv1.DepositRequest)
		want    string
	}{
		"account":   {subject, func(r *keyringv1.DepositRequest) { r.AccountId = other[:] }, contract.ReasonForeignAccount},
		"manager":   {subject, func(r *keyringv1.DepositRequest) { r.ManagerId = other[:] }, contract.ReasonForeignManager},
		"partition": {fmt.Sprintf("keyring.%d.%s.%s", contract.Partition(account)+1, account, manager), func(*keyringv1.DepositRequest) {}, "its account"},
		"short key": {subject, func(r *keyringv1.DepositRequest) { r.Keys[0].Key = r.GetKeys()[0].GetKey()[1:] }, "31 bytes"},
		"no key":    {subject, func(r *keyringv1.DepositRequest) { r.Keys = nil }, "0 keys"},
		"two keys": {subject, func(r *keyringv1.DepositRequest) {
			r.Keys = append(r.Keys, &keyringv1.PrincipalKey{PrincipalId: r.GetKeys()[0].GetPrincipalId(), Key: make([]byte, 32)})
		}, "two keys"},
		"no principal": {subject, func(r *keyringv1.DepositRequest) { r.Keys[0].PrincipalId = make([]byte, 16) }, "no id"},
	} {
		request := good()
		c.change(request)
		if text := ask(t, nc, c.subject, request); !strings.Contains(text, c.want) {
			t.Errorf("%s: %q, want %q", name, text, c.want)
		}
	}
	if text := ask(t, nc, subject, good()); text != "" {
		t.Errorf("a good deposit: %s", text)
	}
}

// TestKeysLieWrapped looks for a key in the row as it is stored.
func TestKeysLieWrapped(t *testing.T) {
	k, nc := running(t)
	account, manager, ada := newID(), newID(), newID()
	key := NewKey()
	if text := deposit(t, nc, account, manager, map[contract.ID]Key{ada: key}); text != "" {
		t.Fatal(text)
	}
	var row string
	if err := k.deps.Store.Projector.QueryRow(t.Context(), "SELECT principal_key::text FROM principal_key").Scan(&row); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(row, fmt.Sprintf("%x", key[:8])) {
		t.Error("the key lies open in the database")
	}
	// A key that was moved to another row must not open there.
	bob := newID()
	if text := deposit(t, nc, account, manager, map[contract.ID]Key{bob: NewKey()}); text != "" {
		t.Fatal(text)
	}
	_, err := k.deps.Store.Projector.Exec(t.Context(), `UPDATE principal_key SET wrapped =
		(SELECT wrapped FROM principal_key WHERE principal_id = $1) WHERE principal_id = $2`, [16]byte(ada), [16]byte(bob))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.OpenNames(t.Context(), account, []*usagev1.SealedName{person(bob)}); !errors.Is(err, ErrSealed) {
		t.Errorf("a moved key: %v", err)
	}
	if err := k.deps.Store.CheckWalls(t.Context()); err != nil {
		t.Error(err)
	}
	err = k.deps.Store.InAccount(t.Context(), newID(), func(tx pgx.Tx) error {
		var n int
		if err := tx.QueryRow(t.Context(), "SELECT count(*) FROM principal_key").Scan(&n); err != nil || n != 0 {
			t.Errorf("another account sees %d rows, %v", n, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestKeyFile(t *testing.T) {
	k, nc := running(t)
	account, manager := newID(), newID()
	if text := deposit(t, nc, account, manager, map[contract.ID]Key{newID(): NewKey()}); text != "" {
		t.Fatal(text)
	}
	open := func(path string) error {
		_, err := New(t.Context(), Config{KeyFile: path}, Deps{Store: k.deps.Store, Logger: platformtest.Logger(t)})
		return err
	}
	lost := filepath.Join(t.TempDir(), "lost.key")
	if err := open(lost); err == nil || !strings.Contains(err.Error(), "restore that file") {
		t.Errorf("the file is lost: %v", err)
	}
	if _, err := os.Stat(lost); !os.IsNotExist(err) {
		t.Errorf("a useless key was left: %v", err)
	}
	path := filepath.Join(t.TempDir(), "new", "a.key")
	if err := makeKeyFile(t.Context(), path, InClear{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	made, err := readKeyFile(path, false)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := makeKeyFile(t.Context(), path, InClear{}, time.Now()); err != nil {
		t.Errorf("made again: %v", err)
	}
	if again, err := readKeyFile(path, false); err != nil || len(again) != 1 || again[0] != made[0] {
		t.Errorf("read back: %v, %v", again, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := readKeyFile(path, false); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("others may read it: %v", err)
	}
	for _, content := range []string{"", "secret", keyFileHead + "\nAAAA\n", keyFileHead + "\n!\n", keysFileHead, keysFileHead + "\nclear AAAA\n"} {
		damaged := filepath.Join(t.TempDir(), "damaged.key")
		if err := os.WriteFile(damaged, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readKeyFile(damaged, false); err == nil || !strings.Contains(err.Error(), "restore it") {
			t.Errorf("content %q: %v", content, err)
		}
	}
}

// TestSealHolds changes one thing at a time: nothing but the name as it was
// sealed may open.
func TestSealHolds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.String().Draw(rt, "name")
		id := rapid.Custom(func(rt *rapid.T) contract.ID {
			return contract.ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "id"))
		})
		principal, doc, key := id.Draw(rt, "principal"), id.Draw(rt, "document"), NewKey()
		name := document(principal, doc)
		if rapid.Bool().Draw(rt, "person") {
			name = person(principal)
		}
		if err := Seal(key, name, text); err != nil {
			rt.Fatal(err)
		}
		if got, err := Open(key, name); err != nil || got != text {
			rt.Fatalf("opened %q, %v; sealed %q", got, err, text)
		}
		changed := proto.CloneOf(name)
		switch rapid.IntRange(0, 4).Draw(rt, "change") {
		case 0:
			key[rapid.IntRange(0, 31).Draw(rt, "at")] ^= 1
		case 1:
			changed.PrincipalId[rapid.IntRange(0, 15).Draw(rt, "at")] ^= 1
		case 2:
			changed.Sealed[rapid.IntRange(0, len(changed.GetSealed())-1).Draw(rt, "at")] ^= 1
		case 3:
			changed.Sealed = changed.GetSealed()[:rapid.IntRange(0, len(changed.GetSealed())-1).Draw(rt, "length")]
		case 4:
			if changed.GetPerson() {
				changed.Subject = document(principal, doc).GetSubject()
			} else {
				changed.Subject = person(principal).GetSubject()
			}
		}
		if got, err := Open(key, changed); !errors.Is(err, ErrSealed) {
			rt.Fatalf("opened %q, %v", got, err)
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	c, now := newCache(3), time.Unix(1, 0)
	account := newID()
	for range 10 {
		c.put(cacheKey{account, newID()}, NewKey(), now, 0)
		if len(c.entries) > 3 {
			t.Fatalf("%d entries", len(c.entries))
		}
	}
	id := cacheKey{account, newID()}
	c.put(id, NewKey(), now, 0)
	if _, ok := c.get(id, now); !ok {
		t.Error("the newest is gone")
	}
	if _, ok := c.get(id, now.Add(cacheFor)); ok {
		t.Error("a key outlives its time")
	}
	before := c.begin()
	c.remove(id)
	c.put(id, NewKey(), now, before)
	if _, ok := c.get(id, now); ok {
		t.Error("a key that was read before it was destroyed came back")
	}
}

func FuzzParseDeposit(f *testing.F) {
	account, manager := contract.ID{1}, contract.ID{2}
	data, err := proto.Marshal(&keyringv1.DepositRequest{AccountId: account[:], ManagerId: manager[:], Keys: []*keyringv1.PrincipalKey{{
		PrincipalId: bytes.Repeat([]byte{3}, 16), Key: bytes.Repeat([]byte{4}, 32),
	}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(contract.KeyringSubject(account, manager), data)
	f.Add("keyring.1.2", []byte{})
	f.Add(contract.KeyringSubject(account, manager), []byte{0xff})
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		account, manager, entries, err := parseDeposit(subject, data)
		if err == nil && (contract.KeyringSubject(account, manager) != subject || len(entries) == 0 || len(entries) > maxDeposit) {
			t.Errorf("accepted %q with %d keys", subject, len(entries))
		}
	})
}

// A Manager is told what it can do something about; what is wrong in here is for the
// platform's log.
func TestRepliesTellTheKindAndNoInsides(t *testing.T) {
	k, nc := running(t)
	account, manager, principal := newID(), newID(), newID()
	keys := map[contract.ID]Key{principal: NewKey()}
	if text := deposit(t, nc, account, manager, keys); text != "" {
		t.Fatal(text)
	}
	if text := deposit(t, nc, account, manager, map[contract.ID]Key{principal: NewKey()}); !strings.HasPrefix(text, "CONFLICT: ") || !strings.Contains(text, principal.String()) {
		t.Errorf("another key: %q", text)
	}
	if text := ask(t, nc, contract.KeyringSubject(account, manager), &keyringv1.DepositRequest{AccountId: account[:], ManagerId: manager[:]}); !strings.HasPrefix(text, "INVALID: 0 keys") {
		t.Errorf("no keys: %q", text)
	}
	if _, err := k.deps.Store.Projector.Exec(t.Context(), "UPDATE principal_key SET wrapped = 'damaged'"); err != nil {
		t.Fatal(err)
	}
	if text := deposit(t, nc, account, manager, keys); !strings.HasPrefix(text, "INTERNAL: ") || strings.Contains(text, "damaged") || strings.Contains(text, principal.String()) {
		t.Errorf("a damaged key: %q", text)
	}
	k.deps.Store.Projector.Close()
	if text := deposit(t, nc, account, manager, keys); strings.Contains(text, "pool") || text == "" {
		t.Errorf("no database: %q", text)
	}
}
