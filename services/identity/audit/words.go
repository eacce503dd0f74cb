package audit

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/keyring"
)

// sealedField begins the name of a field whose value is sealed.
const sealedField = "sealed_"

// openWords opens the words of logins in the changes of entries: what they and their keys are
// called, and where their mail goes. What nobody can open any more, and what is not theirs, is
// shown as sealed. A word that was sealed anew and is the same has not changed.
func (s *Service) openWords(ctx context.Context, account contract.ID, rows []row, all [][]change) error {
	var texts []keyring.Text
	var into []*string
	for i := range all {
		for n := range all[i] {
			c := &all[i][n]
			for _, value := range []*string{&c.Before, &c.After} {
				if text, ok := textOf(rows[i], all[i], c.Field, *value); ok {
					texts, into = append(texts, text), append(into, value)
				}
			}
		}
	}
	opened, err := s.keys.OpenTexts(ctx, account, texts)
	if err != nil {
		return err
	}
	for i, value := range into {
		*value = sealed
		if opened[i] != "" {
			shown, err := json.Marshal(opened[i])
			if err != nil {
				return err
			}
			*value = string(shown)
		}
	}
	for i, changes := range all {
		kept := changes[:0]
		for _, c := range changes {
			if c.Before == c.After && c.Before != sealed {
				continue
			}
			for _, value := range []*string{&c.Before, &c.After} {
				if _, closed := sealedBytes(*value); closed {
					*value = sealed
				}
			}
			c.Field = strings.TrimPrefix(c.Field, sealedField)
			kept = append(kept, c)
		}
		all[i] = kept
	}
	return nil
}

// sealedBytes are what a recorded value holds sealed.
func sealedBytes(value string) ([]byte, bool) {
	var text string
	if json.Unmarshal([]byte(value), &text) != nil {
		return nil, false
	}
	coded, ok := strings.CutPrefix(text, sealedValue)
	if !ok {
		return nil, false
	}
	b, err := base64.StdEncoding.DecodeString(coded)
	return b, err == nil
}

// textOf is a value as the keyring opens it; false where it is no word of a login.
func textOf(of row, changes []change, field, value string) (keyring.Text, bool) {
	what, ok := strings.CutPrefix(field, sealedField)
	if !ok {
		return keyring.Text{}, false
	}
	b, ok := sealedBytes(value)
	if !ok {
		return keyring.Text{}, false
	}
	owner := of.aggregateID
	switch of.aggregate {
	case "login":
	case "apikey":
		what, owner = "api_key", ""
		for _, c := range changes {
			if c.Field == "login_id" {
				owner = strings.Trim(c.After, `"`)
			}
		}
	default:
		return keyring.Text{}, false
	}
	login, err := contract.ParseID(owner)
	return keyring.Text{Principal: login, What: what, Sealed: b}, err == nil
}
