package keyring

import (
	"errors"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/services/platform/errs"
)

// A text opens as what it was sealed as, and as nothing else.
func TestTextsHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key, principal, text := NewKey(), newID(), rapid.String().Draw(t, "text")
		sealed := SealText(key, principal, "name", text)
		if got, err := OpenText(key, principal, "name", sealed); err != nil || got != text {
			t.Fatalf("%q opens as %q, %v", text, got, err)
		}
		if text == "" {
			return
		}
		if _, err := OpenText(NewKey(), principal, "name", sealed); !errors.Is(err, ErrSealed) {
			t.Fatalf("with another key: %v", err)
		}
		if _, err := OpenText(key, newID(), "name", sealed); !errors.Is(err, ErrSealed) {
			t.Fatalf("of another principal: %v", err)
		}
		if _, err := OpenText(key, principal, "mail", sealed); !errors.Is(err, ErrSealed) {
			t.Fatalf("as another field: %v", err)
		}
	})
}

// Who asks first for a key draws it for all; of the forgotten there is none.
func TestKeysThatThePlatformDraws(t *testing.T) {
	k, _ := running(t)
	account, principal := newID(), newID()
	keys := make([]Key, 16)
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			var err error
			if keys[i], err = k.KeyOf(t.Context(), account, principal); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, key := range keys {
		if key != keys[0] {
			t.Fatal("two keys of one principal")
		}
	}
	texts := []Text{
		{Principal: principal, What: "name", Sealed: SealText(keys[0], principal, "name", "Ada")},
		{Principal: newID(), What: "name", Sealed: []byte("of nobody")},
		{Principal: principal, What: "mail"},
	}
	open := func() []string {
		t.Helper()
		got, err := k.OpenTexts(t.Context(), account, texts)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := open(); got[0] != "Ada" || got[1] != "" || got[2] != "" {
		t.Errorf("opened %q", got)
	}
	if err := k.Forget(t.Context(), account, principal); err != nil {
		t.Fatal(err)
	}
	if got := open(); got[0] != "" {
		t.Errorf("the forgotten opens as %q", got[0])
	}
	if _, err := k.KeyOf(t.Context(), account, principal); !errs.Is(errs.Precondition, err) {
		t.Errorf("a key of the forgotten: %v", err)
	}
}
