package resource

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// A token leads back to its place, to the microsecond of the tables, and answers no other question.
func TestTokens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mark := Mark{At: time.UnixMicro(rapid.Int64Range(0, 1<<52).Draw(t, "at")), ID: NewID()}
		token := Token("logins", mark)
		if got, err := ReadToken("test", "logins", token); err != nil || !got.At.Equal(mark.At) || got.ID != mark.ID {
			t.Fatalf("%+v comes back as %+v, %v", mark, got, err)
		}
		if _, err := ReadToken("test", "groups", token); !errs.Is(errs.Invalid, err) {
			t.Fatalf("it answers another question: %v", err)
		}
	})
	if first, err := ReadToken("test", "logins", ""); err != nil || !first.ID.IsZero() {
		t.Errorf("the first page begins at %+v, %v", first, err)
	}
}

func FuzzReadToken(f *testing.F) {
	f.Add(Token("logins", Mark{At: time.UnixMicro(5), ID: contract.ID{1}}))
	f.Add("x")
	f.Fuzz(func(t *testing.T, token string) {
		mark, err := ReadToken("test", "logins", token)
		if err == nil && token != "" && Token("logins", mark) != token {
			// Base64 has spare bits at its end, which count for nothing.
			if again, err := ReadToken("test", "logins", Token("logins", mark)); err != nil || again != mark {
				t.Errorf("%q is read as %+v", token, mark)
			}
		}
	})
}
