package credential

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// cheap makes hashes that take no time worth the name.
func cheap() Cost { return Cost{MemoryKiB: 8, Passes: 1, Lanes: 1} }

func TestTheRightPasswordAlone(t *testing.T) {
	h := NewHasher(cheap(), 2)
	rapid.Check(t, func(t *rapid.T) {
		password, other := rapid.String().Draw(t, "password"), rapid.String().Draw(t, "other")
		hash, err := h.Hash(context.Background(), password)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(hash, password) && len(password) > 5 {
			t.Fatalf("%q holds the password", hash)
		}
		if right, stale, err := h.Verify(context.Background(), hash, password); !right || stale || err != nil {
			t.Fatalf("the password itself: %v %v %v", right, stale, err)
		}
		if right, _, err := h.Verify(context.Background(), hash, other); right != (other == password) || err != nil {
			t.Fatalf("%q for %q: %v %v", other, password, right, err)
		}
	})
}

func TestNobodysPasswordIsNeverRight(t *testing.T) {
	h := NewHasher(cheap(), 1)
	for _, password := range []string{"", "password", h.decoy} {
		if right, stale, err := h.Verify(t.Context(), "", password); right || stale || err != nil {
			t.Errorf("%q: %v %v %v", password, right, stale, err)
		}
	}
}

// The work for somebody who is not there is the same by construction: the same
// function runs with the same cost.
func TestNobodysCostIsThatOfAHash(t *testing.T) {
	for _, cost := range []Cost{{}, cheap()} {
		h := NewHasher(cost, 1)
		got, salt, sum, err := decode(h.decoy)
		if err != nil || got != h.cost || len(salt) != saltBytes || len(sum) != hashBytes {
			t.Errorf("%+v: %+v %d %d %v", cost, got, len(salt), len(sum), err)
		}
	}
}

func TestAnotherCostIsStale(t *testing.T) {
	old := NewHasher(cheap(), 1)
	hash, err := old.Hash(t.Context(), "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	for name, cost := range map[string]Cost{"memory": {16, 1, 1}, "passes": {8, 2, 1}, "lanes": {8, 1, 2}} {
		now := NewHasher(cost, 1)
		if right, stale, err := now.Verify(t.Context(), hash, "correct horse battery"); !right || !stale || err != nil {
			t.Errorf("%s: %v %v %v", name, right, stale, err)
		}
		if _, stale, _ := now.Verify(t.Context(), hash, "wrong horse battery"); stale {
			t.Errorf("%s: a wrong password must not make the hash anew", name)
		}
	}
}

func TestHashesWaitForAPlace(t *testing.T) {
	h := NewHasher(cheap(), 1)
	h.slots <- struct{}{} // somebody hashes
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Hash(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("a second one at the same time: %v", err)
	}
	if _, _, err := h.Verify(ctx, "", "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("a second one at the same time: %v", err)
	}
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if _, err := h.Hash(t.Context(), "x"); err != nil {
			t.Error(err)
		}
	})
	<-h.slots
	waiting.Wait()
	if len(h.slots) != 0 {
		t.Error("a place was not given back")
	}
}

func TestWeakPasswords(t *testing.T) {
	for _, password := range []string{
		"", "short", "elevenchars", "passwordpassword", "Password1234", "PASSWORD123!", "123password123", "qwertyuiop123", "Superman2024!",
		"aaaaaaaaaaaaaaaa", "abababababab", "abcdefghijklmnop", "9876543210987", "ünïcödé", strings.Repeat("correct horse ", 20), "bad \xff utf-8 text", "ada.lovelace1", "lovelace2024", "steelworks-77", "Ada.Lovelace@example.com", "AnalyticalLtd",
	} {
		if Weakness(password, "ada.lovelace@example.com", "Steelworks Inc", "AnalyticalLtd") == "" {
			t.Errorf("%q is taken", password)
		}
	}
	for _, password := range []string{"correct horse battery", "tr0ub4dor&3xyz!", "lovelace met babbage at noon", "zwölf Boxkämpfer jagen", "пароль не простой", "k7#nQ2vLx9wB"} {
		if why := Weakness(password, "ada.lovelace@example.com", "Steelworks Inc"); why != "" {
			t.Errorf("%q is refused: %s", password, why)
		}
	}
	if n := len(common) / commonBytes; len(common)%commonBytes != 0 || n < 40_000 {
		t.Errorf("the list has %d entries", n)
	}
}

