package activity

import (
	"encoding/json"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// why explains a piece of time: the reason, and of a person's pause the category that
// they gave for it, if they gave one.
type why struct {
	Reason usagev1.Reason
	Pause  string
}

func because(reason usagev1.Reason) why { return why{Reason: reason} }

// categorised is the form of a why with a category in the crash slot.
type categorised struct {
	Reason usagev1.Reason `json:"r"`
	Pause  string         `json:"p"`
}

// MarshalJSON implements json.Marshaler. Without a category it is the bare reason, as it
// was before there were categories, so that either release reads what the other wrote.
func (w why) MarshalJSON() ([]byte, error) {
	if w.Pause == "" {
		return json.Marshal(w.Reason)
	}
	return json.Marshal(categorised(w))
}

// UnmarshalJSON implements json.Unmarshaler.
func (w *why) UnmarshalJSON(data []byte) error {
	*w = why{}
	if len(data) == 0 || data[0] != '{' {
		return json.Unmarshal(data, &w.Reason)
	}
	return json.Unmarshal(data, (*categorised)(w))
}
