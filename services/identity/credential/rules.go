package credential

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // cuts a list short, protects nothing
	_ "embed"
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Lengths of passwords, in characters. There is no rule of upper case, digits and signs:
// NIST SP 800-63B, section 5.1.1.2, says why such rules make worse passwords.
const (
	MinPassword = 12
	MaxPassword = 256
)

// commonBytes is how many bytes of a hash common.bin keeps: of a password that is not
// in the list one in 25 million is taken for one that is.
const commonBytes = 5

//go:embed common.bin
var common []byte

// Weakness tells why a password is refused, to the person who chose it. names are words
// that others know of the person: names of the account and the login, an address. It is
// empty where the password may be used.
func Weakness(password string, names ...string) string {
	n := utf8.RuneCountInString(password)
	switch {
	case !utf8.ValidString(password):
		return "a password is text in UTF-8"
	case n < MinPassword:
		return fmt.Sprintf("it has %d characters: use %d or more; several words are easy to remember", n, MinPassword)
	case n > MaxPassword:
		return fmt.Sprintf("it has %d characters: %d is the most", n, MaxPassword)
	}
	folded := strings.ToLower(password)
	core := strings.TrimFunc(folded, func(r rune) bool { return !unicode.IsLetter(r) })
	switch {
	case isCommon(folded) || len(core) >= 4 && isCommon(core):
		return "it is one of those that are guessed first, or such a word with signs around it"
	case isMonotonous(folded):
		return "it is a few characters over and over, or in their order"
	}
	for _, name := range names {
		name = strings.ToLower(name)
		words := strings.FieldsFunc(name, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
		for _, word := range append(words, name) {
			if rest := strings.ReplaceAll(folded, word, ""); utf8.RuneCountInString(word) >= 4 && rest != folded && utf8.RuneCountInString(rest) < 8 {
				return "it is little more than a name of yours, which others know"
			}
		}
	}
	return ""
}

// isCommon tells whether the folded password is in the list.
func isCommon(folded string) bool {
	sum := CommonHash(folded)
	n := len(common) / commonBytes
	i := sort.Search(n, func(i int) bool { return bytes.Compare(common[i*commonBytes:(i+1)*commonBytes], sum) >= 0 })
	return i < n && bytes.Equal(common[i*commonBytes:(i+1)*commonBytes], sum)
}

// CommonHash is what common.bin keeps of a password in lower case.
func CommonHash(folded string) []byte {
	sum := sha1.Sum([]byte(folded)) //nolint:gosec // cuts a list short, protects nothing
	return slices.Clone(sum[:commonBytes])
}

// isMonotonous tells whether most characters follow from the one before: the same, or
// the next one up or down; or whether there are fewer than five different ones.
func isMonotonous(folded string) bool {
	runes := []rune(folded)
	different := make(map[rune]bool)
	follows := 0
	for i, r := range runes {
		different[r] = true
		if i > 0 && r-runes[i-1] >= -1 && r-runes[i-1] <= 1 {
			follows++
		}
	}
	return len(different) < 5 || follows*4 >= len(runes)*3
}
