package credential

import (
	"crypto/subtle"
	"encoding/base32"
	"net/url"
	"strings"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
)

const (
	// totpStep, and six digits of HMAC-SHA-1: what every authenticator program knows,
	// and some know nothing else (RFC 6238).
	totpStep = 30 * time.Second
	// totpSkew is how many steps a person's clock may be wrong, either way.
	totpSkew        = 1
	totpSecretBytes = 20
)

var totpText = base32.StdEncoding.WithPadding(base32.NoPadding)

// NewTOTPSecret draws the secret that a person's authenticator program shares.
func NewTOTPSecret() []byte { return random(totpSecretBytes) }

// TOTPURL is what an authenticator program reads off a QR code. account and login are
// what it shows.
func TOTPURL(secret []byte, account, login string) string {
	return "otpauth://totp/" + url.PathEscape("Cetrus:"+account+"/"+login) +
		"?secret=" + totpText.EncodeToString(secret) + "&issuer=Cetrus&algorithm=SHA1&digits=6&period=30"
}

// TOTPCode is the code of a moment: what the authenticator program shows.
func TOTPCode(secret []byte, at time.Time) (string, error) {
	return hotp.GenerateCode(totpText.EncodeToString(secret), stepOf(at))
}

func stepOf(at time.Time) uint64 { return uint64(max(0, at.Unix()) / int64(totpStep/time.Second)) }

// VerifyTOTP tells whether the code is right now, and for which step. A step up to used
// is refused: a code that somebody saw typed is good for nothing.
func VerifyTOTP(secret []byte, code string, now time.Time, used uint64) (step uint64, right bool) {
	code = strings.ReplaceAll(strings.TrimSpace(code), " ", "")
	if len(code) != otp.DigitsSix.Length() {
		return 0, false
	}
	middle := stepOf(now)
	for at := middle - min(middle, totpSkew); at <= middle+totpSkew; at++ {
		want, err := hotp.GenerateCode(totpText.EncodeToString(secret), at)
		if err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 && at > used {
			step, right = at, true
		}
	}
	return step, right
}

// ParseTOTPSecret reads a secret as TOTPURL writes it, for programs that stand in for a
// person's.
func ParseTOTPSecret(text string) ([]byte, error) { return totpText.DecodeString(text) }
