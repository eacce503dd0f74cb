package scim

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/cetrus/cetrus/services/platform/errs"
)

// failure is an error as SCIM has it (RFC 7644 §3.12).
type failure struct {
	status         int
	scimType, text string
}

// Error implements error.
func (f *failure) Error() string {
	return "scim: " + strconv.Itoa(f.status) + " " + f.scimType + ": " + f.text
}

// Kinds of SCIM's errors.
const (
	invalidFilter = "invalidFilter"
	invalidSyntax = "invalidSyntax"
	invalidPath   = "invalidPath"
	invalidValue  = "invalidValue"
	noTarget      = "noTarget"
	mutability    = "mutability"
	uniqueness    = "uniqueness"
)

func bad(scimType, text string) *failure { return &failure{http.StatusBadRequest, scimType, text} }

// ReasonMutability is the reason where what a provider may not change would change.
const ReasonMutability = "SCIM_MUTABILITY"

// errorBody is the body of an error.
func errorBody(status int, scimType, detail string) []byte {
	m := map[string]any{"schemas": []string{errorMessage}, "status": strconv.Itoa(status), "detail": strings.ToValidUTF8(detail, "\uFFFD")}
	if scimType != "" {
		m["scimType"] = scimType
	}
	body, _ := json.Marshal(m) // texts alone
	return body
}

// failureOf is what identity refused, as SCIM has it; nil where it is nothing that a provider is
// answered with.
func failureOf(err error) *failure {
	p := errs.PublicOf(err)
	text := inTheirWords(p)
	switch p.Kind { //nolint:exhaustive // the others are no answers
	case errs.Invalid:
		return bad(invalidValue, text)
	case errs.NotFound:
		return &failure{http.StatusNotFound, "", text}
	case errs.AlreadyExists:
		return &failure{http.StatusConflict, uniqueness, text}
	case errs.Conflict:
		return &failure{http.StatusConflict, "", text}
	case errs.Precondition, errs.Denied:
		if p.Reason == ReasonMutability {
			return bad(mutability, text)
		}
		return &failure{http.StatusForbidden, "", text}
	}
	return nil
}

// inTheirWords names fields as SCIM does.
func inTheirWords(p errs.Public) string {
	theirs := map[string]string{
		"login.name": "userName", "login.display_name": "displayName", "login.mail_address": "emails", "login.group_ids": "groups", "group.display_name": "displayName",
	}
	if len(p.Fields) == 0 {
		return p.Message
	}
	var all []string
	for _, f := range p.Fields {
		name, ok := theirs[f.Path]
		if !ok {
			name = f.Path
		}
		all = append(all, name+": "+f.Description)
	}
	return strings.Join(all, "; ")
}