// RFC 6238, appendix B, cut to six digits.
func TestTOTPOfTheStandard(t *testing.T) {
	secret := []byte("12345678901234567890")
	for at, want := range map[int64]string{59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037"} {
		if got, err := TOTPCode(secret, time.Unix(at, 0)); err != nil || got != want {
			t.Errorf("%d: %s, %v", at, got, err)
		}
	}
}

func TestTOTPOnceAndNearNow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secret := NewTOTPSecret()
		now := time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "now"), 0)
		off := rapid.IntRange(-4, 4).Draw(t, "off")
		code, err := TOTPCode(secret, now.Add(time.Duration(off)*totpStep))
		if err != nil {
			t.Fatal(err)
		}
		step, right := VerifyTOTP(secret, code, now, 0)
		near := off >= -totpSkew && off <= totpSkew
		if near && now.Unix() > 300 && !right {
			t.Fatalf("off by %d steps is refused", off)
		}
		if right && !near {
			t.Skip("the codes of two steps may be the same by chance")
		}
		if right {
			if _, again := VerifyTOTP(secret, code, now, step); again {
				t.Fatal("the same code twice")
			}
		}
	})
	for _, code := range []string{"", "12345", "1234567", "abcdef", "12345\x00"} {
		if _, right := VerifyTOTP(NewTOTPSecret(), code, time.Now(), 0); right {
			t.Errorf("%q is right", code)
		}
	}
}

func TestTOTPURLKeepsNamesInTheirPlace(t *testing.T) {
	secret := NewTOTPSecret()
	u, err := url.Parse(TOTPURL(secret, "A&B/secret=x?y", "ada #1\r\n"))
	if err != nil || u.Scheme != "otpauth" || u.Host != "totp" || u.Query().Get("secret") != totpText.EncodeToString(secret) || len(u.Query()) != 5 || u.Fragment != "" || u.Path != "/Cetrus:A&B/secret=x?y/ada #1\r\n" {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestRecoveryCodes(t *testing.T) {
	codes := NewRecoveryCodes()
	seen := make(map[Hash]bool)
	for _, code := range codes {
		hash, ok := RecoveryHash(code)
		typed, alsoOK := RecoveryHash(" " + strings.ToUpper(strings.ReplaceAll(code, "-", " ")))
		if !ok || !alsoOK || hash != typed || len(code) != 19 {
			t.Errorf("%q: %v %v", code, ok, alsoOK)
		}
		seen[hash] = true
	}
	if len(seen) != RecoveryCodes {
		t.Errorf("%d different codes", len(seen))
	}
	for _, code := range []string{"", "abcd", codes[0] + "a", codes[0][1:], "0" + codes[0][1:], "ï" + codes[0][2:]} {
		if _, ok := RecoveryHash(code); ok {
			t.Errorf("%q is taken", code)
		}
	}
	if why := Weakness(NewOneTimePassword()); why != "" {
		t.Errorf("a password that we make is refused: %s", why)
	}
}

func TestSecrets(t *testing.T) {
	a, b := NewSecret(), NewSecret()
	if !HashOf(a).Matches(a) || HashOf(a).Matches(b) || HashOf(a).Matches(nil) || len(a) != secretBytes {
		t.Error("a secret matches its own hash alone")
	}
}

func FuzzStoredHash(f *testing.F) {
	h := NewHasher(cheap(), 1)
	f.Add(h.decoy)
	f.Add("$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=4294967295,t=1,p=1$$")
	f.Add(fmt.Sprintf("$argon2id$v=19$m=8,t=1,p=1 x$%s$%s", "AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAA"))
	f.Fuzz(func(t *testing.T, hash string) {
		cost, salt, sum, err := decode(hash)
		if err == nil && (encode(cost, salt, sum) != hash || cost.MemoryKiB > maxMemoryKiB || cost.Passes > maxPasses) {
			t.Errorf("%q: %+v", hash, cost)
		}
	})
}

func FuzzWhatPeopleType(f *testing.F) {
	f.Add("correct horse battery", "123456", "Ada")
	f.Add("\xff\x00", "\x00", "\xff")
	secret := NewTOTPSecret()
	f.Fuzz(func(_ *testing.T, password, code, name string) {
		_ = Weakness(password, name)
		_, _ = VerifyTOTP(secret, code, time.Unix(1, 0), 0)
		_, _ = RecoveryHash(code)
		_, _ = url.Parse(TOTPURL(secret, name, password))
	})
}

func BenchmarkHash(b *testing.B) {
	h := NewHasher(Cost{}, 1)
	for b.Loop() {
		if _, err := h.Hash(b.Context(), "correct horse battery"); err != nil {
			b.Fatal(err)
		}
	}
}
