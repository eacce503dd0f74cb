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
	words := make(map[*change]bool)
	for i := range all {
		for n := range all[i] {
			c := &all[i][n]
			for _, value := range []*string{&c.Before, &c.After} {
				if text, ok := textOf(rows[i], all[i], *c, *value); ok {
					texts, into, words[c] = append(texts, text), append(into, value), true
				} else {
					*value = concealed(c.Field, *value)
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
		for n := range changes {
			c := changes[n]
			if words[&changes[n]] && c.Before == c.After && c.Before != sealed {
				continue
			}
			c.Field = strings.TrimPrefix(c.Field, sealedField)
			kept = append(kept, c)
		}
		all[i] = kept
	}
	return nil
}

// isSealed tells whether a field holds what is sealed. What others hold is never taken for it: it may
// be somebody's choice.
func isSealed(field string) bool {
	return strings.HasPrefix(field[strings.LastIndexByte(field, '.')+1:], "sealed")
}

// concealed is a recorded value with all that stands sealed in it shown as that.
func concealed(field, value string) string {
	if !strings.Contains(value, sealedValue) {
		return value
	}
	decoder := json.NewDecoder(strings.NewReader(value))
	decoder.UseNumber() // as they were written
	var parts any
	if decoder.Decode(&parts) != nil {
		return value
	}
	shown, err := json.Marshal(conceal(field, parts))
	if err != nil {
		return value
	}
	return string(shown)
}

func conceal(field string, value any) any {
	switch value := value.(type) {
	case string:
		if isSealed(field) && strings.HasPrefix(value, sealedValue) {
			return json.RawMessage(sealed)
		}
	case []any:
		for i, one := range value {
			value[i] = conceal(field, one)
		}
	case map[string]any:
		for path, one := range value {
			value[path] = conceal(path, one)
		}
	}
	return value
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
func textOf(of row, changes []change, c change, value string) (keyring.Text, bool) {
	what, ok := strings.CutPrefix(c.Field, sealedField)
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
		for _, about := range changes {
			if about.Field == "login_id" {
				owner = strings.Trim(about.After, `"`)
			}
		}
	case "savedreport":
		what, owner = "saved_report", ""
		for _, about := range changes {
			if about.Field == "owner_login_id" {
				owner = strings.Trim(about.After, `"`)
			}
		}
	default:
		return keyring.Text{}, false
	}
	login, err := contract.ParseID(owner)
	return keyring.Text{Principal: login, What: what, Sealed: b}, err == nil
}
