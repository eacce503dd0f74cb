package activity

import (
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"unicode/utf8"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// maxLabel is the greatest length of a label in bytes.
const maxLabel = 1024

// otherCategory is the category of a document whose name has no extension.
const otherCategory = "other"

// reduce cuts a document's name down to what policy lets out of memory: an id that
// reports can group by, and a label where there is one. ok is false where the id
// must be random, since nothing of the name may go into it.
func reduce(kind policyv1.DocumentReduction, key []byte, name string) (id contract.ID, label string, ok bool) {
	var kept string
	switch kind {
	case policyv1.DocumentReduction_DOCUMENT_REDUCTION_CATEGORY:
		kept = category(name)
		label = kept
	case policyv1.DocumentReduction_DOCUMENT_REDUCTION_HASH:
		kept = name
	case policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME:
		kept = fileName(name)
		label = kept
	case policyv1.DocumentReduction_DOCUMENT_REDUCTION_ALL:
		kept = name
		label = kept
	default:
		return contract.ID{}, "", false
	}
	mac := hmac.New(sha256.New, key)
	// The kind is hashed too, so that the category "plan" is not the file "plan".
	mac.Write([]byte{byte(kind)})
	mac.Write([]byte(kept))
	copy(id[:], mac.Sum(nil))
	return id, clip(label, maxLabel), true
}

func fileName(name string) string {
	if i := strings.LastIndexAny(name, `/\`); i >= 0 && i < len(name)-1 {
		return name[i+1:]
	}
	return name
}

// category is the extension, in lower case. A long one, or one that is not plain
// letters and digits, is part of a name and not let out.
func category(name string) string {
	base := fileName(name)
	i := strings.LastIndexByte(base, '.')
	if i < 0 || i == len(base)-1 || len(base)-i > 11 {
		return otherCategory
	}
	for _, r := range base[i+1:] {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') {
			return otherCategory
		}
	}
	return strings.ToLower(base[i:])
}

// clip shortens text to whole runes within n bytes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
